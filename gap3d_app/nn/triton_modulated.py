"""Sums of a modulated block's sub-layers with the norm and modulation after them as Triton kernels; inference only.

A compiler makes the predictions of a guided step, which differ in what their condition adds, in passes that read both.
Here a program takes some rows of one sample. What it must equal are the functions of `gap3d_app.nn.modulated_norms`;
it rounds the sum and the result. A chain begins and ends with a norm alone, for which torch starts a block of threads
for every row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from gap3d_app.kernels import Launcher
from gap3d_app.nn.triton_rms import sample_step

WIDEST = 4096
"""Channels of a row, at most."""

ROWS, WARPS = 2, 4
"""Of a program."""

NORM_TILE = 2048
"""Values of a program that makes no sum, at least those of a row."""


@triton.jit
def _normed(x, some, channels, eps):
    """Rows [ROWS, WIDTH] float32 less their means, over their standard deviations."""
    x = tl.where(some[None, :], x - (tl.sum(x, axis=1) / channels)[:, None], 0.0)
    # Within compiled code numbers come as float64, and so would what they are added to.
    return x * tl.rsqrt(tl.sum(x * x, axis=1) / channels + tl.cast(eps, tl.float32))[:, None]


# Every asset has another number of voxels: kernels must not be compiled anew for what divides it.
@triton.jit(do_not_specialize=["tokens"])
def _kernel(
    x_ptr, other_ptr, y_ptr, constant_ptr, gate_ptr, shift_ptr, scale_ptr, sum_ptr, out_ptr,
    tokens, channels, given, constant_stride, gate_stride, scale_stride, eps,
    GATED: tl.constexpr, CONSTANT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    some = channel < channels
    there = (token < tokens)[:, None] & some[None, :]
    place = (sample * tokens + token)[:, None] * channels + channel[None, :]
    if GATED:
        total = tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + sample * gate_stride + channel, mask=some, other=0.0).to(tl.float32)
        total += gate[None, :] * tl.load(y_ptr + place, mask=there, other=0.0).to(tl.float32)
    else:
        # Of a sample under the constant nothing is read of the first operands, of others nothing of the second ones.
        known = sample < given
        total = tl.load(x_ptr + place, mask=there & known, other=0.0).to(tl.float32)
        total += tl.load(y_ptr + place, mask=there & known, other=0.0).to(tl.float32)
        if CONSTANT:
            beyond = place - given * tokens * channels
            total += tl.load(other_ptr + beyond, mask=there & (sample >= given), other=0.0).to(tl.float32)
            constant = constant_ptr + (sample - given) * constant_stride + channel
            total += tl.load(constant, mask=some & (sample >= given), other=0.0).to(tl.float32)[None, :]
    rounded = total.to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + place, rounded, mask=there)
    x = _normed(rounded.to(tl.float32), some, channels, eps)
    scale = tl.load(scale_ptr + sample * scale_stride + channel, mask=some, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + sample * scale_stride + channel, mask=some, other=0.0).to(tl.float32)
    out = x * (1.0 + scale)[None, :] + shift[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["tokens"])
def _norm_kernel(
    x_ptr, shift_ptr, scale_ptr, out_ptr, tokens, channels, scale_stride, eps,
    ROUNDED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    some = channel < channels
    there = (token < tokens)[:, None] & some[None, :]
    place = (sample * tokens + token)[:, None] * channels + channel[None, :]
    out = _normed(tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32), some, channels, eps)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + sample * scale_stride + channel, mask=some, other=0.0).to(tl.float32)
        out = out * (1.0 + scale)[None, :]
    if shift_ptr is not None:
        out += tl.load(shift_ptr + sample * scale_stride + channel, mask=some, other=0.0).to(tl.float32)[None, :]
    if ROUNDED:
        out = out.to(x_ptr.dtype.element_ty)
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=there)


_launch_norm = Launcher(_norm_kernel)


def modulated_norm(x: Tensor, norm: nn.LayerNorm, shift: Tensor | None, scale: Tensor) -> Tensor:
    """See `modulated_norms.modulated_norm`."""
    return _norm(x, norm, shift, scale, False, torch.empty_like(x, memory_format=torch.contiguous_format))


def last_norm(x: Tensor, norm: nn.LayerNorm, within: torch.dtype, dtype: torch.dtype) -> Tensor:
    """See `modulated_norms.last_norm`; `within` is the dtype of `x` or a wider one."""
    out = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    return _norm(x, norm, None, None, within == x.dtype, out)


def _norm(
    x: Tensor, norm: nn.LayerNorm, shift: Tensor | None, scale: Tensor | None, rounded: bool, out: Tensor
) -> Tensor:
    samples, tokens, channels = x.shape
    width = triton.next_power_of_2(channels)
    rows = max(1, NORM_TILE // width)
    step = 0 if scale is None else sample_step(scale)
    _launch_norm(
        (-(-tokens // rows), samples),
        (x.contiguous(), shift, scale, out, tokens, channels, step, norm.eps),
        {"ROUNDED": rounded, "ROWS": rows, "WIDTH": width},
        num_warps=WARPS,
    )
    return out


def gated_sum_norm(
    x: Tensor, y: Tensor, gate: Tensor, norm: nn.LayerNorm, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """See `modulated_norms.gated_sum_norm`."""
    return _launch([x], [y], gate, norm, shift, scale)


def joined_sum_norm(
    rows: list[Tensor], parts: list[Tensor], norm: nn.LayerNorm, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """See `modulated_norms.joined_sum_norm`."""
    return _launch(rows, parts, None, norm, shift, scale)


def joins(rows: list[Tensor], parts: list[Tensor]) -> bool:
    """Whether the kernel takes these parts: of one condition for every token, perhaps of another for all alike."""
    y, *others = parts
    alone = len(others) == 0 or (len(others) == 1 and others[0].shape[1] == 1)
    return y.shape == rows[0].shape and alone


def _launch(
    rows: list[Tensor], parts: list[Tensor], gate: Tensor | None, norm: nn.LayerNorm, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """(sum, modulated norm); what is not asked for is stood in for."""
    x, *other = (part.contiguous() for part in rows)
    y, *constant = (part.contiguous() for part in parts)
    samples, (tokens, channels) = len(x) * len(rows), x.shape[1:]
    total, out = (x.new_empty(samples, tokens, channels) for _ in range(2))
    other, gates = other[0] if len(other) else x, y if gate is None else gate
    first = constant[0] if len(constant) else y
    _kernel[((tokens + ROWS - 1) // ROWS, samples)](
        x, other, y, first, gates, shift, scale, total, out,
        tokens, channels, len(x), sample_step(first), sample_step(gates), sample_step(scale), norm.eps,
        GATED=gate is not None, CONSTANT=len(constant) > 0,
        ROWS=ROWS, WIDTH=1 << (channels - 1).bit_length(), num_warps=WARPS,
    )  # fmt: skip
    return total, out


def applies(x: Tensor, norm: nn.LayerNorm) -> bool:
    """Whether the kernel can take rows of `x` [B, N, C]: no gradient, not too wide; a norm without parameters."""
    return not torch.is_grad_enabled() and x.shape[2] <= WIDEST and norm.weight is None
