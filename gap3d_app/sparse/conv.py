"""Submanifold convolution: one interface; a native torch backend, a Triton kernel and spconv behind it.

The native backend is what the others must equal. It gathers the 27 neighbours of a chunk of voxels into a
buffer that fits the processor's cache and multiplies it once; the backward pass is the same operation with the
mirrored neighbour map, so nothing is ever scattered. Neighbour maps are cached in `Sites`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gap3d_app.kernels import kernel_module, triton_runs
from gap3d_app.sparse.tensor import Sites, SparseTensor, row_major

if TYPE_CHECKING:
    from gap3d_app.sparse.tap_plan import TapPlan

CPU_CHUNK_BYTES = 4 << 20
CUDA_CHUNK_BYTES = 1 << 30
DENSE_TABLE_CELLS = 1 << 26
"""Grids up to this many cells are looked up in a table, larger ones by binary search."""


def neighbour_map(sites: Sites) -> Tensor:
    """[T, 27] int32: row of the neighbour at offset (i-1, j-1, k-1) in column 9i + 3j + k; T for none."""
    return sites.cached("neighbours", lambda: _find_neighbours(sites))


def _find_neighbours(sites: Sites) -> Tensor:
    rows, device = len(sites), sites.coords.device
    if rows == 0:
        return torch.zeros(0, 27, dtype=torch.int32, device=device)
    # A margin of one voxel on every side keeps neighbours from wrapping into another row of the grid.
    size_x, size_y, size_z = sizes = [v + 2 for v in sites.extent]
    key = row_major(sites.coords.long(), sizes) + ((size_y + 1) * size_z + 1)
    # Made on the host, since on a GPU every one of these sums would be a launch.
    step = torch.arange(-1, 2)
    offsets = ((step[:, None, None] * size_y + step[:, None]) * size_z + step).reshape(-1)
    wanted = key[:, None] + offsets.to(device)
    cells = sites.batch_size * size_x * size_y * size_z
    if cells <= DENSE_TABLE_CELLS:
        table = torch.full((cells,), rows, dtype=torch.int32, device=device)
        table[key] = torch.arange(rows, dtype=torch.int32, device=device)
        return table[wanted]
    ordered, order = key.sort()
    at = torch.searchsorted(ordered, wanted).clamp(max=rows - 1)
    return torch.where(ordered[at] == wanted, order[at], rows).int()


class _GatherMatmul(torch.autograd.Function):
    """y[p] = sum_k x[forward_map[p, k]] @ weight[k]; a map entry equal to the number of rows means zero.

    `backward_map[q, k]` is the row p with forward_map[p, k] == q (unique for neighbour maps), or T.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, forward_map: Tensor, backward_map: Tensor) -> Tensor:
        return _gather_matmul(x, weight.flatten(0, 1), forward_map)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, forward_map, backward_map = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _gather_matmul(grad, weight.transpose(1, 2).flatten(0, 1), backward_map)
        if ctx.needs_input_grad[1]:
            grad_weight = _gather_outer(x, grad, forward_map).view_as(weight)
        return grad_x, grad_weight, None, None


def row_gather(x: Tensor) -> Callable[..., Tensor]:
    """What takes rows of `x` [N, C] by number [M] (and where to write them, [M, C], if wanted); zeros for number N."""
    kernel = kernel_module("gap3d_app.sparse.triton_gather") if x.is_cuda else None
    if kernel is not None:
        return partial(kernel.gather_rows, x)
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return lambda index, out=None: torch.index_select(padded, 0, index, out=out)


