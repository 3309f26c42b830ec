"""Triton kernels of the blocks that tables have places for: each is one launch in place of many small ones.

Every one has a twin in plain torch in blocks.py, whose numbers it must equal. Keys and places are numbers of 32 bits
here. Arguments are contiguous, but for coordinates.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.geometry.blocks import BLOCK, BLOCK_BITS, CELLS, BlockGrid, Blocks
from gap3d_app.kernels import INDEX_LIMIT, INTERPRETED, Launcher

ROWS = 1024
"""Cells, keys or places of one program."""

# Sizes differ from mesh to mesh: to specialise on those that 16 divides would mean to compile again and again.
GRID_SIZES = ["shift_x", "shift_y", "blocks_y", "blocks_z"]

_BITS = tl.constexpr(BLOCK_BITS)
_INNER = tl.constexpr(BLOCK - 1)
_CELLS = tl.constexpr(CELLS)


@triton.jit
def key_parts(key, shift_x, shift_y):
    """x, y and z of a key."""
    return key >> shift_x, key >> shift_y & ((1 << (shift_x - shift_y)) - 1), key & ((1 << shift_y) - 1)


@triton.jit
def corner_step(corner, shift_x, shift_y):
    """Step from a cell to its corner."""
    return ((corner & 1) << shift_x) + ((corner >> 1 & 1) << shift_y) + (corner >> 2 & 1)


@triton.jit
def _block_of(x, y, z, blocks_y, blocks_z):
    """Number of a cell's block in the grid."""
    return ((x >> _BITS) * blocks_y + (y >> _BITS)) * blocks_z + (z >> _BITS)


@triton.jit
def place_of(key, number_ptr, shift_x, shift_y, blocks_y, blocks_z):
    """Place of a cell in a table."""
    x, y, z = key_parts(key, shift_x, shift_y)
    block = tl.load(number_ptr + _block_of(x, y, z, blocks_y, blocks_z))
    return ((block << _BITS | x & _INNER) << _BITS | y & _INNER) << _BITS | z & _INNER


@triton.jit
def key_of(place, corner_ptr, known, shift_x, shift_y):
    """Key of the cell at a place of a stored block; 0 where the place is not `known`."""
    inner = ((place >> 2 * _BITS & _INNER) << shift_x) + ((place >> _BITS & _INNER) << shift_y) + (place & _INNER)
    return tl.where(known, tl.load(corner_ptr + (place >> 3 * _BITS), mask=known, other=0).to(tl.int32) + inner, 0)


