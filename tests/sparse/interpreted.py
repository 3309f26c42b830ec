"""Runs the Triton kernels in triton's interpreter, on the CPU, against float64; started by test_backends."""

import copy
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from torch import nn  # noqa: E402

from gap3d_app.sparse import norms, resample  # noqa: E402
from gap3d_app.sparse.conv import NativeBackend, SparseConv3d, TritonBackend, neighbour_map  # noqa: E402
from gap3d_app.sparse.tap_plan import BLOCKS, TapPlan  # noqa: E402
from gap3d_app.sparse.tensor import SparseTensor  # noqa: E402
from gap3d_app.sparse.triton_bag import sum_rows  # noqa: E402
from gap3d_app.sparse.triton_conv import TILES, launch, planned_matmul  # noqa: E402
from gap3d_app.sparse.triton_gather import gather_rows  # noqa: E402
from gap3d_app.sparse.triton_norm import ROWS, STEPS, applies, group_norm_silu  # noqa: E402
from tests.sparse.plans import check_plan, random_map  # noqa: E402
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
    plans = {block: TapPlan(neighbour_map(x.sites), block=block) for block in BLOCKS}
    for tile in TILES:
        if channels % tile.channels == 0:
            out = torch.full((len(x), outputs), float("nan"), dtype=torch.float16)
            launch(tile, x.feats, layer.conv.weight.flatten(1, 3), plans[tile.rows], layer.conv.bias, out)
            assert relative(out, exact) < 1e-3, tile


def check_plans() -> None:
    """One group and several, codes of 16 bits and of 32, rows that fill tiles and do not, taps that no row has."""
    assert {tile.rows for tile in TILES} == set(BLOCKS)
    for rows, width in ((300, 27), (256, 27), (1, 27), (0, 27), (70, 8)):
        check_plan(random_map(rows, width, 0.5))
    for rows, width, groups, k in ((129, 27, 2, 27), (200, 27, 8, 8), (70, 14, 4, 14), (65, 31, 1, 31), (5, 3, 2, 1)):
        columns = torch.stack([torch.randperm(width)[:k] for _ in range(groups)])
        check_plan(random_map(rows, width, 0.9).t().contiguous().t(), columns)
    for absent in (0.0, 1.0):
        check_plan(random_map(130, 27, absent))
        check_plan(random_map(128, 8, absent), torch.arange(8).view(1, 8).repeat(3, 1))
    neighbours = neighbour_map(SparseTensor(torch.zeros(500, 1), shell(500)).sites)
    check_plan(neighbours)
    check_plan(neighbours, resample._near_parents(neighbours.device))


def check_groups() -> None:
    """Three groups with taps and weights of their own."""
    groups, rows, taps = 3, 70, 8
    x, weight = torch.randn(rows, 32).half(), torch.randn(24, groups * taps, 32).half()
    neighbours, columns = random_map(rows, 11, 0.3), torch.randint(0, 11, (groups, taps))
    padded = torch.cat([x.double(), torch.zeros(1, 32, dtype=torch.float64)])
    gathered = padded[neighbours[:, columns]]  # [rows, groups, taps, 32]
    exact = torch.einsum("tgkc,ogkc->tgo", gathered, weight.double().view(24, groups, taps, 32)).flatten(0, 1)
    out = planned_matmul(x, weight, TapPlan(neighbours, columns))
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


def check_norm(rows: int, channels: int, groups: int, mean: float, dtype: torch.dtype, tolerance: float) -> None:
    """Group norm and SiLU, deviation 1/2 about a mean that every column has its own of."""
    x = (mean * (1 + 0.02 * torch.randn(channels)) + 0.5 * torch.randn(rows, channels)).to(dtype)
    layers = nn.Sequential(norms.SparseGroupNorm32(groups, channels), norms.SparseSiLU())
    layers[0].weight.normal_()
    layers[0].bias.normal_()
    exact = x.double().t()[None]
    weight, bias = layers[0].weight.double(), layers[0].bias.double()
    exact = nn.functional.silu(nn.functional.group_norm(exact, groups, weight, bias))[0].t()
    out = group_norm_silu(x, groups, layers[0].weight, layers[0].bias, 1e-5)
    assert out.dtype == dtype and relative(out, exact) < tolerance, (rows, channels, mean, relative(out, exact))
    layers[0].fused = True
    sites = torch.zeros(rows, 4, dtype=torch.int32)
    assert torch.equal(norms.norm_silu(layers, SparseTensor(x, sites)).feats, out)


