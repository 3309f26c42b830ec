"""Pooling, un-pooling and subdivision of sparse tensors (trellis.md sections 4.5 and 4.6)."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from weakref import ref

import torch
from torch import Tensor, nn

from gap3d_app.kernels import kernel_module, triton_fits
from gap3d_app.sparse.conv import SparseConv3d, TritonBackend, gather_matmul, mirrored_map, neighbour_map, row_gather
from gap3d_app.sparse.tensor import Sites, SparseTensor, row_major

PRODUCT_BYTES = 16 << 20
"""Size of the table of products in a convolution that multiplies before it gathers."""


class SparseDownsample(nn.Module):
    """Pools `factor`^3 voxels into one: the sum of the children over (their number + 1).

    The extra one is a trait of the public code (a mean that counts its zero start) that released weights
    depend on. Coarse sites are sorted by (batch, x, y, z).
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: SparseTensor) -> SparseTensor:
        coarse, parent = pooled_sites(x.sites, self.factor)
        kernel = _row_sums(x.feats)
        if kernel is not None:
            children = _children(coarse, self.factor)
            return SparseTensor(kernel.sum_rows(x.feats, *children, bias=None, pooled=True), sites=coarse)
        weight = coarse.cached(
            ("pool weight", self.factor), lambda: 1.0 / (torch.bincount(parent, minlength=len(coarse)) + 1)
        )
        feats = x.feats.to(torch.promote_types(x.dtype, torch.float32))
        total = feats.new_zeros(len(coarse), feats.shape[1]).index_add(0, parent, feats)
        return SparseTensor((total * weight[:, None]).to(x.dtype), sites=coarse)


