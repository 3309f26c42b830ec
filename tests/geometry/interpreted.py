"""Runs the kernels of extraction in triton's interpreter, on the CPU, against torch; started by test_triton_cubes."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402

from gap3d_app.geometry import lattice, triton_cubes, triton_flood  # noqa: E402
from gap3d_app.geometry.flexicubes import average_corners, extract  # noqa: E402
from gap3d_app.geometry.solid import outside_by_runs  # noqa: E402
from tests.geometry.random_cubes import random_cubes  # noqa: E402
from tests.geometry.test_solid import hollow_box, maze, noise  # noqa: E402


def both(work) -> list[list[torch.Tensor]]:
    """What `work` returns with the kernels and without."""
    found = []
    for kernels in (triton_cubes, None):
        lattice.kernel_module = lambda name, kernels=kernels: kernels
        found.append([tensor for tensor in work() if tensor is not None])
    return found


def check(work) -> None:
    for there, here in zip(*both(work), strict=True):
        assert there.dtype == here.dtype and there.numel() and torch.equal(there, here)


def check_inside(coords: torch.Tensor, feats: torch.Tensor, resolution: int, beyond: bool) -> None:
    """The kernel goes over the whole box, torch over the touched vertices."""
    check(lambda: [lattice.ActiveCubes(coords, feats, resolution, beyond).inside()])


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
            for flag in (False, True):
                check_inside(*cubes, resolution, flag)
                check_surface(*cubes, resolution, flag)
    wide = torch.randn(len(cubes[1]), 128)[:, :101]  # rows of a wider tensor
    check_surface(cubes[0], wide, resolution, solid=False)
    assert not triton_cubes.applies(wide.double(), 100) and not triton_cubes.applies(wide, 1 << 28)
    assert not triton_cubes.applies(wide.clone().requires_grad_(), 100)
    for solid in (maze(), hollow_box(), noise(0.35), noise(0.6), noise(0.0), torch.ones(2, 3, 4, dtype=torch.bool)):
        assert triton_flood.applies(solid) and torch.equal(triton_flood.outside(solid), outside_by_runs(solid))
    print("equal")
