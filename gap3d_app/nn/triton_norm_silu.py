"""Layer norm over the channels of voxels and the SiLU after it as one Triton kernel; inference only.

By torch a volume is widened, normed, narrowed and activated in passes of their own, and the norm gives every voxel a
block of threads: half of the structure decoder's time. In channels_last_3d memory a voxel's channels are a row, as
those of sparse voxels are; a program takes as many rows as fill a tile. What it must equal are
`gap3d_app.nn.norms.norm_silu` and, for sparse voxels, whose norm a time may modulate,
`gap3d_app.models.slat_flow.activate`; between norm and SiLU it does not round.
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
def _kernel(
    x_ptr, weight_ptr, bias_ptr, scale_ptr, shift_ptr, out_ptr, rows, channels, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # rows x channels may pass 2^31
    channel = tl.arange(0, WIDTH)
    some = channel < channels
    there = (row < rows)[:, None] & some[None, :]
    place = row[:, None] * channels + channel[None, :]
    x = tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / channels
    x = tl.where(some[None, :], x - mean[:, None], 0.0)
    size = tl.rsqrt(tl.sum(x * x, axis=1) / channels + eps)
    normed = x * size[:, None]
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + channel, mask=some, other=0.0).to(tl.float32)[None, :]
        bias = tl.load(bias_ptr + channel, mask=some, other=0.0).to(tl.float32)[None, :]
        normed = normed * weight + bias
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + channel, mask=some, other=0.0).to(tl.float32)[None, :]
        shift = tl.load(shift_ptr + channel, mask=some, other=0.0).to(tl.float32)[None, :]
        normed = normed * (1.0 + scale) + shift
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
    return _launched(x, x.shape[1], norm, None, torch.empty_like(x, dtype=dtype))


def norm_silu_rows(x: Tensor, norm: nn.LayerNorm, mod: Tensor | None) -> Tensor:
    """The same of rows, with norm * (1 + scale) + shift in place of the norm where there is a modulation.

    Args:
        x: [T, C] that `applies_to_rows` accepts.
        norm: over C, with weight and bias or without.
        mod: [1, 2 C] scale and shift.

    Returns:
        [T, C] in the dtype of `x`.
    """
    return _launched(x, x.shape[1], norm, mod, torch.empty_like(x))


def _launched(x: Tensor, channels: int, norm: nn.LayerNorm, mod: Tensor | None, out: Tensor) -> Tensor:
    rows, width = x.numel() // channels, triton.next_power_of_2(channels)
    tile = TILE // width
    scale, shift = (None, None) if mod is None else mod.chunk(2, dim=-1)
    _launch(
        (-(-rows // tile),),
        (x, norm.weight, norm.bias, scale, shift, out, rows, channels, norm.eps),
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


def applies_to_rows(x: Tensor, mod: Tensor | None) -> bool:
    """Whether the kernel takes rows `x` [T, C]: half precision without gradients, not too wide, one modulation."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    fits = 0 < x.numel() and x.shape[1] <= WIDEST and x.is_contiguous()
    return half and fits and not torch.is_grad_enabled() and (mod is None or (len(mod) == 1 and mod.stride(1) == 1))