def _chunk_rows(x: Tensor, taps: int) -> int:
    budget = CPU_CHUNK_BYTES if x.device.type == "cpu" else CUDA_CHUNK_BYTES
    return max(64, budget // (taps * x.shape[1] * x.element_size()))


def _gather_matmul(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """[N, C], [K*C, O], [T, K] -> [T, O]."""
    rows, taps = index.shape
    gather, chunk = row_gather(x), _chunk_rows(x, taps)
    if rows <= chunk:
        return gather(index.reshape(-1)).view(rows, weight.shape[0]) @ weight
    out = x.new_empty(rows, weight.shape[1])
    buffer = x.new_empty(chunk * taps, x.shape[1])
    for start in range(0, rows, chunk):
        part = index[start : start + chunk].reshape(-1)
        taken = gather(part, out=buffer[: part.shape[0]])
        torch.mm(taken.view(part.shape[0] // taps, -1), weight, out=out[start : start + chunk])
    return out


def _gather_outer(x: Tensor, grad: Tensor, index: Tensor) -> Tensor:
    """Gradient of the weight: [N, C], [T, O], [T, K] -> [K*C, O]."""
    rows, taps = index.shape
    gather, chunk = row_gather(x), _chunk_rows(x, taps)
    out = grad.new_zeros(taps * x.shape[1], grad.shape[1])
    for start in range(0, rows, chunk):
        part = index[start : start + chunk]
        taken = gather(part.reshape(-1)).view(part.shape[0], -1)
        out.addmm_(taken.t(), grad[start : start + chunk])
    return out


def gather_matmul(x: Tensor, weight: Tensor, forward_map: Tensor, backward_map: Callable[[], Tensor]) -> Tensor:
    """y[p] = sum_k x[forward_map[p, k]] @ weight[k], differentiable in `x` and `weight`.

    Args:
        x: [N, C].
        weight: [K, C, O].
        forward_map: [T, K] int32 or int64 rows of `x`, N for none.
        backward_map: gives [N, K], the inverse of `forward_map` for every k, T for none; asked for when
            gradients may be wanted.
    """
    x, weight = in_autocast_dtype(x, weight)
    if not torch.is_grad_enabled():
        return _gather_matmul(x, weight.flatten(0, 1), forward_map)
    return _GatherMatmul.apply(x, weight, forward_map, backward_map())


def in_autocast_dtype(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of the autocast region, if the call is inside one."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        return x.to(dtype), weight.to(dtype)
    return x, weight


class NativeBackend:
    """Submanifold 3x3x3 convolution in plain torch, on any device."""

    def __call__(self, x: SparseTensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x.feats [T, C], weight [O, 3, 3, 3, C], bias [O] -> [T, O]."""
        forward_map = neighbour_map(x.sites)
        taps = weight.flatten(1, 3).permute(1, 2, 0)  # a view: the product takes it transposed
        # q is neighbour k of p exactly when p is neighbour 26 - k of q.
        out = gather_matmul(x.feats, taps, forward_map, lambda: mirrored_map(x.sites))
        return out if bias is None else out + bias


def mirrored_map(sites: Sites) -> Tensor:
    """[T, 27] int32: row of the voxel whose neighbour k is row q, at [q, k]; T for none."""
    return sites.cached("neighbours mirrored", lambda: neighbour_map(sites).flip(1))


class TritonBackend:
    """The same convolution by a Triton kernel for half precision without gradients, where it is measured faster.

    Everything else is left to `NativeBackend`.

    Raises:
        ImportError: triton is not installed.
    """

    def __init__(self) -> None:
        _ = self.kernel  # so that what is missing is missed now
        self.native = NativeBackend()

    @property
    def kernel(self) -> ModuleType:
        """`gap3d_app.sparse.triton_conv`; not an attribute, because layers with a module in them cannot be copied."""
        from gap3d_app.sparse import triton_conv

        return triton_conv

    def __call__(self, x: SparseTensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `NativeBackend`."""
        feats, cast = in_autocast_dtype(x.feats, weight)
        taps = cast.flatten(1, 3)

        def by_torch() -> Tensor:
            return self.native(x, weight, bias)

        if not self.kernel.applies(feats, taps, len(x)):
            return by_torch()
        return self.kernel.planned_matmul(feats, taps, self.plan(x.sites), bias, by_torch)

    def plan(self, sites: Sites) -> TapPlan:
        """The sites' neighbour map, ordered for the kernel."""
        return sites.cached("tap plan", lambda: self.kernel.TapPlan(neighbour_map(sites)))

    def children(
        self, x: SparseTensor, taps: Tensor, parents: Tensor, bias: Tensor | None, by_torch: Callable[[], Tensor]
    ) -> Tensor:
        """What the 8 children of every voxel sum up from its parent's neighbours, in one launch.

        Args:
            x: [T, C] features of the parents.
            taps: [O, 64, C] weights of the 8 neighbours of the first child, of the second, and so on.
            parents: [8 children, 8 neighbours] columns of the neighbour map of `x`.
            bias: [O].
            by_torch: makes the same where the kernel does not apply or is slower.

        Returns:
            [8 T, O], the children of a voxel in a row.
        """
        feats, taps = in_autocast_dtype(x.feats, taps)
        if not self.kernel.applies(feats, taps, 8 * len(x)):
            return by_torch()
        return self.kernel.planned_matmul(feats, taps, self.children_plan(x.sites, parents), bias, by_torch)

    def children_plan(self, sites: Sites, parents: Tensor) -> TapPlan:
        """The map of `children`, ordered for the kernel."""
        return sites.cached("children plan", lambda: self.kernel.TapPlan(neighbour_map(sites), parents))


class SpconvBackend:
    """The same convolution by spconv (CUDA; its CPU build races with several threads).

    The bias is added outside: spconv's CPU build raises on a bias in evaluation mode. Rulebooks are cached
    in the sites.

    Raises:
        ImportError: spconv is not installed.
    """

    def __init__(self) -> None:
        import spconv.pytorch

        self.spconv = spconv.pytorch
        self.layers: dict[tuple[int, int], nn.Module] = {}

    def __call__(self, x: SparseTensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out_channels, in_channels = weight.shape[0], weight.shape[-1]
        layer = self.layers.get((in_channels, out_channels))
        if layer is None:
            layer = self.spconv.SubMConv3d(in_channels, out_channels, 3, bias=False, indice_key="submanifold")
            del layer._parameters["weight"]
            layer.train()
            self.layers[in_channels, out_channels] = layer
        layer.weight = weight
        shape = [max(v, 1) for v in x.sites.extent]
        wrapped = self.spconv.SparseConvTensor(x.feats.contiguous(), x.coords, shape, x.batch_size)
        wrapped.indice_dict = x.sites.cached("spconv rulebooks", dict)
        out = layer(wrapped).features
        del layer.weight
        return out if bias is None else out + bias


Backend = NativeBackend | TritonBackend | SpconvBackend


def default_backend() -> Backend:
    """The fastest backend that this machine has: the Triton kernel with a CUDA device, else plain torch."""
    return TritonBackend() if triton_runs() else NativeBackend()


class SparseConv3d(nn.Module):
    """Submanifold convolution with the public key names `conv.weight` [O, k, k, k, C] and `conv.bias` [O].

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: 3 (trellis.md section 4.2), or 1, where the weight's memory is read as a row-major
            [C, O] matrix although its shape says [O, 1, 1, 1, C] (section 4.3).
        backend: what computes the 3x3x3 case; `default_backend()` if None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel size {kernel_size} is not supported; 1 and 3 are")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.backend = default_backend() if backend is None else backend
        self.conv = nn.Module()
        shape = (out_channels, kernel_size, kernel_size, kernel_size, in_channels)
        self.conv.weight = nn.Parameter(torch.empty(shape))
        self.conv.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(in_channels * kernel_size**3)
        nn.init.uniform_(self.conv.weight, -bound, bound)
        nn.init.uniform_(self.conv.bias, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[T, C] features -> [T, O] on the same sites."""
        weight, bias = self.conv.weight, self.conv.bias
        if self.kernel_size == 1:
            return x.replace(nn.functional.linear(x.feats, self.matrix, bias))
        return x.replace(self.backend(x, weight, bias))

    @property
    def matrix(self) -> Tensor:
        """[O, C] matrix that a 1x1x1 kernel multiplies by."""
        return self.conv.weight.reshape(self.in_channels, self.out_channels).t()
