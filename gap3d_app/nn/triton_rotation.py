"""Layer norm and rotation of queries or keys as one Triton kernel; inference only.

Compilers make the norm of such wide rows a kernel of its own and read its result twice for the rotation. Here a program
takes a row and holds it. What it must equal is `rotate(norm(x), rope)`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

WIDEST = 8192
"""Channels of a row, at most."""


@triton.jit
def _kernel(
    x_ptr, weight_ptr, bias_ptr, cos_ptr, sin_ptr, out_ptr, stride, tokens, channels, eps,
    HEAD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, WIDTH)
    there = channel < channels
    twin = channel ^ 1  # the other one of its pair
    x = tl.load(x_ptr + row * stride + channel, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / channels
    apart = tl.where(there, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=0) / channels + eps)
    weight = tl.load(weight_ptr + channel, mask=there, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=there, other=0.0).to(tl.float32)
    own = apart * scale * weight + bias
    x = tl.load(x_ptr + row * stride + twin, mask=there, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + twin, mask=there, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + twin, mask=there, other=0.0).to(tl.float32)
    other = (x - mean) * scale * weight + bias
    place = (row % tokens) * HEAD + channel % HEAD
    turned = own * tl.load(cos_ptr + place) + other * tl.load(sin_ptr + place)
    tl.store(out_ptr + row * channels + channel, turned.to(out_ptr.dtype.element_ty), mask=there)


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
    _kernel[(batch * tokens,)](
        x, norm.weight, norm.bias, cos, sin, out, x.stride(1), tokens, channels, norm.eps,
        HEAD=cos.shape[1], WIDTH=1 << (channels - 1).bit_length(), num_warps=8,
    )  # fmt: skip
    return out


def applies(x: Tensor) -> bool:
    """Whether `norm_rotate` can take x [B, N, C]: no gradient, rows that it can step through, not too wide."""
    batch, tokens, channels = x.shape
    even = x.stride(2) == 1 and (batch == 1 or x.stride(0) == tokens * x.stride(1))
    return not torch.is_grad_enabled() and even and channels % 2 == 0 and channels <= WIDEST