@triton.jit(do_not_specialize=["size", "low_x", "low_y", "low_z", *GRID_SIZES])
def _mark_kernel(
    key_ptr, mark_ptr, coord_ptr, size, row_stride, axis_stride, low_x, low_y, low_z, shift_x, shift_y, blocks_y,
    blocks_z, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = row < size
    coord = coord_ptr + row.to(tl.int64) * row_stride
    x = tl.load(coord, mask=known, other=0).to(tl.int32) - low_x
    y = tl.load(coord + axis_stride, mask=known, other=0).to(tl.int32) - low_y
    z = tl.load(coord + 2 * axis_stride, mask=known, other=0).to(tl.int32) - low_z
    tl.store(key_ptr + row, ((x << shift_x) + (y << shift_y) + z).to(tl.int64), mask=known)
    block = _block_of(x, y, z, blocks_y, blocks_z)
    for around in tl.static_range(27):
        step = ((around // 9 - 1) * blocks_y + around // 3 % 3 - 1) * blocks_z + around % 3 - 1
        tl.store(mark_ptr + block + step, 1, mask=known)


@triton.jit(do_not_specialize=["size", *GRID_SIZES])
def _number_kernel(
    number_ptr, corner_ptr, stored_ptr, size, shift_x, shift_y, blocks_y, blocks_z, ROWS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = row < size
    block = tl.load(stored_ptr + row, mask=known, other=0).to(tl.int32)
    tl.store(number_ptr + block, row, mask=known)
    z, rest = block % blocks_z, block // blocks_z
    corner = (rest // blocks_y << shift_x) + (rest % blocks_y << shift_y) + z
    tl.store(corner_ptr + row, (corner << _BITS).to(tl.int64), mask=known)


@triton.jit(do_not_specialize=["size", *GRID_SIZES])
def _places_kernel(
    out_ptr, key_ptr, number_ptr, size, shift_x, shift_y, blocks_y, blocks_z, ROWS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = row < size
    key = tl.load(key_ptr + row, mask=known, other=0).to(tl.int32)
    tl.store(out_ptr + row, place_of(key, number_ptr, shift_x, shift_y, blocks_y, blocks_z).to(tl.int64), mask=known)


@triton.jit(do_not_specialize=["size", "shift_x", "shift_y"])
def _keys_kernel(out_ptr, place_ptr, corner_ptr, size, shift_x, shift_y, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = row < size
    place = tl.load(place_ptr + row, mask=known, other=0).to(tl.int32)
    tl.store(out_ptr + row, key_of(place, corner_ptr, known, shift_x, shift_y).to(tl.int64), mask=known)


@triton.jit(do_not_specialize=["size"])
def _ranks_kernel(rank_ptr, place_ptr, size, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = row < size
    tl.store(rank_ptr + tl.load(place_ptr + row, mask=known, other=0), row, mask=known)


@triton.jit
def _in_volume(key, start_x, start_y, start_z, size_x, size_y, size_z, shift_x, shift_y):
    """Whether a cell is in a volume, and its index there."""
    x, y, z = key_parts(key, shift_x, shift_y)
    x, y, z = x - start_x, y - start_y, z - start_z
    there = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y) & (z >= 0) & (z < size_z)
    return there, (x * size_y + y) * size_z + z


_VOLUME = ["start_x", "start_y", "start_z", "size_x", "size_y", "size_z", "shift_x", "shift_y"]


@triton.jit(do_not_specialize=["size", *_VOLUME])
def _volume_kernel(
    table_ptr, volume_ptr, corner_ptr, size, start_x, start_y, start_z, size_x, size_y, size_z, shift_x, shift_y,
    SPREAD: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = place < size
    key = key_of(place, corner_ptr, known, shift_x, shift_y)
    there, index = _in_volume(key, start_x, start_y, start_z, size_x, size_y, size_z, shift_x, shift_y)
    there = there & known
    if SPREAD:
        tl.store(volume_ptr + index, tl.load(table_ptr + place, mask=there, other=0), mask=there)
    else:  # the table's last block, which is beyond `size`, has none
        value = tl.load(volume_ptr + index, mask=there, other=0)
        tl.store(table_ptr + place, value, mask=place < size + _CELLS)


@triton.jit(do_not_specialize=["blocks", *_VOLUME, "blocks_y", "blocks_z"])
def _mixed_kernel(
    some_ptr, open_ptr, volume_ptr, blocks, start_x, start_y, start_z, size_x, size_y, size_z, shift_x, shift_y,
    blocks_y, blocks_z, BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    known = block < blocks
    cell = tl.arange(0, _CELLS)
    rest = block // blocks_z
    x = (rest // blocks_y << _BITS)[:, None] + (cell >> 2 * _BITS)[None, :] - start_x
    y = (rest % blocks_y << _BITS)[:, None] + (cell >> _BITS & _INNER)[None, :] - start_y
    z = (block % blocks_z << _BITS)[:, None] + (cell & _INNER)[None, :] - start_z
    there = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y) & (z >= 0) & (z < size_z) & known[:, None]
    inside = tl.load(volume_ptr + (x * size_y + y) * size_z + z, mask=there, other=0).to(tl.int32)
    tl.store(some_ptr + block, tl.max(inside, 1), mask=known)
    tl.store(open_ptr + block, 1 - tl.min(inside, 1), mask=known)


@triton.jit(do_not_specialize=["size", "low_x", "low_y", "low_z", "high_x", "high_y", "high_z", *GRID_SIZES])
def _cases_kernel(
    out_ptr, bit_ptr, number_ptr, corner_ptr, mixed_ptr, size, low_x, low_y, low_z, high_x, high_y, high_z, shift_x,
    shift_y, blocks_y, blocks_z, MIXED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = place < size
    key = key_of(place, corner_ptr, known, shift_x, shift_y)
    x, y, z = key_parts(key, shift_x, shift_y)
    wanted = known & (x >= low_x) & (x <= high_x) & (y >= low_y) & (y <= high_y) & (z >= low_z) & (z <= high_z)
    if MIXED:
        wanted = wanted & (tl.load(mixed_ptr + _block_of(x, y, z, blocks_y, blocks_z), mask=known, other=0) > 0)
    case = tl.zeros((ROWS,), dtype=tl.int32)
    for corner in tl.static_range(8):
        end = tl.where(wanted, key + corner_step(corner, shift_x, shift_y), 0)
        there = place_of(end, number_ptr, shift_x, shift_y, blocks_y, blocks_z)
        case += tl.load(bit_ptr + there, mask=wanted, other=0).to(tl.int32) << corner
    tl.store(out_ptr + place, case.to(tl.uint8), mask=place < size + _CELLS)


_launch_mark, _launch_number = Launcher(_mark_kernel), Launcher(_number_kernel)
_launch_places, _launch_keys = Launcher(_places_kernel), Launcher(_keys_kernel)
_launch_ranks, _launch_volume = Launcher(_ranks_kernel), Launcher(_volume_kernel)
_launch_mixed, _launch_cases = Launcher(_mixed_kernel), Launcher(_cases_kernel)


def applies(grid: BlockGrid, device: torch.device) -> bool:
    """Whether the kernels can work on such blocks: on a CUDA device (or in Triton's interpreter), with 32-bit keys."""
    return (device.type == "cuda" or INTERPRETED) and grid.limit < INDEX_LIMIT


def sizes(grid: BlockGrid) -> tuple[int, int, int, int]:
    """What places are computed from, in the order of `GRID_SIZES`."""
    return *grid.shifts, *grid.shape[1:]


def marked(coords: Tensor, grid: BlockGrid) -> tuple[Tensor, Tensor]:
    """See `BlockGrid.marked`; coordinates [N, 3] are integers of any kind."""
    keys = torch.empty(len(coords), dtype=torch.int64, device=coords.device)
    blocks = torch.zeros(grid.shape, dtype=torch.bool, device=coords.device)
    arguments = (keys, blocks.view(torch.uint8), coords, len(coords), *coords.stride(), *grid.low, *sizes(grid))
    _launch_mark(_programs(len(coords)), arguments, {"ROWS": ROWS})
    return keys, blocks


def numbered(stored: Tensor, grid: BlockGrid, number: Tensor) -> Tensor:
    """Fill in the numbers of stored blocks, see `Blocks`; gives the keys of their first cells, [blocks] int64."""
    corners = torch.empty_like(stored)
    if len(stored):
        _launch_number(_programs(len(stored)), (number, corners, stored, len(stored), *sizes(grid)), {"ROWS": ROWS})
    return corners


def places(keys: Tensor, blocks: Blocks) -> Tensor:
    """See `Blocks.places`; [...] int64 keys."""
    keys = keys.contiguous()
    out, size = torch.empty_like(keys), keys.numel()
    if size:
        _launch_places(_programs(size), (out, keys, blocks.number, size, *sizes(blocks.grid)), {"ROWS": ROWS})
    return out


def keys(places: Tensor, blocks: Blocks) -> Tensor:
    """See `Blocks.keys`; [N] int64 places."""
    out, size = torch.empty_like(places), len(places)
    if size:
        _launch_keys(_programs(size), (out, places, blocks.corners, size, *blocks.grid.shifts), {"ROWS": ROWS})
    return out


def rank(places: Tensor, count: int) -> Tensor:
    """See `Blocks.ranks`; [count] int32."""
    found = torch.full((count,), -1, dtype=torch.int32, device=places.device)
    if len(places):
        _launch_ranks(_programs(len(places)), (found, places, len(places)), {"ROWS": ROWS})
    return found


def spread(table: Tensor, blocks: Blocks) -> Tensor:
    """See `Blocks.spread`; [count] bool."""
    volume = torch.zeros(blocks.grid.volume, dtype=torch.bool, device=table.device)
    _launch_volume(_programs(blocks.count - CELLS), _with_volume(table, volume, blocks), {"SPREAD": True, "ROWS": ROWS})
    return volume


def gathered(volume: Tensor, blocks: Blocks) -> Tensor:
    """See `Blocks.gathered`; [X, Y, Z] bool."""
    table = torch.empty(blocks.count, dtype=torch.bool, device=volume.device)
    _launch_volume(_programs(blocks.count), _with_volume(table, volume, blocks), {"SPREAD": False, "ROWS": ROWS})
    return table


def _with_volume(table: Tensor, volume: Tensor, blocks: Blocks) -> tuple:
    grid = blocks.grid
    table, volume = table.view(torch.uint8), volume.view(torch.uint8)
    return table, volume, blocks.corners, blocks.count - CELLS, *grid.start, *grid.volume, *grid.shifts


def some_and_open(volume: Tensor, grid: BlockGrid) -> tuple[Tensor, Tensor]:
    """See `BlockGrid.some_and_open`; [X, Y, Z] bool."""
    some, not_all = (torch.empty(grid.shape, dtype=torch.bool, device=volume.device) for _ in range(2))
    count, few = some.numel(), ROWS // CELLS
    bytes_of = [mask.view(torch.uint8) for mask in (some, not_all, volume)]
    arguments = (*bytes_of, count, *grid.start, *grid.volume, *sizes(grid))
    _launch_mixed((-(-count // few),), arguments, {"BLOCKS": few})
    return some, not_all


def cases(bits: Tensor, blocks: Blocks, low: int, high: int, mixed: Tensor | None) -> Tensor:
    """[count] uint8 cases of cells, which flexicubes.py says in plain torch.

    Args:
        bits: [count] uint8, 1 for lattice vertices inside.
        blocks: the index space.
        low, high: coordinates of the cells that have a case; 0 for others.
        mixed: [X, Y, Z] bool, blocks whose cells have one, if not all.
    """
    out, grid = torch.empty_like(bits), blocks.grid
    masked = bits if mixed is None else mixed.contiguous().view(torch.uint8)
    borders = [end - start for end in (low, high) for start in grid.low]
    tensors = (out, bits, blocks.number, blocks.corners, masked)
    arguments = (*tensors, blocks.count - CELLS, *borders, *sizes(grid))
    _launch_cases(_programs(blocks.count), arguments, {"MIXED": mixed is not None, "ROWS": ROWS})
    return out


def _programs(size: int) -> tuple[int]:
    return (-(-size // ROWS),)
