"""The order in which the Triton convolution takes rows, and what its tiles need: two kernels around torch's sort.

A plan of a million rows is made beside the first blocks of a network, whose time it takes: so every kernel reads or
writes the map of neighbours once, and only numbers of rows and taps lie in between. They run on a CUDA device or in
Triton's interpreter, as the convolution does; their twin in plain torch is in the tests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.kernels import Launcher

BLOCKS = (64, 128)
"""Rows of a tile of the convolution: of few rows small tiles, so that every multiprocessor has some."""

FEW_ROWS = 1 << 16

ROWS = 128
"""Rows of one program that looks for taps."""


class TapPlan:
    """A neighbour map, ordered for the kernel.

    Rows come in groups that have weights of their own (one group for a convolution; one per child when voxels are
    subdivided) and stay inside their group. Inside it they are ordered by which taps they have, then by number.

    Args:
        neighbours: [T, N] int32 rows of the input, T for none.
        columns: [G, K] integer columns of `neighbours` that are the taps of each group; None for one group with all
            of them. Row t of group g makes row t * G + g of the result. K and the bits of G - 1 are together at
            most 31.
        block: rows of a tile, one of `BLOCKS`; by default the first for fewer than `FEW_ROWS` rows.

    Attributes:
        groups, width, block: G, K and the rows of a tile.
        absent: T.
        rows: rows of the result, G * T.
        taps: [P / block, K] int32 numbers of weights (group * K + tap), those that any row of the tile needs first;
            P = G * T rounded up to whole tiles per group.
        counts: [P / block] int32 how many it needs.
        index: [P / block, K, block] int32 rows of the input by the taps of the tile; `absent` for none.
        out_row: [P] int32, -1 in the padding.
    """

    def __init__(self, neighbours: Tensor, columns: Tensor | None = None, block: int | None = None) -> None:
        neighbours, columns = neighbours.contiguous(), None if columns is None else columns.contiguous()
        rows, width = neighbours.shape
        self.groups, self.width = (1, width) if columns is None else columns.shape
        self.absent, self.rows = rows, self.groups * rows
        self.block = block or BLOCKS[self.rows >= FEW_ROWS]
        sizes = {"TAPS": self.width, "WIDE": triton.next_power_of_2(self.width)}
        # A radix sort takes half as many passes over 16 bits.
        bits = self.width + (self.groups - 1).bit_length()
        codes = neighbours.new_empty(self.rows, dtype=torch.int16 if bits < 16 else torch.int32)
        _launch_encode(
            (-(-rows // ROWS), self.groups), (codes, neighbours, columns, rows, width), {**sizes, "ROWS": ROWS}
        )
        # The codes begin with the group, so that one sort of all rows sorts inside groups.
        codes, order = codes.sort(stable=True)
        tiles = -(-rows // self.block)
        every = self.groups * tiles
        self.taps, self.counts = neighbours.new_empty(every, self.width), neighbours.new_empty(every)
        self.index = neighbours.new_empty(every, self.width, self.block)
        self.out_row = neighbours.new_empty(every * self.block)
        results = self.taps, self.counts, self.index, self.out_row
        arguments = (*results, codes, order, neighbours, columns, rows, width)
        _launch_gather((tiles, self.groups), arguments, {**sizes, "ROWS": self.block})


@triton.jit
def _bits(TAPS: tl.constexpr, WIDE: tl.constexpr):
    """[WIDE] the bit of each tap; of 27 the far corners, which vary most, have the highest and so decide first."""
    tap = tl.arange(0, WIDE)
    if TAPS == 27:
        distance = tl.abs(tap // 9 - 1) + tl.abs(tap // 3 % 3 - 1) + tl.abs(tap % 3 - 1)
        key = tl.where(tap < TAPS, distance, WIDE) * WIDE + tap
        bit = tl.sum((key[:, None] < key[None, :]).to(tl.int32), axis=0)
    else:
        bit = tap
    return bit


@triton.jit
def _columns(column_ptr, group, TAPS: tl.constexpr, WIDE: tl.constexpr):
    """[WIDE] columns of the map that a group's taps are."""
    column = tl.arange(0, WIDE)
    # Not a list of all: a warp reads along the row only if the compiler knows that the taps lie side by side.
    if column_ptr is not None:
        column = tl.load(column_ptr + group * TAPS + column, mask=column < TAPS, other=0)
    return column


# Every asset has another number of rows: kernels must not be compiled anew for what divides it.
@triton.jit(do_not_specialize=["rows"])
def _encode(
    code_ptr, map_ptr, column_ptr, rows, width, TAPS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """The code of every row of every group."""
    group = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # rows x width may pass 2^31
    tap = tl.arange(0, WIDE)
    column = _columns(column_ptr, group, TAPS, WIDE)
    known = (row < rows)[:, None] & (tap < TAPS)[None, :]
    source = tl.load(map_ptr + row[:, None] * width + column[None, :], mask=known, other=rows)
    code = tl.sum(tl.where(source < rows, 1 << _bits(TAPS, WIDE)[None, :], 0), axis=1)
    code = (code | group << TAPS).to(code_ptr.dtype.element_ty)
    tl.store(code_ptr + group * rows + row, code, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _gather(
    list_ptr, count_ptr, index_ptr, out_row_ptr, code_ptr, order_ptr, map_ptr, column_ptr, rows, width,
    TAPS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A tile: the taps that any of its rows has, the others behind them, both ascending; and the rows by these taps."""
    group, groups = tl.program_id(1), tl.num_programs(1)
    tile = group.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = place < rows
    tap = tl.arange(0, WIDE)
    code = tl.load(code_ptr + group * rows + place, mask=there, other=0).to(tl.int32)
    needed = tl.max(code[:, None] >> _bits(TAPS, WIDE)[None, :] & 1, axis=0)
    needed = tl.where(tap < TAPS, needed, 0)  # above the taps is the group
    count = tl.sum(needed, axis=0)
    before = tl.cumsum(needed, axis=0) - needed
    slot = tl.where(needed > 0, before, count + tap - before)
    tl.store(list_ptr + tile * TAPS + slot, group * TAPS + tap, mask=tap < TAPS)
    tl.store(count_ptr + tile, count)
    row = tl.load(order_ptr + group * rows + place, mask=there, other=0) - group * rows
    column = _columns(column_ptr, group, TAPS, WIDE)
    known = there[:, None] & (tap < TAPS)[None, :]
    source = tl.load(map_ptr + row[:, None] * width + column[None, :], mask=known, other=rows)
    target = index_ptr + (tile * TAPS + slot[None, :]) * ROWS + tl.arange(0, ROWS)[:, None]
    tl.store(target, source, mask=(tap < TAPS)[None, :])
    tl.store(out_row_ptr + tile * ROWS + tl.arange(0, ROWS), tl.where(there, row * groups + group, -1).to(tl.int32))


_launch_encode, _launch_gather = map(Launcher, (_encode, _gather))
