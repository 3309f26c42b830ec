"""Layer norm over the channels of a volume and the SiLU after it as one Triton kernel; inference only.

By torch a volume is widened, normed, narrowed and activated in passes of their own, and the norm gives every voxel a
block of threads: half of the structure decoder's time. In channels_last_3d memory a voxel's channels are a row; a
program takes as many rows as fill a tile. What it must equal is `gap3d_app.nn.norms.norm_silu`; between norm and SiLU
it does not round.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from gap3d_app.kernels import Launcher

WIDEST = 4096
"""Channels of a row, at most."""

TILE, WARPS = 4096, 4
"""Values of a program, those that fill a row up among them, and its warps."""


# Volumes have many sizes: kernels must not be compiled anew for what divides the number of rows.
@triton.jit(do_not_specialize=["rows"])
def _kernel(x_ptr, weight_ptr, bias_ptr, out_ptr, rows, channels, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # rows x channels may pass 2^31
    channel = tl.arange(0, WIDTH)
    some = channel < channels
    there = (row < rows)[:, None] & some[None, :]
    place = row[:, None] * channels + channel[None, :]
    x = tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, mask=some, other=0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + channel, mask=some, other=0.0).to(tl.float32)[None, :]
    mean = tl.sum(x, axis=1) / channels
    x = tl.where(some[None, :], x - mean[:, None], 0.0)
    size = tl.rsqrt(tl.sum(x * x, axis=1) / channels + eps)
    normed = x * size[:, None] * weight + bias
    out = (normed / (1.0 + tl.exp(-normed))).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place, out, mask=there)


_launch = Launcher(_kernel)


def norm_silu(x: Tensor, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """SiLU of the norm over axis 1.

    Args:
        x: [B, C, X, Y, Z] that `applies` accepts.
        norm: with weight and bias [C], any float dtype.
        dtype: of the result.

    Returns:
        [B, C, X, Y, Z] in channels_last_3d memory.
    """
    out, channels = torch.empty_like(x, dtype=dtype), x.shape[1]
    rows, width = x.numel() // channels, triton.next_power_of_2(channels)
    tile = TILE // width
    _launch(
        (-(-rows // tile),),
        (x, norm.weight, norm.bias, out, rows, channels, norm.eps),
        {"ROWS": tile, "WIDTH": width},
        num_warps=WARPS,
    )
    return out


def applies(x: Tensor) -> bool:
    """Whether the kernel takes `x` [B, C, X, Y, Z]: half precision without gradients, not too wide, channels last.

    A single channel lies in memory in both ways, and its norm is its bias; torch has that.
    """
    half = x.dtype in (torch.float16, torch.bfloat16)
    fits = 0 < x.numel() and 1 < x.shape[1] <= WIDEST
    return half and fits and not torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last_3d)
