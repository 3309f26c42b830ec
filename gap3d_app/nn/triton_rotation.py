"""Layer norm and rotation of queries or keys as one Triton kernel; inference only.

Compilers make the norm of such wide rows a kernel of its own and read its result twice for the rotation. Here a program
takes some rows and holds them; the two of a pair of channels change places in registers. What it must equal is
`rotate(norm(x), rope)`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

WIDEST = 8192
"""Channels of a row, at most."""

ROWS, WARPS = 1, 8
"""Of a program."""


@triton.jit
def _kernel(
    x_ptr, weight_ptr, bias_ptr, cos_ptr, sin_ptr, out_ptr, stride, tokens, channels, eps,
    HEAD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    some = channel < channels
    there = (token < tokens)[:, None] & some[None, :]
    row = (sample * tokens + token)[:, None]
    x = tl.load(x_ptr + row * stride + channel[None, :], mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / channels
    x = tl.where(some[None, :], x - mean[:, None], 0.0)
    size = tl.rsqrt(tl.sum(x * x, axis=1) / channels + tl.cast(eps, tl.float32))
    weight = tl.load(weight_ptr + channel, mask=some, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=some, other=0.0).to(tl.float32)
    own = x * size[:, None] * weight[None, :] + bias[None, :]
    first, second = tl.split(tl.reshape(own, (ROWS, WIDTH // 2, 2)))
    twin = tl.reshape(tl.join(second, first), (ROWS, WIDTH))
    angle = token[:, None] * HEAD + (channel % HEAD)[None, :]
    cos = tl.load(cos_ptr + angle, mask=there, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=there, other=0.0)
    turned = own * cos + twin * sin
    tl.store(out_ptr + row * channels + channel[None, :], turned.to(out_ptr.dtype.element_ty), mask=there)


def norm_rotate(x: Tensor, norm: nn.LayerNorm, cos: Tensor, sin: Tensor) -> Tensor:
    """`norm` of x [B, N, C], then every pair of channels turned, in float32; the result is rounded once.

    Args:
        x: float16, bfloat16 or float32; rows may lie apart, at the same distance throughout.
        norm: over the C channels, an even number up to `WIDEST`, with weight and bias.
        cos, sin: [N, D] float32 of the channels of a head, D divides C; the sine negative on the first of each pair.

    Returns:
        [B, N, C] in the dtype of `x`, contiguous.
    """
    batch, tokens, channels = x.shape
    out = x.new_empty(batch, tokens, channels)
    _kernel[((tokens + ROWS - 1) // ROWS, batch)](
        x, norm.weight, norm.bias, cos, sin, out, x.stride(1), tokens, channels, norm.eps,
        HEAD=cos.shape[1], ROWS=ROWS, WIDTH=1 << (channels - 1).bit_length(), num_warps=WARPS,
    )  # fmt: skip
    return out


def applies(x: Tensor) -> bool:
    """Whether `norm_rotate` can take x [B, N, C]: no gradient, rows that it can step through, not too wide."""
    batch, tokens, channels = x.shape
    even = x.stride(2) == 1 and (batch == 1 or x.stride(0) == tokens * x.stride(1))
    return not torch.is_grad_enabled() and even and channels % 2 == 0 and channels <= WIDEST