def check_norms() -> None:
    """Rows that fill blocks and do not, channels that fill tiles and do not, means far from zero."""
    half, single = (torch.float16, 5e-4), (torch.float32, 1e-5)
    block = ROWS * STEPS
    for dtype, tolerance in (half, single, (torch.bfloat16, 4e-3)):
        check_norm(2 * block + 45, 96, 32, 0.0, dtype, tolerance)
    for dtype, tolerance in (half, single):
        check_norm(3 * block - 1, 192, 32, 50.0, dtype, tolerance)
    check_norm(block, 768, 32, 50.0, *half)
    check_norm(5, 20, 4, -3.0, *half)
    check_norm(1, 6, 2, 1.0, *half)
    check_norm(5 * block + 9, 520, 1, 50.0, *half)  # more blocks than are added at a time
    x, weight = torch.randn(4, 8).half(), torch.ones(8)
    assert applies(x, weight, 2)
    assert not applies(x[:0], weight, 2) and not applies(x.double(), weight, 2)
    with torch.enable_grad():
        assert not applies(x, weight.requires_grad_(), 2)


def check_gather(rows: int, channels: int, count: int) -> None:
    """Rows by number, absent ones among them, in both integer types; into a tensor that holds something else."""
    x = torch.randn(rows, channels).half()
    index = torch.randint(rows + 1, (count,))
    exact = torch.cat([x, torch.zeros(1, channels).half()])[index]
    assert torch.equal(gather_rows(x, index), exact)
    out = torch.full_like(exact, float("nan"))
    assert gather_rows(x.t().contiguous().t(), index.int(), out=out) is out and torch.equal(out, exact)


def check_sums(rows: int, channels: int, counts: list[int]) -> None:
    """Sums of many rows, of few and of none; the bias is added before the result is rounded. And as pooling does."""
    x, bias = torch.randn(rows, channels).half(), torch.randn(channels).half()
    counts = torch.tensor(counts, dtype=torch.int32)
    index = torch.randint(rows, (int(counts.sum()),), dtype=torch.int32)
    starts = (counts.cumsum(0) - counts).int()
    sums = nn.functional.embedding_bag(index, x.double(), starts, mode="sum")
    pooled = sums / (counts + 1)[:, None]
    for exact, out in (
        (sums + bias.double(), sum_rows(x, index, starts, bias)),
        (pooled, sum_rows(x, index, starts, None, pooled=True)),
    ):
        assert out.dtype == x.dtype and relative(out, exact) < 5e-4, (rows, channels, relative(out, exact))


def check_children() -> None:
    """Every fine row once, those of a parent side by side and in their order."""
    sites = SparseTensor(torch.zeros(500, 1), shell(500)).sites
    coarse, parent = resample.pooled_sites(sites)
    order, starts = resample._children(coarse, 2)
    assert order.dtype == starts.dtype == torch.int32
    ends = [*starts[1:].tolist(), len(order)]
    for row, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        assert torch.equal(order[start:end].long(), (parent == row).nonzero()[:, 0]), row


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        check_children()
        check_convolution(64, 40)
        check_convolution(32, 136)
        check_plans()
        check_groups()
        check_subdivision()
        check_norms()
        for rows, channels, count in ((50, 32, 700), (9, 8, 1), (40, 200, 65), (5, 3, 0)):
            check_gather(rows, channels, count)
        check_sums(50, 128, torch.randint(1, 28, (77,)).tolist())
        check_sums(9, 20, [3, 0, 27, 1, 0])
        check_sums(40, 200, [5])
    print("equal")
