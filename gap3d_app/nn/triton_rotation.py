"""Layer norm and rotation of queries and keys as one Triton kernel; inference only.

Compilers make the norm of such wide rows a kernel of its own and read its result twice for the rotation. Here a program
takes a token's rows of one operand, head by head, so that all heads and samples share what it reads of the table and of
the norm's weights, and holds each; the two of a pair of channels change places in registers. What it must equal is
`rotate(norm(x), rope)` of each.
"""

from __future__ import annotations

from itertools import chain

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from gap3d_app.kernels import Launcher

MOST = 3
"""Operands of a launch, at most: queries, keys, and the queries of a condition."""

WIDEST = 8192
"""Channels of a row, at most."""

WARPS = 2
"""Of a program."""


@triton.jit
def _turn(
    x_ptr, weight_ptr, bias_ptr, out_ptr, stride, samples, channels, eps, cos_ptr, sin_ptr, tokens,
    HEADS: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    within = tl.arange(0, HEAD)
    channel = tl.arange(0, HEADS)[:, None] * HEAD + within[None, :]
    there = channel < channels
    cos = tl.load(cos_ptr + token * HEAD + within)[None, :]
    sin = tl.load(sin_ptr + token * HEAD + within)[None, :]
    weight = tl.load(weight_ptr + channel, mask=there, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=there, other=0.0).to(tl.float32)
    for sample in range(samples):
        row = tl.cast(sample, tl.int64) * tokens + token
        x = tl.load(x_ptr + row * stride + channel, mask=there, other=0.0).to(tl.float32)
        x = tl.where(there, x - tl.sum(x) / channels, 0.0)
        size = tl.rsqrt(tl.sum(x * x) / channels + eps)
        own = x * size * weight + bias
        first, second = tl.split(tl.reshape(own, (HEADS, HEAD // 2, 2)))
        twin = tl.reshape(tl.join(second, first), (HEADS, HEAD))
        turned = (own * cos + twin * sin).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + row * channels + channel, turned, mask=there)


@triton.jit
def _kernel(
    x_ptr, x_weight_ptr, x_bias_ptr, x_out_ptr, x_stride, x_samples, x_channels, x_eps,
    y_ptr, y_weight_ptr, y_bias_ptr, y_out_ptr, y_stride, y_samples, y_channels, y_eps,
    z_ptr, z_weight_ptr, z_bias_ptr, z_out_ptr, z_stride, z_samples, z_channels, z_eps,
    cos_ptr, sin_ptr, tokens, HEADS: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    operand = tl.program_id(1)
    if operand == 0:
        _turn(
            x_ptr, x_weight_ptr, x_bias_ptr, x_out_ptr, x_stride, x_samples, x_channels, x_eps,
            cos_ptr, sin_ptr, tokens, HEADS, HEAD,
        )  # fmt: skip
    elif operand == 1:
        _turn(
            y_ptr, y_weight_ptr, y_bias_ptr, y_out_ptr, y_stride, y_samples, y_channels, y_eps,
            cos_ptr, sin_ptr, tokens, HEADS, HEAD,
        )  # fmt: skip
    else:
        _turn(
            z_ptr, z_weight_ptr, z_bias_ptr, z_out_ptr, z_stride, z_samples, z_channels, z_eps,
            cos_ptr, sin_ptr, tokens, HEADS, HEAD,
        )  # fmt: skip


_launch = Launcher(_kernel)


def norm_rotate(parts: list[tuple[Tensor, nn.LayerNorm]], cos: Tensor, sin: Tensor) -> list[Tensor]:
    """The norm of every operand x [B, N, C], then every pair of channels turned, in float32; rounded once.

    Args:
        parts: one to `MOST` operands of the same tokens, each with its norm over the C channels, at most `WIDEST`, with
            weight and bias. float16, bfloat16 or float32; rows may lie apart, at the same distance
            throughout. B and C may differ.
        cos, sin: [N, D] float32 of the channels of a head, D a power of two that divides C; the sine negative on the
            first of each pair.

    Returns:
        For every operand [B, N, C] in its dtype, contiguous.
    """
    rows, norms = zip(*parts, strict=True)
    weights, biases = [norm.weight for norm in norms], [norm.bias for norm in norms]
    return torch.ops.gap3d.norm_rotate(list(rows), weights, biases, [norm.eps for norm in norms], cos, sin)


# An operation of torch's, for compiled code gets wrong numbers from a kernel that stores inside of branches; by hand,
# for the decorator checks 0.2 ms a call.
torch.library.define(
    "gap3d::norm_rotate",
    "(Tensor[] rows, Tensor[] weights, Tensor[] biases, float[] eps, Tensor cos, Tensor sin) -> Tensor[]",
)


@torch.library.register_fake("gap3d::norm_rotate")
def _shapes(rows: list[Tensor], *others: object) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in rows]


@torch.library.impl("gap3d::norm_rotate", "CompositeExplicitAutograd")
def _launched(
    rows: list[Tensor], weights: list[Tensor], biases: list[Tensor], eps: list[float], cos: Tensor, sin: Tensor
) -> list[Tensor]:
    made, tokens, head = _shapes(rows), rows[0].shape[1], cos.shape[1]
    operands = [
        (x, weight, bias, out, x.stride(1), x.shape[0], x.shape[2], size)
        for x, weight, bias, out, size in zip(rows, weights, biases, made, eps, strict=True)
    ]
    operands += operands[:1] * (MOST - len(rows))  # stand in for those that there are not
    heads = triton.next_power_of_2(max(x.shape[2] for x in rows) // head)
    _launch(
        (tokens, len(rows)),
        (*chain(*operands), cos, sin, tokens),
        {"HEADS": heads, "HEAD": head},
        num_warps=WARPS,
    )
    return made


def applies(parts: list[tuple[Tensor, nn.LayerNorm]], head: int) -> bool:
    """Whether `norm_rotate` can take operands x [B, N, C] of heads of so many channels.

    No gradient, rows that it can step through, not too wide, heads of a power of two.
    """
    fits = not torch.is_grad_enabled() and len(parts) <= MOST and head > 1 and head & (head - 1) == 0
    return fits and all(_even(x) for x, _ in parts)


def _even(x: Tensor) -> bool:
    batch, tokens, channels = x.shape
    return x.stride(2) == 1 and (batch == 1 or x.stride(0) == tokens * x.stride(1)) and channels <= WIDEST
