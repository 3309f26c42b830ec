"""Rows by number as a Triton kernel, for rows of a few dozen values.

torch's gather starts a block of threads for every row: rows of 32 bfloat16 values leave nearly all of them idle, and a
convolution's 27 neighbours of 160,000 voxels took 2 ms, a tenth of the memory's speed.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.kernels import Launcher

TILE = 4096
"""Values that a program copies."""
CHANNELS = 128
"""Of a row, at a time, at most."""


# Every batch has another number of rows: kernels must not be compiled anew for what divides it.
@triton.jit(do_not_specialize=["absent", "count"])
def _copy(
    x_ptr, index_ptr, out_ptr, absent, count, channels,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    source = tl.load(index_ptr + row, mask=row < count, other=absent)
    there = (source < absent)[:, None] & inside[None, :]
    values = tl.load(x_ptr + source.to(tl.int64)[:, None] * channels + channel[None, :], mask=there, other=0.0)
    place = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out_ptr + place, values, mask=(row < count)[:, None] & inside[None, :])


_launch = Launcher(_copy)


def gather_rows(x: Tensor, index: Tensor, out: Tensor | None = None) -> Tensor:
    """Rows `index` of `x`, zeros for the number after the last row.

    Args:
        x: [N, C], on a CUDA device or in Triton's interpreter.
        index: [M] int32 or int64 in 0..N.
        out: [M, C] contiguous, to write to.

    Returns:
        [M, C].
    """
    x, index = x.contiguous(), index.contiguous()
    count, channels = index.shape[0], x.shape[1]
    if out is None:
        out = x.new_empty(count, channels)
    if count:
        wide = min(CHANNELS, triton.next_power_of_2(channels))
        rows = TILE // wide
        _launch(
            (-(-count // rows), -(-channels // wide)),
            (x, index, out, x.shape[0], count, channels),
            {"ROWS": rows, "CHANNELS": wide},
        )
    return out
