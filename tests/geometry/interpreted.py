"""Runs the kernels of extraction in triton's interpreter, on the CPU, against torch; started by test_triton_cubes."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402

from gap3d_app.geometry import (  # noqa: E402
    blocks,
    flexicubes,
    lattice,
    solid,
    triton_blocks,
    triton_cubes,
    triton_flood,
    triton_lattice,
)
from gap3d_app.geometry.blocks import BlockGrid  # noqa: E402
from gap3d_app.geometry.flexicubes import average_corners, extract  # noqa: E402
from gap3d_app.geometry.solid import outside_by_runs  # noqa: E402
from tests.geometry.random_cubes import random_cubes  # noqa: E402
from tests.geometry.test_solid import hollow_box, maze, noise  # noqa: E402

KERNELS = {"blocks": triton_blocks, "lattice": triton_lattice, "cubes": triton_cubes, "flood": triton_flood}


def both(work) -> list[list[torch.Tensor]]:
    """What `work` returns with all kernels, with those of the blocks alone, and without."""
    found = []
    for names in (tuple(KERNELS), ("blocks", "flood"), ()):
        used = {f"gap3d_app.geometry.triton_{name}": KERNELS[name] for name in names}
        for module in (blocks, lattice, flexicubes, solid):
            module.kernel_module = used.get
        found.append([tensor for tensor in work() if tensor is not None])
    return found


def check(work) -> None:
    for *there, here in zip(*both(work), strict=True):
        for other in there:
            assert other.dtype == here.dtype and here.numel() and torch.equal(other, here)


def check_inside(coords: torch.Tensor, feats: torch.Tensor, resolution: int) -> None:
    """The kernel goes over all stored blocks, torch over the touched vertices."""
    check(lambda: [lattice.ActiveCubes(coords, feats, resolution).inside()])


def check_surface(coords: torch.Tensor, feats: torch.Tensor, resolution: int, solid: bool) -> None:
    def work() -> list[torch.Tensor | None]:
        result = extract(coords, feats, resolution, solid=solid)
        return [result.vertices, result.faces, result.vertex_attrs]

    check(work)


if __name__ == "__main__":
    for channels in (53, 101):
        for resolution, share in ((5, 0.6), (6, 1.0), (8, 0.1)):
            cubes = random_cubes(resolution, share, channels)
            check(lambda cubes=cubes, resolution=resolution: average_corners(*cubes, resolution))
            check_inside(*cubes, resolution)
            for flag in (False, True):
                check_surface(*cubes, resolution, flag)
    wide = torch.randn(len(cubes[1]), 128)[:, :101]  # rows of a wider tensor
    check_surface(cubes[0], wide, resolution, solid=False)
    blocks.kernel_module = lambda name: triton_blocks
    near, far = (BlockGrid(([0] * 3, [size] * 3), wide.device) for size in (8, 1500))
    assert triton_lattice.applies(wide, near) and not triton_lattice.applies(wide, far)
    assert not triton_lattice.applies(wide.double(), near)
    assert not triton_lattice.applies(wide.clone().requires_grad_(), near)
    for shape in (maze(), hollow_box(), noise(0.35), noise(0.6), noise(0.0), torch.ones(2, 3, 4, dtype=torch.bool)):
        assert triton_flood.applies(shape) and torch.equal(triton_flood.outside(shape), outside_by_runs(shape))
    print("equal")
