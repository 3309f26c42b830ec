"""What stands between the layers of a decoder's blocks as one Triton kernel; inference only.

A layer's result is added to the residual stream, rows go into the order of the next attention's windows, and the next
layer reads the norm of them: by torch three passes over the rows and three launches, twelve blocks over. A program
takes as many rows as fill a tile. What it must equal is `gap3d_app.nn.norms.sum_norm` with a norm without weights; the
sum is rounded before it is normed, as there.
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


# Every asset has another number of rows: kernels must not be compiled anew for what divides it.
@triton.jit(do_not_specialize=["rows"])
def _kernel(
    x_ptr, y_ptr, order_ptr, sum_ptr, out_ptr, rows, channels, eps,
    MOVED: tl.constexpr, NORMED: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # rows x channels may pass 2^31
    channel = tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (channel < channels)[None, :]
    source = tl.load(order_ptr + row, mask=row < rows, other=0) if order_ptr is not None else row
    place = source[:, None] * channels + channel[None, :]
    total = tl.load(x_ptr + place, mask=there, other=0.0)
    if y_ptr is not None:
        total = total.to(tl.float32) + tl.load(y_ptr + place, mask=there, other=0.0).to(tl.float32)
        total = total.to(out_ptr.dtype.element_ty)
    place = row[:, None] * channels + channel[None, :]
    if MOVED:
        tl.store(sum_ptr + place, total, mask=there)
    if NORMED:
        total = total.to(tl.float32)
        total = tl.where((channel < channels)[None, :], total - (tl.sum(total, axis=1) / channels)[:, None], 0.0)
        size = tl.rsqrt(tl.sum(total * total, axis=1) / channels + eps)
        tl.store(out_ptr + place, (total * size[:, None]).to(out_ptr.dtype.element_ty), mask=there)


_launch = Launcher(_kernel)


def sum_norm(
    x: Tensor, y: Tensor | None, order: Tensor | None, norm: nn.LayerNorm | None
) -> tuple[Tensor, Tensor | None]:
    """Rows `order` of x + y, and their norm.

    Args:
        x, y: [T, C]; without y it is x alone.
        order: [T] int64; None for all rows as they are.
        norm: that `applies` accepts with x; None when no norm is wanted.

    Returns:
        [T, C] the sum, x itself where nothing changes it, and [T, C] its norm or None; both in the dtype of x.
    """
    x, y = x.contiguous(), None if y is None else y.contiguous()
    moved = y is not None or order is not None
    total = torch.empty_like(x) if moved else x
    out = None if norm is None else torch.empty_like(x)
    if out is None and not moved:
        return x, None
    rows, channels = x.shape
    width = triton.next_power_of_2(channels)
    tile = TILE // width
    _launch(
        (-(-rows // tile),),
        (x, y, order, total, total if out is None else out, rows, channels, 0.0 if norm is None else norm.eps),
        {"MOVED": moved, "NORMED": norm is not None, "ROWS": tile, "WIDTH": width},
        num_warps=WARPS,
    )
    return total, out


def applies(x: Tensor, norm: nn.LayerNorm | None) -> bool:
    """Whether the kernel takes rows `x` [T, C]: half precision without gradients, not too wide; no weights."""
    half, bare = x.dtype in (torch.float16, torch.bfloat16), norm is None or norm.weight is None
    return half and bare and len(x) > 0 and x.shape[1] <= WIDEST and not torch.is_grad_enabled()
