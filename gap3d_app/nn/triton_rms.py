"""RMS norms of the GridDiT with what stands around them as one Triton kernel; inference only.

A compiler reads rows of 1,792 channels twice for every norm. Here a program takes some rows of a sample and holds them:
the gated sum with a normed sub-layer, the scaled norm that the next sub-layer reads, or both. Gains, gates and scales,
which those rows share, are read and put together once. What it must equal are the functions of
`gap3d_app.nn.grid_norms`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

WIDEST = 8192
"""Channels of a row, at most."""

ROWS, WARPS = 2, 8
"""Of a program."""


@triton.jit
def _kernel(
    x_ptr, y_ptr, gate_ptr, gain_ptr, sum_ptr, scale_ptr, next_gain_ptr, out_ptr,
    tokens, channels, gate_stride, scale_stride, eps, next_eps,
    GATED: tl.constexpr, NORMED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    some = channel < channels
    there = (token < tokens)[:, None] & some[None, :]
    place = (sample * tokens + token)[:, None] * channels + channel[None, :]
    x = tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32)
    # Within compiled code numbers come as float64, and so would what they are added to.
    if GATED:
        y = tl.load(y_ptr + place, mask=there, other=0.0).to(tl.float32)
        gain = tl.load(gain_ptr + channel, mask=some, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + sample * gate_stride + channel, mask=some, other=0.0).to(tl.float32)
        gain = (2.0 * tl.sigmoid(2.0 * gate) - 1.0) * gain
        size = tl.rsqrt(tl.sum(y * y, axis=1) / channels + tl.cast(eps, tl.float32))
        total = (x + y * size[:, None] * gain[None, :]).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + place, total, mask=there)
        x = total.to(tl.float32)
    if NORMED:
        gain = tl.load(next_gain_ptr + channel, mask=some, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + sample * scale_stride + channel, mask=some, other=0.0).to(tl.float32)
        gain = gain * (1.0 + scale)
        size = tl.rsqrt(tl.sum(x * x, axis=1) / channels + tl.cast(next_eps, tl.float32))
        tl.store(out_ptr + place, (x * size[:, None] * gain[None, :]).to(out_ptr.dtype.element_ty), mask=there)


def _launch(
    x: Tensor, gated: tuple[Tensor, Tensor, nn.RMSNorm] | None, normed: tuple[nn.RMSNorm, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """(sum, norm of it); x stands in for what is not asked for."""
    batch, tokens, channels = x.shape
    x = x.contiguous()
    y, gate, norm = gated or (x, x, None)
    following, scale = normed or (None, x)
    total = torch.empty_like(x) if gated else x
    out = torch.empty_like(x) if normed else x
    _kernel[((tokens + ROWS - 1) // ROWS, batch)](
        x, y.contiguous(), gate, norm.weight if gated else x, total, scale, following.weight if normed else x, out,
        tokens, channels, sample_step(gate), sample_step(scale),
        norm.eps if gated else 0.0, following.eps if normed else 0.0,
        GATED=gated is not None, NORMED=normed is not None,
        ROWS=ROWS, WIDTH=1 << (channels - 1).bit_length(), num_warps=WARPS,
    )  # fmt: skip
    return total, out


def sample_step(values: Tensor) -> int:
    """From one sample's values [B or 1, 1, C] to the next one's."""
    return 0 if values.shape[0] == 1 else values.stride(0)


def scaled_norm(x: Tensor, norm: nn.RMSNorm, scale: Tensor) -> Tensor:
    """See `grid_norms.scaled_norm`."""
    return _launch(x, None, (norm, scale))[1]


def gated_sum(x: Tensor, y: Tensor, gate: Tensor, norm: nn.RMSNorm) -> Tensor:
    """See `grid_norms.gated_sum`."""
    return _launch(x, (y, gate, norm), None)[0]


def gated_sum_norm(
    x: Tensor, y: Tensor, gate: Tensor, norm: nn.RMSNorm, following: nn.RMSNorm, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """See `grid_norms.gated_sum_norm`."""
    return _launch(x, (y, gate, norm), (following, scale))


def applies(x: Tensor) -> bool:
    """Whether the kernel can take rows of `x` [B, N, C]: no gradient, not too wide."""
    return not torch.is_grad_enabled() and x.shape[2] <= WIDEST
