"""Triton kernels of what is averaged, placed and gathered at lattice vertices and cubes; inference only.

Every one has a twin in plain torch, in lattice.py, that it must equal bit for bit. Hence sums run in the twin's order,
quotients are rounded to nearest, and products are not contracted with the sums that follow them.

Keys of cells and lattice vertices, and their places in tables (blocks.py), are numbers of 32 bits here. Arguments are
contiguous, but for the rows of features.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.geometry.blocks import CELLS, BlockGrid, Blocks, Ranks
from gap3d_app.geometry.lattice import WEIGHTS, half_cell
from gap3d_app.geometry.triton_blocks import GRID_SIZES, corner_step, key_of, key_parts, place_of, sizes
from gap3d_app.kernels import INDEX_LIMIT, Launcher

CELLS_AT_ONCE = 1024
"""Of a program that goes over a table."""
LISTED_TILE = 256
"""Numbers of a program's tile, vertices by attributes, where vertices are listed: a warp's, as in triton_cubes.py."""
CUBES = 16
"""Of a program that gathers weights."""
EXACT = {"enable_fp_fusion": False}

_CELLS = tl.constexpr(CELLS)
_FIRST_WEIGHT = tl.constexpr(WEIGHTS.start)
_SIDES = tl.constexpr(WEIGHTS.stop - WEIGHTS.start - 1)  # gamma comes last


@triton.jit(do_not_specialize=["vertices", "row_stride", *GRID_SIZES])
def _mean_kernel(
    out_ptr, place_ptr, corner_ptr, rank_ptr, feats_ptr, number_ptr, vertices, row_stride, shift_x, shift_y, blocks_y,
    blocks_z, bias, LISTED: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = number < vertices
    place = tl.load(place_ptr + number, mask=known, other=0).to(tl.int32) if LISTED else number
    vertex = key_of(place, corner_ptr, known, shift_x, shift_y)
    vertex = tl.where(known, vertex, (1 << shift_x) + (1 << shift_y) + 1)  # whose eight cells have keys
    column = tl.arange(0, COLUMNS)
    wanted = (column < WIDTH)[None, :]
    total = tl.zeros((BLOCK, COLUMNS), dtype=tl.float32)
    count = tl.zeros((BLOCK,), dtype=tl.float32)
    for corner in tl.static_range(8):
        cell = vertex - corner_step(corner, shift_x, shift_y)
        row = tl.load(rank_ptr + place_of(cell, number_ptr, shift_x, shift_y, blocks_y, blocks_z))
        # the channels of sdf, deform 3 and colour 6 of this corner
        channel = tl.where(column == 0, corner, tl.where(column < 4, 7 + 3 * corner, 49 + 6 * corner) + column)
        there = row >= 0
        source = feats_ptr + row[:, None] * row_stride + channel[None, :]
        total += tl.load(source, mask=there[:, None] & wanted, other=0.0)
        count += there.to(tl.float32)
    mean = tl.math.div_rn(total, tl.broadcast_to(tl.maximum(count, 1.0)[:, None], (BLOCK, COLUMNS)))
    sdf = tl.where(count[:, None] > 0, mean - bias, 1.0)
    if LISTED:
        target = out_ptr + number[:, None] * WIDTH + column[None, :]
        tl.store(target, tl.where(column[None, :] == 0, sdf, mean), mask=known[:, None] & wanted)
    else:  # the table's last block, which is beyond `vertices`, has none
        negative = ((sdf < 0) & known[:, None]).to(tl.uint8)
        tl.store(out_ptr + number[:, None], negative, mask=(number < vertices + _CELLS)[:, None])


@triton.jit(do_not_specialize=["vertices", "low_x", "low_y", "low_z", "shift_x", "shift_y"])
def _placed_kernel(
    value_ptr, move_ptr, color_ptr, place_ptr, corner_ptr, vertices, low_x, low_y, low_z, shift_x, shift_y, resolution,
    half_cell, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = number < vertices
    place = tl.load(place_ptr + number, mask=known, other=0).to(tl.int32)
    x, y, z = key_parts(key_of(place, corner_ptr, known, shift_x, shift_y), shift_x, shift_y)
    axis = tl.arange(0, COLUMNS)[None, :]
    at = tl.where(axis == 0, (x + low_x)[:, None], tl.where(axis == 1, (y + low_y)[:, None], (z + low_z)[:, None]))
    rest = tl.math.div_rn(at.to(tl.float32), tl.full((BLOCK, COLUMNS), 0.0, tl.float32) + resolution) - 0.5
    inside = known[:, None] & (axis < 3)
    move = tl.load(move_ptr + number[:, None] * 3 + axis, mask=inside, other=0.0)
    tl.store(value_ptr + number[:, None] * WIDTH + 1 + axis, rest + half_cell * move, mask=inside)
    if WIDTH == 10:
        of_color = known[:, None] & (axis < 6)
        color = tl.load(color_ptr + number[:, None] * 6 + axis, mask=of_color, other=0.0)
        tl.store(value_ptr + number[:, None] * WIDTH + 4 + axis, color, mask=of_color)


@triton.jit(do_not_specialize=["cubes", "row_stride", *GRID_SIZES])
def _weights_kernel(
    side_ptr, gamma_ptr, key_ptr, rank_ptr, feats_ptr, number_ptr, cubes, row_stride, shift_x, shift_y, blocks_y,
    blocks_z, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = number < cubes
    key = tl.load(key_ptr + number, mask=known, other=0).to(tl.int32)
    row = tl.load(rank_ptr + place_of(key, number_ptr, shift_x, shift_y, blocks_y, blocks_z))
    column = tl.arange(0, 32)[None, :]
    source = feats_ptr + row[:, None] * row_stride + _FIRST_WEIGHT + column
    weight = tl.load(source, mask=(known & (row >= 0))[:, None] & (column <= _SIDES), other=0.0)
    tl.store(side_ptr + number[:, None] * _SIDES + column, weight, mask=known[:, None] & (column < _SIDES))
    tl.store(gamma_ptr + number[:, None] + column - _SIDES, weight, mask=known[:, None] & (column == _SIDES))


_launch_mean, _launch_placed, _launch_weights = map(Launcher, (_mean_kernel, _placed_kernel, _weights_kernel))


def applies(feats: Tensor, grid: BlockGrid) -> bool:
    """Whether the kernels can work on features [N, C] of cubes in such a grid.

    They need float32, no gradient, a grid with kernels of its own and offsets that fit 32 bits: a lattice vertex has up
    to 10 numbers.
    """
    return (
        grid.kernels is not None
        and feats.dtype == torch.float32
        and feats.stride(1) == 1
        and max(len(feats) * feats.stride(0), 10 * grid.cells) < INDEX_LIMIT
        and not (torch.is_grad_enabled() and feats.requires_grad)
    )


def inside(rank: Ranks, feats: Tensor, bias: float) -> Tensor:
    """See `ActiveCubes.inside`; arguments as of `mean`."""
    out = torch.empty(rank.blocks.count, dtype=torch.bool, device=feats.device)
    _means(out.view(torch.uint8), None, rank, feats, bias, 1)
    return out


def mean(places: Tensor, rank: Ranks, feats: Tensor, bias: float, width: int) -> Tensor:
    """See `ActiveCubes.mean`.

    Args:
        places: [P] int64 of vertices.
        rank: rows of `feats`, those of active cubes.
        feats: [N, C].
        bias: to subtract from the sdf.
        width: leading attributes that are wanted: 1, 4 or 10.

    Returns:
        [P, width] float32.
    """
    out = feats.new_empty(len(places), width)
    if len(places):
        _means(out, places, rank, feats, bias, width)
    return out


def _means(out: Tensor, places: Tensor | None, rank: Ranks, feats: Tensor, bias: float, width: int) -> None:
    """Means at some places, or whether that of the sdf is negative at every place of a table."""
    blocks, columns = rank.blocks, triton.next_power_of_2(width)
    listed = places is not None
    block = (LISTED_TILE if listed else CELLS_AT_ONCE) // columns
    size = len(places) if listed else blocks.count - CELLS
    tensors = (out, places if listed else blocks.corners, blocks.corners, rank.rows, feats, blocks.number)
    _launch_mean(
        (-(-len(out) // block),),
        (*tensors, size, feats.stride(0), *sizes(blocks.grid), bias),
        {"LISTED": listed, "WIDTH": width, "COLUMNS": columns, "BLOCK": block},
        num_warps=1 if listed else 4,
        **EXACT,
    )


def placed(
    mean: Tensor, moves: Tensor, color: Tensor | None, places: Tensor, blocks: Blocks, resolution: int
) -> Tensor:
    """See `ActiveCubes.values`.

    Args:
        mean: [P, 4 or 10] of vertices, which becomes the result.
        moves: [P, 3] in half cells.
        color: [P, 6] if there are ten attributes.
        places: [P] int64 of the vertices.
        blocks: that the places are of.
        resolution: cells per axis of the grid.

    Returns:
        `mean`.
    """
    width = mean.shape[1]
    if len(mean):
        columns = 8 if width == 10 else 4
        block = LISTED_TILE // columns
        tensors = (mean, moves, moves if color is None else color, places, blocks.corners)
        _launch_placed(
            (-(-len(mean) // block),),
            (*tensors, len(mean), *blocks.grid.low, *blocks.grid.shifts, float(resolution), half_cell(resolution)),
            {"WIDTH": width, "COLUMNS": columns, "BLOCK": block},
            num_warps=1,
            **EXACT,
        )
    return mean


def raw_weights(cells: Tensor, rank: Ranks, feats: Tensor) -> tuple[Tensor, Tensor]:
    """See `ActiveCubes.raw_weights`.

    Args:
        cells: [S] int64 keys of cubes.
        rank: rows of `feats`, those of active cubes.
        feats: [N, C].

    Returns:
        [S, 20] and [S] float32.
    """
    sides, gamma = feats.new_empty(len(cells), 20), feats.new_empty(len(cells))
    if len(cells):
        tensors = (sides, gamma, cells, rank.rows, feats, rank.blocks.number)
        arguments = (*tensors, len(cells), feats.stride(0), *sizes(rank.blocks.grid))
        _launch_weights((-(-len(cells) // CUBES),), arguments, {"BLOCK": CUBES}, num_warps=1)
    return sides, gamma
