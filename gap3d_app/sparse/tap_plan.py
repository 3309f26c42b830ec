"""The order in which the Triton convolution takes rows, and what its tiles need: three kernels around torch's sort.

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
"""Rows of a tile of the convolution."""

ALIGNMENT = max(BLOCKS)
"""Rows of a group come in multiples of this."""

ROWS = 128
"""Rows of one program; divides `ALIGNMENT`."""


class TapPlan:
    """A neighbour map, ordered for the kernel.

    Rows come in groups that have weights of their own (one group for a convolution; one per child when voxels are
    subdivided) and stay inside their group. Inside it they are ordered by which taps they have, then by number.

    Args:
        neighbours: [T, N] int32 rows of the input, T for none.
        columns: [G, K] integer columns of `neighbours` that are the taps of each group; None for one group with all
            of them. Row t of group g makes row t * G + g of the result. K and the bits of G - 1 are together at
            most 31.

    Attributes:
        absent: T.
        rows: rows of the result, G * T.
        index: [K, P] int32 rows of the input, P = G * T rounded up to whole tiles per group; `absent` for none.
        out_row: [P] int32, -1 in the padding.
        codes: [G * T] int16 or int32, ascending: the group, and below it one bit per tap that the row has.
    """

    def __init__(self, neighbours: Tensor, columns: Tensor | None = None) -> None:
        neighbours, columns = neighbours.contiguous(), None if columns is None else columns.contiguous()
        rows, width = neighbours.shape
        self.groups, self.taps = (1, width) if columns is None else columns.shape
        self.absent, self.rows = rows, self.groups * rows
        self._sizes = {"TAPS": self.taps, "WIDE": triton.next_power_of_2(self.taps)}
        # A radix sort takes half as many passes over 16 bits.
        bits = self.taps + (self.groups - 1).bit_length()
        codes = neighbours.new_empty(self.rows, dtype=torch.int16 if bits < 16 else torch.int32)
        grid = (-(-rows // ROWS), self.groups)
        _launch_encode(grid, (codes, neighbours, columns, rows, width), {**self._sizes, "ROWS": ROWS})
        # The codes begin with the group, so that one sort of all rows sorts inside groups.
        self.codes, order = codes.sort(stable=True)
        padded = -(-rows // ALIGNMENT) * ALIGNMENT
        self.index = neighbours.new_empty(self.taps, self.groups * padded, dtype=torch.int32)
        self.out_row = neighbours.new_empty(self.groups * padded, dtype=torch.int32)
        grid = (padded // ROWS, self.groups)
        arguments = (self.index, self.out_row, order, neighbours, columns, rows, width, padded)
        _launch_gather(grid, arguments, {**self._sizes, "ROWS": ROWS})
        self.lists: dict[int, tuple[Tensor, Tensor]] = {}

    def tap_lists(self, block: int) -> tuple[Tensor, Tensor]:
        """Which taps a tile of `block` rows needs; one of `BLOCKS`.

        Returns:
            [P / block, K] int32 numbers of weights (group * K + tap), the needed ones first, and how many are needed
            [P / block] int32.
        """
        if block not in self.lists:
            tiles = len(self.out_row) // block
            taps, counts = self.out_row.new_empty(tiles, self.taps), self.out_row.new_empty(tiles)
            grid = (tiles // self.groups, self.groups)
            constants = {**self._sizes, "ROWS": block}
            _launch_list(grid, (taps, counts, self.codes, self.absent), constants, num_warps=1)
            self.lists[block] = taps, counts
        return self.lists[block]

    def prepare(self) -> None:
        """Make the lists of all tiles, whichever will be taken."""
        for block in BLOCKS:
            self.tap_lists(block)


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
    index_ptr, out_row_ptr, order_ptr, map_ptr, column_ptr, rows, width, padded,
    TAPS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Taps of the rows in their order, one tap below the other, and what rows they make."""
    group, groups = tl.program_id(1), tl.num_programs(1)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.load(order_ptr + group * rows + place, mask=place < rows, other=0) - group * rows
    tap = tl.arange(0, WIDE)
    column = _columns(column_ptr, group, TAPS, WIDE)
    known = (place < rows)[:, None] & (tap < TAPS)[None, :]
    source = tl.load(map_ptr + row[:, None] * width + column[None, :], mask=known, other=rows)
    place += group * padded
    target = index_ptr + tap.to(tl.int64)[None, :] * (groups * padded) + place[:, None]
    tl.store(target, source, mask=(tap < TAPS)[None, :])
    tl.store(out_row_ptr + place, tl.where(place - group * padded < rows, row * groups + group, -1).to(tl.int32))


@triton.jit(do_not_specialize=["rows"])
def _list(
    list_ptr, count_ptr, code_ptr, rows, TAPS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """The taps that any row of a tile has, the others behind them, both ascending."""
    group = tl.program_id(1)
    tile = group * tl.num_programs(0) + tl.program_id(0)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    code = tl.load(code_ptr + group * rows + place, mask=place < rows, other=0).to(tl.int32)
    tap = tl.arange(0, WIDE)
    needed = tl.max(code[:, None] >> _bits(TAPS, WIDE)[None, :] & 1, axis=0)
    needed = tl.where(tap < TAPS, needed, 0)  # above the taps is the group
    count = tl.sum(needed, axis=0)
    before = tl.cumsum(needed, axis=0) - needed
    target = tl.where(needed > 0, before, count + tap - before)
    tl.store(list_ptr + tile * TAPS + target, group * TAPS + tap, mask=tap < TAPS)
    tl.store(count_ptr + tile, count)


_launch_encode, _launch_gather, _launch_list = map(Launcher, (_encode, _gather, _list))
