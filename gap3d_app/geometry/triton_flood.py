"""The flood fill from outside as a Triton kernel: whole lines of cells at once, both ways, axis after axis.

It must equal its twin in plain torch, `outside_by_runs` in solid.py. A cell is a byte: bit 0 is set where it is empty,
bit 1 where the walk has come. On an axis, what the walk reaches is a prefix scan over functions of one bit: whether
the cell before is outside, to whether this one is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.kernels import INDEX_LIMIT, INTERPRETED, Launcher

TILE = 8192
"""Cells of one program's lines."""
MOST_LINES = 32
"""Of one program: lines along other axes than the last are read side by side."""

_REACHED = tl.constexpr(2)


@triton.jit
def _passed(first, then):
    """Two stretches of a line as one."""
    return (first & then & 1) | ((then | (first & (then << 1))) & _REACHED)


# Boxes differ from mesh to mesh: kernels must not be compiled anew for what divides their sizes.
@triton.jit(do_not_specialize=["lines", "length", "inner", "outer_step", "step"])
def _sweep(
    state_ptr, changed_ptr, lines, length, inner, outer_step, step,
    ROWS: tl.constexpr, LINES: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0) * LINES + tl.arange(0, LINES)
    place = tl.arange(0, LENGTH)
    base = line // inner * outer_step + line % inner
    if ROWS:  # lines along the last axis are rows of the tile, others its columns
        offset = base[:, None] + place[None, :]
        there = (line < lines)[:, None] & (place < length)[None, :]
    else:
        offset = base[None, :] + place[:, None] * step
        there = (line < lines)[None, :] & (place < length)[:, None]
    # Beyond both ends of a line all is empty, and outside.
    state = tl.load(state_ptr + offset, mask=there, other=1).to(tl.int32)
    along: tl.constexpr = 1 if ROWS else 0
    ahead = tl.associative_scan(state, along, _passed)
    back = tl.associative_scan(state, along, _passed, reverse=True)
    came = ((ahead | back) << 1 | ahead | back) & _REACHED
    found = state | (came & (state << 1))
    new = there & (found != state)
    tl.store(state_ptr + offset, found.to(tl.uint8), mask=new)
    if tl.max(tl.max(new.to(tl.int32), 1), 0) > 0:
        tl.store(changed_ptr, 1)


_launch = Launcher(_sweep)


def applies(solid: Tensor) -> bool:
    """Whether the kernel can work on this volume: on a CUDA device (or in Triton's interpreter), offsets in 32 bits."""
    return (solid.is_cuda or INTERPRETED) and solid.numel() < INDEX_LIMIT


def outside(solid: Tensor) -> Tensor:
    """See `solid.outside_of`; [X, Y, Z] bool."""
    state = solid.logical_not().byte().contiguous()
    x, y, z = state.shape
    changed = state.new_zeros(1, dtype=torch.int32)
    # Lines, their length, and how they lie in memory.
    axes = ((y * z, x, y * z, 0, y * z), (x * z, y, z, y * z, z), (x * y, z, 1, z, 1))
    while True:
        for _ in range(2):  # to look for changes makes the host wait, and a second round costs less
            changed.zero_()
            for axis, (lines, length, inner, outer_step, step) in enumerate(axes):
                size = triton.next_power_of_2(length)
                width = max(1, min(MOST_LINES, TILE // size))
                _launch(
                    (-(-lines // width),),
                    (state, changed, lines, length, inner, outer_step, step),
                    {"ROWS": axis == 2, "LINES": width, "LENGTH": size},
                    num_warps=8,
                )
        if not changed.item():
            return state > 1
