"""Sums of a modulated block's sub-layers with the norm and modulation after them as one Triton kernel; inference only.

A compiler makes the predictions of a guided step, which differ in what their condition adds, in passes that read both.
Here a program takes some rows of one sample. What it must equal are the functions of `gap3d_app.nn.modulated_norms`;
it rounds the sum and the result.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from gap3d_app.nn.triton_rms import sample_step

WIDEST = 4096
"""Channels of a row, at most."""

ROWS, WARPS = 2, 4
"""Of a program."""


@triton.jit
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
    x = rounded.to(tl.float32)
    x = tl.where(some[None, :], x - (tl.sum(x, axis=1) / channels)[:, None], 0.0)
    # Within compiled code numbers come as float64, and so would what they are added to.
    size = tl.rsqrt(tl.sum(x * x, axis=1) / channels + tl.cast(eps, tl.float32))
    scale = tl.load(scale_ptr + sample * scale_stride + channel, mask=some, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + sample * scale_stride + channel, mask=some, other=0.0).to(tl.float32)
    out = x * size[:, None] * (1.0 + scale)[None, :] + shift[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=there)


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