class SparseUpsample(nn.Module):
    """Copies every coarse feature to the fine voxels it was pooled from, in their original order."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: SparseTensor) -> SparseTensor:
        fine, parent = _pooled_from(x.sites, self.factor)
        return SparseTensor(x.feats.index_select(0, parent), sites=fine)


def unpooled_conv(x: SparseTensor, conv: SparseConv3d, factor: int = 2) -> SparseTensor:
    """`conv(SparseUpsample(factor)(x))` for a 3x3x3 kernel at a fraction of its cost.

    The features are multiplied by all 27 taps while there is one row per coarse voxel; a fine voxel then adds
    up the products of its neighbours' parents. A kernel as wide as the coarse features costs a fifth of the
    product at the fine rows, and the sums run over the few output channels.
    """
    fine, parent = _pooled_from(x.sites, factor)
    index, starts = unpooled_products(x.sites, factor)
    out_channels, in_channels = conv.out_channels, conv.in_channels
    # Whole rows are copied, and the product takes them transposed: single values would be copied far slower.
    taps = conv.conv.weight.reshape(out_channels, 27, in_channels).transpose(0, 1).reshape(-1, in_channels)
    products = (x.feats @ taps.t()).view(-1, out_channels)
    bias = conv.conv.bias
    if torch.is_grad_enabled():
        feats = _SumOfProducts.apply(products, index, starts, mirrored_map(fine), parent) + bias
    else:
        feats = _sum_of_products(products, index, starts, bias)
    return SparseTensor(feats, sites=fine)


def _sum_of_products(products: Tensor, index: Tensor, starts: Tensor, bias: Tensor) -> Tensor:
    """See `_SumOfProducts`; plus the bias, and without gradients."""
    kernel = _row_sums(products, bias)
    if kernel is not None:
        return kernel.sum_rows(products, index, starts, bias)
    return nn.functional.embedding_bag(index, products, starts, mode="sum") + bias


def _row_sums(x: Tensor, bias: Tensor | None = None) -> ModuleType | None:
    """The module of the kernel that sums such rows, if it can."""
    kernel = kernel_module("gap3d_app.sparse.triton_bag", triton_fits) if x.is_cuda else None
    return kernel if kernel is not None and kernel.applies(x, bias) else None


def _children(coarse: Sites, factor: int) -> tuple[Tensor, Tensor]:
    """The fine rows [T] int32 by parent, and where those of every coarse row begin [T'] int32."""

    def make() -> tuple[Tensor, Tensor]:
        _, parent = _pooled_from(coarse, factor)
        ordered, order = parent.int().sort(stable=True)  # in a fixed order the same rows give the same sums
        starts = torch.searchsorted(ordered, torch.arange(len(coarse), dtype=torch.int32, device=parent.device))
        return order.int(), starts.int()

    return coarse.cached(("children", factor), make)


def unpooled_products(coarse: Sites, factor: int = 2) -> tuple[Tensor, Tensor]:
    """Which products make up the fine voxels of `unpooled_conv`: numbers [P] and each voxel's first one [T] int32."""

    def make() -> tuple[Tensor, Tensor]:
        fine, parent = _pooled_from(coarse, factor)
        neighbours = neighbour_map(fine)
        there = neighbours < len(fine)
        taps = torch.arange(27, device=parent.device)
        product = parent[neighbours.clamp(max=max(len(fine) - 1, 0))] * 27 + taps
        counts = there.sum(1)
        return product[there].int(), (counts.cumsum(0) - counts).int()

    return coarse.cached(("unpooled products", factor), make)


class _SumOfProducts(torch.autograd.Function):
    """Row p of the result is the sum of the products `index[starts[p]:starts[p + 1]]`.

    Product (c, k) is part of row p exactly when neighbour k of p is a child of c; the backward pass collects these
    rows child by child, through the mirrored map, instead of scattering single rows.
    """

    @staticmethod
    def forward(products: Tensor, index: Tensor, starts: Tensor, mirrored: Tensor, parent: Tensor) -> Tensor:
        return nn.functional.embedding_bag(index, products, starts, mode="sum")

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        products, _, _, mirrored, parent = inputs
        ctx.coarse_rows = products.shape[0] // 27
        ctx.save_for_backward(mirrored, parent)

    @staticmethod
    def backward(ctx, grad: Tensor):
        mirrored, parent = ctx.saved_tensors
        per_child = row_gather(grad)(mirrored.reshape(-1)).view(len(parent), -1)
        total = per_child.new_zeros(ctx.coarse_rows, per_child.shape[1]).index_add_(0, parent, per_child)
        return total.view(-1, grad.shape[1]), None, None, None, None


def _pooled_from(sites: Sites, factor: int) -> tuple[Sites, Tensor]:
    fine, parent = sites.cache.get(("pooled from", factor), (None, None))
    if fine is None or fine() is None:
        raise ValueError("these voxels were not pooled, or from voxels that are gone: there is nothing to return to")
    return fine(), parent


def pooled_sites(sites: Sites, factor: int = 2) -> tuple[Sites, Tensor]:
    """The coarse sites and, for every fine row, the row of its parent [T] int64."""
    return sites.cached(("pooled", factor), lambda: _pool(sites, factor))


def _pool(sites: Sites, factor: int) -> tuple[Sites, Tensor]:
    cell = sites.coords.clone()
    cell[:, 1:] //= factor
    key = row_major(cell.long(), [(v - 1) // factor + 1 for v in sites.extent])
    unique, parent = torch.unique(key, return_inverse=True)
    coords = cell.new_empty(len(unique), 4)
    coords[parent] = cell  # whichever child comes last: all say the same
    lengths = [len(unique)] if sites.batch_size == 1 else None
    coarse = Sites(coords, lengths, sites.batch_size)
    coarse.cache["bounds"] = tuple([v // factor for v in end] for end in sites.bounds)
    # Fine sites own their coarse ones. Were it mutual, the maps of both would stay in memory, after every asset and
    # every training step, until Python happens to look for cycles.
    coarse.cache["pooled from", factor] = (ref(sites), parent)
    return coarse, parent


class SparseSubdivide(nn.Module):
    """Every voxel becomes 8 consecutive ones at twice the resolution, features copied."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return SparseTensor(x.feats.repeat_interleave(8, 0), sites=subdivided_sites(x.sites))


def subdivided_sites(sites: Sites) -> Sites:
    """Sites (b, 2x+i, 2y+j, 2z+k), i slowest; with a neighbour map if the coarse sites have one."""

    def make() -> Sites:
        scale, child = _child_places(sites.coords.device)
        fine = Sites((sites.coords[:, None] * scale + child).reshape(-1, 4), [8 * n for n in sites.lengths])
        low, high = sites.bounds
        fine.cache["bounds"] = [2 * v for v in low], [2 * v + 1 for v in high]
        return fine

    fine = sites.cached("subdivided", make)
    if "neighbours" in sites.cache and "neighbours" not in fine.cache:
        fine.cache["neighbours"] = _fine_neighbours(neighbour_map(sites))
    return fine


@cache
@torch.inference_mode(False)
def _child_places(device: torch.device) -> tuple[Tensor, Tensor]:
    """Factors [4] of a voxel's (batch, x, y, z) and what its children [8, 4] add to it, int32."""
    axis = torch.arange(2, dtype=torch.int32)
    child = torch.nn.functional.pad(torch.cartesian_prod(axis, axis, axis), (1, 0))
    return torch.tensor([1, 2, 2, 2], dtype=torch.int32).to(device), child.to(device)


def _fine_neighbours(coarse: Tensor) -> Tensor:
    """Neighbour map after subdivision: the neighbour of a child is a child of a neighbour of its parent."""
    step, half = _child_neighbours(coarse.device)
    # One pass over the large map after the other, in place: fresh memory costs more than the arithmetic.
    fine = (coarse * 8).index_select(1, step).add_(half).clamp_(max=8 * coarse.shape[0])
    return fine.view(-1, 27)


@cache
@torch.inference_mode(False)
def _child_neighbours(device: torch.device) -> tuple[Tensor, Tensor]:
    """For child c and tap k, at 27c + k: which neighbour of the parent, and which child of it [216] int32."""
    # Per axis: child 0 or 1 moved by -1, 0, 1 lands in the parent's neighbour `step` as child `half`.
    axis = torch.arange(3, dtype=torch.int32)
    target = axis[:2, None] + axis - 1
    step, half = target.div(2, rounding_mode="floor") + 1, target % 2
    return _outer3(step, 3).reshape(-1).to(device), _outer3(half, 2).reshape(-1).to(device)


def _outer3(table: Tensor, base: int) -> Tensor:
    """[2, n] digits per axis -> [8, n^3] numbers in `base`: children by combinations of columns."""
    n = table.shape[1]
    x, y, z = (table.view(shape) for shape in ((2, 1, 1, n, 1, 1), (1, 2, 1, 1, n, 1), (1, 1, 2, 1, 1, n)))
    return ((x * base + y) * base + z).reshape(8, n**3)


def subdivide_conv(x: SparseTensor, conv: SparseConv3d) -> SparseTensor:
    """`conv(SparseSubdivide()(x))` for a 3x3x3 kernel at a fraction of its cost, without the copies."""
    if len(x) and x.device.type == "cpu" and not torch.is_grad_enabled():
        return _subdivide_products(x, conv)
    return _subdivide_folded(x, conv)


def _subdivide_products(x: SparseTensor, conv: SparseConv3d) -> SparseTensor:
    """Multiplies the coarse rows by all taps, then adds up 27 products per child: 1/8 of the cost; no gradient.

    The products are made for as many output channels at a time as fit `PRODUCT_BYTES`.
    """
    rows, outs = len(x), conv.out_channels
    step, _ = _child_neighbours(x.device)
    taps = torch.arange(27, dtype=torch.int32, device=x.device).repeat(8)
    index = (neighbour_map(x.sites) * 27).index_select(1, step).add_(taps).view(rows * 8, 27)
    weight = conv.conv.weight.reshape(outs, 27, -1)
    feats = x.feats.new_empty(rows * 8, outs)
    width = min(outs, max(8, PRODUCT_BYTES // (27 * rows * x.feats.element_size()) // 8 * 8))
    buffer = x.feats.new_zeros((rows + 1) * 27 * width)  # the last 27 rows stand for absent neighbours
    for start in range(0, outs, width):
        part = weight[start : start + width]
        count = len(part)
        products = buffer[: (rows + 1) * 27 * count].view(-1, count)
        matrix = part.permute(2, 1, 0).reshape(-1, 27 * count).to(x.dtype)
        torch.mm(x.feats, matrix, out=products[: rows * 27].view(rows, -1))
        products[rows * 27 :] = 0
        total = nn.functional.embedding_bag(index, products, mode="sum")
        torch.add(total, conv.conv.bias[start : start + count], out=feats[:, start : start + count])
    return SparseTensor(feats, sites=subdivided_sites(x.sites))


def _subdivide_folded(x: SparseTensor, conv: SparseConv3d) -> SparseTensor:
    """Folds the kernel: 8/27 of the cost, differentiable.

    The copies of a voxel are equal, so the 27 neighbours of a child hold only 2x2x2 different features: those
    of its parent's neighbours. The kernel entries that meet the same one are summed beforehand.
    """
    rows = len(x)
    coarse_map = neighbour_map(x.sites)
    fine = subdivided_sites(x.sites)
    device = coarse_map.device
    weight = conv.conv.weight.flatten(1, 3)  # [O, 27, C]
    near = _near_parents(device)
    taps = _fold(weight.device, weight.dtype) @ weight  # [O, 64, C]

    def by_torch() -> Tensor:
        children = []
        for child in range(8):
            forward, backward = x.sites.cached(
                ("child", child), lambda c=child: (coarse_map[:, near[c]], coarse_map[:, 26 - near[c]])
            )
            own = taps[:, 8 * child : 8 * child + 8].permute(1, 2, 0)
            children.append(gather_matmul(x.feats, own, forward, lambda b=backward: b))
        return torch.stack(children, dim=1).reshape(rows * 8, -1) + conv.conv.bias

    if isinstance(conv.backend, TritonBackend):
        feats = conv.backend.children(x, taps, near, conv.conv.bias, by_torch)
    else:
        feats = by_torch()
    return SparseTensor(feats, sites=fine)


@cache
@torch.inference_mode(False)
def _near_parents(device: torch.device) -> Tensor:
    """[8 children, 8 parents] columns of the coarse map."""
    halves = torch.arange(2)
    return _outer3(halves[:, None] + halves, 3).to(device)


def prepare_subdivision(sites: Sites, first: SparseConv3d, second: SparseConv3d) -> Sites:
    """Make what `subdivide_conv` by `first` and then `second` derive from the sites alone; returns the fine sites."""
    neighbour_map(sites)
    fine = subdivided_sites(sites)
    if isinstance(first.backend, TritonBackend):
        first.backend.children_plan(sites, _near_parents(sites.coords.device))
    if isinstance(second.backend, TritonBackend):
        second.backend.plan(fine)
    return fine


@cache
@torch.inference_mode(False)
def _fold(device: torch.device, dtype: torch.dtype) -> Tensor:
    """[64, 27] of 0 and 1: which entries of the kernel meet neighbour n of the parent, for child c, in row 8c + n."""
    # Per axis: a child 0 sees its parent's left neighbour through tap 0 and its parent through taps 1 and 2;
    # a child 1 sees its parent through taps 0 and 1 and the right neighbour through tap 2.
    axis = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
    return torch.einsum("iau,jbv,kcw->ijkabcuvw", axis, axis, axis).reshape(64, 27).to(device, dtype)
