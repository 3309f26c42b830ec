"""Runs the Triton kernel in triton's interpreter, on the CPU, against float64; started by test_backends."""

import copy
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402

from gap3d_app.sparse import resample  # noqa: E402
from gap3d_app.sparse.conv import NativeBackend, SparseConv3d, TritonBackend  # noqa: E402
from gap3d_app.sparse.tensor import SparseTensor  # noqa: E402
from gap3d_app.sparse.triton_conv import TILES, TapPlan, launch, planned_matmul  # noqa: E402
from tests.sparse.shells import shell  # noqa: E402


def relative(there: torch.Tensor, here: torch.Tensor) -> float:
    return ((there.double() - here).norm() / here.norm()).item()


def check_convolution(channels: int, outputs: int) -> None:
    """Every tile that divides the channels, and the backend as layers call it; two batch elements."""
    first, second = shell(150), shell(61)
    second[:, 0] = 1
    coords = torch.cat([first, second])
    x = SparseTensor(torch.randn(len(coords), channels).half(), coords)
    layer = SparseConv3d(channels, outputs, backend=NativeBackend()).half()
    exact = layer.double()(x.to(torch.float64)).feats
    layer.half().backend = TritonBackend()
    assert relative(copy.deepcopy(layer)(x).feats, exact) < 1e-3
    plan = layer.backend.plan(x.sites)
    for tile in TILES:
        if channels % tile.channels == 0:
            out = torch.full((len(x), outputs), float("nan"), dtype=torch.float16)
            taps = layer.conv.weight.permute(1, 2, 3, 4, 0).flatten(0, 2)
            launch(tile, x.feats, taps, plan, layer.conv.bias, out)
            assert relative(out, exact) < 1e-3, tile


def check_groups() -> None:
    """Rows of three groups, each with weights of its own, written in a given order."""
    groups, rows, taps = 3, 70, 8
    x, weight = torch.randn(50, 32).half(), torch.randn(groups * taps, 32, 24).half()
    index = torch.randint(0, 51, (groups, rows, taps))  # 50 stands for none
    place = torch.randperm(groups * rows).view(groups, rows)
    padded = torch.cat([x.double(), torch.zeros(1, 32, dtype=torch.float64)])
    exact = torch.empty(groups * rows, 24, dtype=torch.float64)
    for group in range(groups):
        part = weight[group * taps : (group + 1) * taps].double()
        exact[place[group]] = torch.einsum("tkc,kco->to", padded[index[group]], part)
    out = planned_matmul(x, weight, TapPlan(index, place, len(x)))
    assert relative(out, exact) < 1e-3


def check_subdivision() -> None:
    """The folded convolution of subdivided voxels, all children in one launch."""
    coords = shell(90)
    x = SparseTensor(torch.randn(len(coords), 32).half(), coords)
    layer = SparseConv3d(32, 24, backend=TritonBackend()).half()
    out = resample._subdivide_folded(x, layer)
    assert "children plan" in x.sites.cache
    exact = layer.double()(resample.SparseSubdivide()(SparseTensor(x.feats.double(), coords)))
    assert torch.equal(out.coords, exact.coords)
    assert relative(out.feats, exact.feats) < 2e-3


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        check_convolution(64, 40)
        check_convolution(32, 136)
        check_groups()
        check_subdivision()
    print("equal")
