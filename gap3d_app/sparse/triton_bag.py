"""Sums of rows by number, with a bias or as pooling wants them, as a Triton kernel; inference only.

torch's `embedding_bag` takes four times what the bytes take for 20,000 sums of 14 rows of 128 channels. Here a program
is one warp, which waits for no other, and has several rows of several sums under way at once. They are added in a fixed
order, so that the same rows give the same bits. What it must equal is `embedding_bag` and the bias after it, or
`gap3d_app.sparse.resample.SparseDownsample`, up to rounding: it rounds once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.kernels import Launcher

TILE, WARPS = 1024, 1
"""Values that a program loads at a time, and its warps."""
STEP = 4
"""Rows of a sum among them."""
CHANNELS = 128
"""Of a row, at a time, at most."""


# Every asset has another number of rows: kernels must not be compiled anew for what divides it.
@triton.jit(do_not_specialize=["total", "count"])
def _sum(
    x_ptr, index_ptr, starts_ptr, bias_ptr, out_ptr, total, count, channels,
    POOLED: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    step = tl.arange(0, STEP)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    start = tl.load(starts_ptr + row, mask=row < count, other=total)
    length = tl.load(starts_ptr + row + 1, mask=row + 1 < count, other=total) - start
    sums = tl.zeros((ROWS, STEP, CHANNELS), dtype=tl.float32)
    for first in range(0, tl.max(length, axis=0), STEP):
        there = first + step[None, :] < length[:, None]
        source = tl.load(index_ptr + start[:, None] + first + step[None, :], mask=there, other=0).to(tl.int64)
        place = source[:, :, None] * channels + channel[None, None, :]
        sums += tl.load(x_ptr + place, mask=there[:, :, None] & inside[None, None, :], other=0.0).to(tl.float32)
    out = tl.sum(sums, axis=1)
    if POOLED:
        out = out / (length + 1)[:, None].to(tl.float32)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    place = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=(row < count)[:, None] & inside[None, :])


_launch = Launcher(_sum)


def sum_rows(x: Tensor, index: Tensor, starts: Tensor, bias: Tensor | None, pooled: bool = False) -> Tensor:
    """Row p of the result is the sum of the rows `index[starts[p]:starts[p + 1]]` of `x`, and the bias if there is one.

    Args:
        x: [N, C], half precision.
        index: [P] int32 in 0..N-1.
        starts: [T] int32, from 0, none less than the one before; the last sum ends at P.
        bias: [C].
        pooled: the sum is divided by the number of its rows and one.

    Returns:
        [T, C] in the dtype of `x`.
    """
    x = x.contiguous()
    count, channels = starts.shape[0], x.shape[1]
    out = x.new_empty(count, channels)
    if count:
        wide = min(CHANNELS, triton.next_power_of_2(channels))
        rows = TILE // (STEP * wide)
        _launch(
            (-(-count // rows), -(-channels // wide)),
            (x, index, starts, bias, out, index.shape[0], count, channels),
            {"POOLED": pooled, "ROWS": rows, "STEP": STEP, "CHANNELS": wide},
            num_warps=WARPS,
        )
    return out


def applies(x: Tensor, bias: Tensor | None = None) -> bool:
    """Whether the kernel sums rows of `x`: half precision without gradients, and no bias that widens it."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    return half and (bias is None or bias.dtype == x.dtype) and not torch.is_grad_enabled()
