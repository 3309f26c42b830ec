"""The one attention of the package: dense token tensors and packed rows of unequal length alike.

A packed tensor [T, C] holds the tokens of several independent sets (batch elements, or windows of them).
`Segments` says which rows belong together; attention pads them to the longest set, so that one kernel call
serves all of them, and a mask hides the padding. Sets of equal length need neither padding nor mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.nn.attention_kernels import attend
from gap3d_app.nn.lt_products import applies, lt_linear
from gap3d_app.nn.norms import MultiHeadRMSNorm


class Padding(NamedTuple):
    """Where rows go when every set gets the same number of slots.

    Attributes:
        gather: [S * L] int64, the row in every slot (0 in empty slots).
        slots: [T] int64, the slot of every row.
        mask: [S, L] bool, True for slots that hold a row.
    """

    gather: Tensor
    slots: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Segments:
    """Which rows of a packed tensor form a set.

    Attributes:
        count: S, number of sets.
        length: L, slots per set (at least the size of the longest).
        rows: T.
        starts: [S + 1] int32, where each set begins among the rows sorted by set, and T; None when row s*L + i is
            row i of set s, for all sets of L rows.
        order: [T] int64, the rows sorted by set; None when they are so already.
        places: [T] int64, the inverse of `order`.
    """

    count: int
    length: int
    rows: int
    starts: Tensor | None = None
    order: Tensor | None = None
    places: Tensor | None = None

    @staticmethod
    def consecutive(lengths: list[int], device: torch.device) -> Segments:
        """Sets that are runs of consecutive rows, lengths known on the host."""
        if lengths and min(lengths) == max(lengths):
            return Segments(len(lengths), lengths[0], sum(lengths))
        return Segments._of_starts(np.cumsum([0, *lengths]), device)

    @staticmethod
    def grouped(keys: Tensor) -> Segments:
        """Sets of rows with the same key ([T] integers, in any order)."""
        ordered, order = torch.sort(keys, stable=True)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device)
        # The host must know the longest set, and has the rest done before a GPU has begun with it.
        changes = (ordered[1:] != ordered[:-1]).nonzero()[:, 0].cpu().numpy()
        return Segments._of_starts(np.concatenate([[0], changes + 1, [len(order)]]), keys.device, order, places)

    @staticmethod
    def _of_starts(
        starts: np.ndarray, device: torch.device, order: Tensor | None = None, places: Tensor | None = None
    ) -> Segments:
        longest = int(np.diff(starts).max())
        # Fused kernels want the key length to be a multiple of 8.
        length = -(-longest // 8) * 8 if device.type == "cuda" else longest
        on_device = torch.from_numpy(starts.astype(np.int32)).to(device)
        return Segments(len(starts) - 1, length, int(starts[-1]), on_device, order, places)

    @cached_property
    def padding(self) -> Padding | None:
        """Made when asked for: kernels of variable length do without. None when no slot is empty and none moves."""
        if self.starts is None:
            return None
        starts, device = self.starts.long(), self.starts.device
        sizes = starts.diff()
        group = torch.repeat_interleave(torch.arange(self.count, device=device), sizes, output_size=self.rows)
        row = torch.arange(self.rows, device=device)
        slots = group * self.length + row - starts[group]
        gather = torch.zeros(self.count * self.length, dtype=torch.int64, device=device)
        gather[slots] = row if self.order is None else self.order
        slot = torch.arange(self.length, device=device)
        # An empty set keeps one visible slot: a softmax over nothing would be NaN.
        mask = slot[None, :] < sizes.clamp(min=1)[:, None]
        return Padding(gather, slots if self.places is None else slots[self.places], mask)

    @property
    def mask(self) -> Tensor | None:
        """[S, L] bool, True for slots that hold a row; None when all do."""
        return None if self.padding is None else self.padding.mask

    def pad(self, x: Tensor) -> Tensor:
        """[T, ...] -> [S, L, ...]; empty slots hold some row and must be masked."""
        if self.padding is not None:
            x = permuted(x, self.padding.gather, self.padding.slots)
        return x.reshape(self.count, self.length, *x.shape[1:])

    def sorted(self, x: Tensor) -> Tensor:
        """Rows [T, ...] in the order of their sets."""
        return x if self.order is None else permuted(x, self.order, self.places)

    def unsorted(self, x: Tensor) -> Tensor:
        """Back from the order of the sets."""
        return x if self.order is None else permuted(x, self.places, self.order)

    def unpad(self, x: Tensor) -> Tensor:
        """[S, L, ...] -> [T, ...]."""
        x = x.reshape(self.count * self.length, *x.shape[2:])
        return x if self.padding is None else x.index_select(0, self.padding.slots)


class _Permute(torch.autograd.Function):
    """Row gather whose backward is a gather too (every row sits in exactly one unmasked slot).

    The default backward would scatter with atomics, and would add up gradients of empty slots.
    """

    @staticmethod
    def forward(x: Tensor, gather: Tensor, slots: Tensor) -> Tensor:
        return x.index_select(0, gather)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, grad: Tensor):
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


def permuted(x: Tensor, gather: Tensor, slots: Tensor) -> Tensor:
    """Rows `gather` of `x` [T, ...]; row t of `x` is row `slots[t]` of the result, whose gradient is gathered too."""
    if not torch.is_grad_enabled():
        return x.index_select(0, gather)  # torch takes ten times as long to come to it by the way below
    return _Permute.apply(x, gather, slots)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, kernel: str = "torch") -> Tensor:
    """Softmax attention with scale 1/sqrt(D).

    A fused kernel was faster than explicit products for every size of this package on CPU and CUDA.

    Args:
        q: [B, N, H, D].
        k: [B, M, H, D].
        v: [B, M, H, D].
        mask: [B, M] bool, True for keys that may be seen; None for all.
        kernel: which of `attention_kernels.KERNELS` to use without a mask.

    Returns:
        [B, N, H, D].
    """
    if mask is not None:
        mask = mask[:, None, None, :].expand(-1, q.shape[2], q.shape[1], -1)
    return attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, kernel).transpose(1, 2)


def packed_kernel_fits(q: Tensor, dtype: torch.dtype) -> bool:
    """Whether `packed_attention` takes such queries in `dtype`: half precision on CUDA."""
    return q.is_cuda and dtype in (torch.float16, torch.bfloat16) and q.shape[-1] % 8 == 0


def packed_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, context_segments: Segments | None) -> Tensor:
    """`attention` over sets of unequal length without padding (variable-length flash kernel of torch).

    Args:
        q: [T, H, D] rows of `segments`.
        k, v: [U, H, D] rows of `context_segments`, or, without, dense [S, M, H, D].

    Returns:
        [T, H, D].
    """
    q = segments.sorted(q)
    if context_segments is None:
        bounds = torch.arange(0, k.shape[0] + 1, dtype=torch.int32, device=k.device) * k.shape[1]
        longest = k.shape[1]
        k, v = k.flatten(0, 1), v.flatten(0, 1)
    else:
        bounds, longest = context_segments.starts, context_segments.length
        k, v = context_segments.sorted(k), context_segments.sorted(v)
    sets = (segments.starts, bounds, segments.length, longest)
    return segments.unsorted(_by_sets(q, k.to(q.dtype), v.to(q.dtype), *sets))


def _by_sets(q: Tensor, k: Tensor, v: Tensor, *sets: Tensor | int) -> Tensor:
    """Attention within runs of rows; `sets`: where those of queries and of keys begin, and their greatest lengths."""
    if q.is_cuda and not torch.is_grad_enabled():  # what the call below comes to, without a quarter of a millisecond
        return torch.ops.aten._flash_attention_forward(q, k, v, *sets, 0.0, False, return_debug_mask=False)[0]
    from torch.nn.attention.varlen import varlen_attn  # where torch has it: 2.10 and later

    return varlen_attn(q, k, v, *sets)


def rows_of_segments(values: Tensor, segments: Segments) -> Tensor:
    """Value of its set for every row: [S, K] -> [T, K], or [1, K] when one value serves all sets."""
    if values.shape[0] == 1:
        return values
    if segments.padding is None:
        return values.repeat_interleave(segments.length, 0)
    # Through a one-hot product the backward is a product too, not a scatter with atomics.
    owner = F.one_hot(segments.padding.slots // segments.length, segments.count).to(values.dtype)
    return owner @ values


def all_tokens_equal(context: Tensor) -> bool:
    """Whether every batch element of [B, M, D] repeats one token (waits for the device)."""
    return bool((context == context[:, :1]).all())


class PreparedContext(NamedTuple):
    """What a context contributes to a cross-attention, whatever the queries; see `MultiHeadAttention.prepare`.

    Attributes:
        keys, values: [B, M, H, D], the keys normalised already; None with `constant`.
        constant: [B, C] the attention's result, when it is the same for every query.
    """

    keys: Tensor | None
    values: Tensor | None
    constant: Tensor | None


class MultiHeadAttention(nn.Module):
    """Self- or cross-attention with fused projections (trellis.md section 2.6).

    Args:
        channels: C, a multiple of `num_heads`.
        num_heads: H.
        ctx_channels: channels of the context; None for self-attention.
        qk_rms_norm: normalise queries and keys per head.

    Attributes:
        kernel: which of `attention_kernels.KERNELS` to use without a mask.
        tuned: whether the algorithm of the product for queries, keys and values is chosen by measurement.
    """

    kernel, tuned = "torch", False

    def __init__(
        self, channels: int, num_heads: int, ctx_channels: int | None = None, qk_rms_norm: bool = False
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels cannot be split into {num_heads} heads")
        self.num_heads = num_heads
        self.cross = ctx_channels is not None
        if self.cross:
            self.to_q = nn.Linear(channels, channels)
            self.to_kv = nn.Linear(ctx_channels, 2 * channels)
        else:
            self.to_qkv = nn.Linear(channels, 3 * channels)
        if qk_rms_norm:
            self.q_rms_norm = MultiHeadRMSNorm(channels // num_heads, num_heads)
            self.k_rms_norm = MultiHeadRMSNorm(channels // num_heads, num_heads)
        else:
            self.q_rms_norm = self.k_rms_norm = nn.Identity()
        self.to_out = nn.Linear(channels, channels)

    def _kernel_norms(self, q: Tensor) -> bool:
        """Whether the attention's kernel normalises queries [B, N, H, D] itself, where it holds them anyway."""
        if self.kernel != "gluon" or not isinstance(self.q_rms_norm, MultiHeadRMSNorm):
            return False
        from gap3d_app.nn import gluon_attention  # not every machine has it

        return gluon_attention.applies(q)

    def prepare(self, context: Tensor, uniform: bool | None = None) -> PreparedContext:
        """The part of a cross-attention that depends on the context [B, M, D] alone.

        When the tokens of every batch element are equal (the null condition is all zeros), so are the keys; then
        the softmax is uniform, and every query gets the one value (performance.md 3.1.1).

        Args:
            uniform: what `all_tokens_equal(context)` says, for a caller that has asked already.
        """
        if all_tokens_equal(context) if uniform is None else uniform:
            value = self.to_kv(context[:, 0]).chunk(2, dim=-1)[1]
            return PreparedContext(None, None, self.to_out(value))
        keys, values = self._keys_values(context)
        return PreparedContext(keys.contiguous(), values.contiguous(), None)

    def _keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.to_kv(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return self.k_rms_norm(keys), values

    def forward(
        self,
        x: Tensor,
        context: Tensor | PreparedContext | None = None,
        segments: Segments | None = None,
        context_segments: Segments | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: [B, N, C], or packed [T, C] with `segments`.
            context: [B, M, D], or packed [U, D] with `context_segments`, or a `PreparedContext` with keys and
                values; None for self-attention.

        Returns:
            Shape of `x`.
        """
        heads = self.num_heads
        if self.cross:
            q = self.to_q(x).unflatten(-1, (heads, -1))
            k, v = context[:2] if isinstance(context, PreparedContext) else self._keys_values(context)
        else:
            tuned = self.tuned and applies(self.to_qkv, x)
            qkv = lt_linear(self.to_qkv, x) if tuned else self.to_qkv(x)
            q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(-3)
            k = self.k_rms_norm(k)
            context_segments = segments
        if segments is None and context_segments is None and self._kernel_norms(q):
            from gap3d_app.nn.gluon_attention import gluon_attention  # not every machine has it

            out = gluon_attention(*(part.transpose(1, 2) for part in (q, k, v)), self.q_rms_norm.gamma)
            return self.to_out(out.transpose(1, 2).flatten(-2))
        q, mask = self.q_rms_norm(q), None
        if segments is not None and segments.starts is not None and packed_kernel_fits(q, q.dtype):
            kv_sets = context_segments if k.ndim == 3 else None
            out = packed_attention(q, k, v, segments, kv_sets)
            return self.to_out(out.flatten(-2))
        if segments is not None:
            q = segments.pad(q)
        if context_segments is not None:
            k, v, mask = context_segments.pad(k), context_segments.pad(v), context_segments.mask
        out = attention(q, k, v, mask, self.kernel)
        if segments is not None:
            out = segments.unpad(out)
        return self.to_out(out.flatten(-2))
