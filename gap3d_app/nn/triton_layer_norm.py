"""Sum of two tensors and its layer norm as one Triton kernel; inference only.

torch's own norm of 20,000 rows of 768 channels takes three times what its bytes take, and the sum before it half of
that again. What it must equal is `gap3d_app.nn.norms.sum_and_norm`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

WIDEST = 8192
"""Channels of a row, at most."""

ROWS, WARPS = 4, 4
"""Of a program."""


@triton.jit(do_not_specialize=["rows"])
def _kernel(
    x_ptr, y_ptr, sum_ptr, out_ptr, rows, channels, eps, ADDED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    some = channel < channels
    there = (row < rows)[:, None] & some[None, :]
    place = row[:, None] * channels + channel[None, :]
    x = tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32)
    if ADDED:
        x += tl.load(y_ptr + place, mask=there, other=0.0).to(tl.float32)
        total = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + place, total, mask=there)
        x = total.to(tl.float32)
    mean = tl.sum(x, axis=1) / channels
    x = tl.where(some[None, :], x - mean[:, None], 0.0)
    size = tl.rsqrt(tl.sum(x * x, axis=1) / channels + eps)
    tl.store(out_ptr + place, (x * size[:, None]).to(out_ptr.dtype.element_ty), mask=there)


def sum_and_norm(x: Tensor, y: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """See `norms.sum_and_norm`."""
    x = x.contiguous()
    y, channels = x if y is None else y.contiguous(), x.shape[-1]
    total, out = x if y is x else torch.empty_like(x), torch.empty_like(x)
    rows = x.numel() // channels
    _kernel[((rows + ROWS - 1) // ROWS,)](
        x, y, total, out, rows, channels, norm.eps,
        ADDED=y is not x, ROWS=ROWS, WIDTH=1 << (channels - 1).bit_length(), num_warps=WARPS,
    )  # fmt: skip
    return total, out


def applies(x: Tensor, norm: nn.LayerNorm) -> bool:
    """Whether the kernel takes rows of `x`: half precision without gradients, not too wide, a norm without gain."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    return half and not torch.is_grad_enabled() and norm.weight is None and 0 < x.numel() and x.shape[-1] <= WIDEST
