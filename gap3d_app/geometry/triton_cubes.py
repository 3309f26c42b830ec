"""Triton kernels of surface extraction: cases, dual vertices and faces, each in one launch; inference only.

Every one has a twin in plain torch that it must equal bit for bit: in flexicubes.py and dual.py. Hence sums run in the
twin's order, quotients are rounded to nearest, and products are not contracted with the sums that follow them. They run
where those of triton_lattice.py do.

Keys of cells and lattice vertices, and their places in tables (blocks.py), are numbers of 32 bits here. Arguments are
contiguous.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.geometry.blocks import Ranks
from gap3d_app.geometry.triton_blocks import GRID_SIZES, corner_step, place_of, sizes
from gap3d_app.geometry.triton_lattice import EXACT
from gap3d_app.kernels import Launcher

VERTICES = 32
"""Of one program, a warp: with a lane for each vertex nothing that is known of it goes from warp to warp."""
QUADS = 128
"""Quads of one program."""

_PATCH_EDGES = tl.constexpr(7)


@triton.jit(do_not_specialize=["size", *GRID_SIZES])
def _surface_kernel(
    own_ptr, used_ptr, mark_ptr, key_ptr, case_ptr, twin_ptr, flagged_ptr, end_ptr, number_ptr, size, shift_x, shift_y,
    blocks_y, blocks_z, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = row < size
    key = tl.load(key_ptr + row, mask=known, other=0).to(tl.int32)
    own = tl.load(case_ptr + place_of(key, number_ptr, shift_x, shift_y, blocks_y, blocks_z)).to(tl.int32)
    beside = tl.where(known, key + tl.load(twin_ptr + own).to(tl.int32), 0)
    neighbour = tl.load(case_ptr + place_of(beside, number_ptr, shift_x, shift_y, blocks_y, blocks_z)).to(tl.int32)
    turned = (tl.load(flagged_ptr + own) > 0) & (tl.load(flagged_ptr + neighbour) > 0)
    tl.store(own_ptr + row, own.to(tl.int64), mask=known)
    tl.store(used_ptr + row, tl.where(turned, 255 - own, own).to(tl.int64), mask=known)
    ends = tl.load(end_ptr + own).to(tl.int32)
    for corner in tl.static_range(8):
        crossed = known & (ends >> corner & 1 > 0)
        end = tl.where(crossed, key + corner_step(corner, shift_x, shift_y), 0)
        tl.store(mark_ptr + place_of(end, number_ptr, shift_x, shift_y, blocks_y, blocks_z), 1, mask=crossed)


@triton.jit(do_not_specialize=["vertices", *GRID_SIZES])
def _dual_kernel(
    out_ptr, owner_ptr, base_ptr, surface_ptr, case_ptr, rank_ptr, value_ptr, weight_ptr, patch_edges_ptr, edges_ptr,
    number_ptr, vertices, shift_x, shift_y, blocks_y, blocks_z,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dual = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = dual < vertices
    cube = tl.load(owner_ptr + dual, mask=known, other=0)
    cell = tl.load(surface_ptr + cube).to(tl.int32)
    patch = tl.load(case_ptr + cube) * 4 + dual - tl.load(base_ptr + cube)
    column = tl.arange(0, COLUMNS)
    wanted = (column < WIDTH)[None, :]
    total = tl.zeros((BLOCK, COLUMNS), dtype=tl.float32)
    betas = tl.zeros((BLOCK,), dtype=tl.float32)
    # a loop, not unrolled: the lanes of many programs hide its loads better than the registers of a few
    for number in range(_PATCH_EDGES):
        edge = tl.load(patch_edges_ptr + patch * _PATCH_EDGES + number, mask=known, other=-1).to(tl.int32)
        there = edge >= 0
        corner_a = tl.load(edges_ptr + 2 * edge, mask=there, other=0).to(tl.int32)
        corner_b = tl.load(edges_ptr + 2 * edge + 1, mask=there, other=0).to(tl.int32)
        key_a = tl.where(there, cell + corner_step(corner_a, shift_x, shift_y), 0)
        place_a = place_of(key_a, number_ptr, shift_x, shift_y, blocks_y, blocks_z)
        end_a = tl.load(rank_ptr + place_a, mask=there, other=0)
        key_b = tl.where(there, cell + corner_step(corner_b, shift_x, shift_y), 0)
        place_b = place_of(key_b, number_ptr, shift_x, shift_y, blocks_y, blocks_z)
        end_b = tl.load(rank_ptr + place_b, mask=there, other=0)
        first, second = value_ptr + end_a * (WIDTH + 1), value_ptr + end_b * (WIDTH + 1)
        weight = weight_ptr + cube * 20
        beta = tl.load(weight + edge, mask=there, other=0.0)
        wa = tl.load(second, mask=there, other=0.0) * tl.load(weight + 12 + corner_b, mask=there, other=0.0)
        wb = tl.load(first, mask=there, other=1.0) * tl.load(weight + 12 + corner_a, mask=there, other=1.0)
        some = there[:, None] & wanted
        a = tl.load(first[:, None] + 1 + column[None, :], mask=some, other=0.0)
        b = tl.load(second[:, None] + 1 + column[None, :], mask=some, other=0.0)
        span = tl.broadcast_to((wa - wb)[:, None], (BLOCK, COLUMNS))
        crossing = tl.math.div_rn(a * wa[:, None] - b * wb[:, None], span)
        total += crossing * beta[:, None]
        betas += beta
    betas = tl.where(known, betas, 1.0)
    mean = tl.math.div_rn(total, tl.broadcast_to(betas[:, None], (BLOCK, COLUMNS)))
    target = out_ptr + dual.to(tl.int64)[:, None] * WIDTH + column[None, :]
    tl.store(target, mean, mask=known[:, None] & wanted)


@triton.jit
def _ring_corner(
    corner: tl.constexpr, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr,
    number_ptr, shift_x, shift_y, blocks_y, blocks_z,
):  # fmt: skip
    """Dual vertex and gamma of one of the four cubes around a crossing edge."""
    step = tl.load(step_ptr + code * 4 + corner, mask=known, other=0)
    edge = tl.load(edge_ptr + code * 4 + corner, mask=known, other=0)
    place = place_of(tl.where(known, cell + step, 0).to(tl.int32), number_ptr, shift_x, shift_y, blocks_y, blocks_z)
    cube = tl.load(rank_ptr + place, mask=known, other=0)
    patch = tl.load(patch_ptr + tl.load(case_ptr + cube) * 12 + edge)
    return tl.load(base_ptr + cube) + patch, tl.load(gamma_ptr + cube)


@triton.jit(do_not_specialize=["quads", *GRID_SIZES])
def _faces_kernel(
    out_ptr, row_ptr, code_ptr, surface_ptr, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr,
    number_ptr, quads, shift_x, shift_y, blocks_y, blocks_z, BLOCK: tl.constexpr,
):  # fmt: skip
    quad = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = quad < quads
    cell = tl.load(surface_ptr + tl.load(row_ptr + quad, mask=known, other=0))
    code = tl.load(code_ptr + quad, mask=known, other=0)
    p0, gamma0 = _ring_corner(
        0, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr,
        number_ptr, shift_x, shift_y, blocks_y, blocks_z,
    )  # fmt: skip
    p1, gamma1 = _ring_corner(
        1, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr,
        number_ptr, shift_x, shift_y, blocks_y, blocks_z,
    )  # fmt: skip
    p2, gamma2 = _ring_corner(
        2, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr,
        number_ptr, shift_x, shift_y, blocks_y, blocks_z,
    )  # fmt: skip
    p3, gamma3 = _ring_corner(
        3, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr,
        number_ptr, shift_x, shift_y, blocks_y, blocks_z,
    )  # fmt: skip
    even = gamma0 * gamma2 > gamma1 * gamma3
    target = out_ptr + quad.to(tl.int64) * 6
    tl.store(target, p0, mask=known)
    tl.store(target + 1, p1, mask=known)
    tl.store(target + 2, tl.where(even, p2, p3), mask=known)
    tl.store(target + 3, tl.where(even, p0, p3), mask=known)
    tl.store(target + 4, tl.where(even, p2, p1), mask=known)
    tl.store(target + 5, tl.where(even, p3, p2), mask=known)


_launch_surface, _launch_dual, _launch_faces = map(Launcher, (_surface_kernel, _dual_kernel, _faces_kernel))


def surface_cases(
    surface: Tensor, case: Tensor, rank: Ranks, table: dict[str, Tensor], twin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cases of surface cubes, and the ends of crossing edges; flexicubes.py says both in plain torch.

    Args:
        surface: [S] int64 keys of the cubes.
        case: [count] uint8 of all cells.
        rank: of a list in the same blocks.
        table: case tables.
        twin: [256] int64 steps to the neighbour that an ambiguous case depends on.

    Returns:
        [S] int64 cases, [S] int64 those that are used, [count] bool lattice vertices at the ends of crossing edges.
    """
    own, used, blocks = torch.empty_like(surface), torch.empty_like(surface), rank.blocks
    ends = torch.zeros(blocks.count, dtype=torch.bool, device=case.device)
    tables = (twin, table["flagged"].view(torch.uint8), table["ends"])
    tensors = (own, used, ends.view(torch.uint8), surface, case, *tables, blocks.number)
    arguments = (*tensors, len(surface), *sizes(blocks.grid))
    _launch_surface((-(-len(surface) // QUADS),), arguments, {"BLOCK": QUADS}, **EXACT)
    return own, used, ends


def dual_vertices(
    owner: Tensor,
    base: Tensor,
    surface: Tensor,
    used: Tensor,
    rank: Ranks,
    value: Tensor,
    weights: Tensor,
    table: dict[str, Tensor],
) -> Tensor:
    """See `dual.dual_vertices`; one lane per vertex in place of one entry per crossing.

    Args:
        owner: [V] int64 row of the surface cube that has the vertex.
        base: [S] int64 number of a cube's first vertex.
        surface: [S] int64 keys of the cubes.
        used: [S] int64 their cases.
        rank: rows of lattice vertices.
        value: [P, 1 + A] float32 sdf and attributes of lattice vertices.
        weights: [S, 20] float32 beta 12 and alpha 8.
        table: case tables.

    Returns:
        [V, A] float32.
    """
    width = value.shape[1] - 1
    out = value.new_empty(len(owner), width)
    tables = (table["patch_edges"], table["edges"])
    _launch_dual(
        (-(-len(owner) // VERTICES),),
        (out, owner, base, surface, used, rank.rows, value, weights, *tables, rank.blocks.number, len(owner),
         *sizes(rank.blocks.grid)),
        {"WIDTH": width, "COLUMNS": triton.next_power_of_2(width), "BLOCK": VERTICES},
        num_warps=1,
        **EXACT,
    )
    return out


def faces(
    row: Tensor,
    code: Tensor,
    surface: Tensor,
    rank: Ranks,
    used: Tensor,
    base: Tensor,
    gamma: Tensor,
    table: dict[str, Tensor],
    ring: Tensor,
) -> Tensor:
    """See `dual.find_loops` and `dual.split`, which this is in one.

    Args:
        row: [Q] int64 row of the surface cube where the crossing edge starts.
        code: [Q] int64 axis and turn of the edge.
        surface: [S] int64 keys of surface cubes.
        rank: their rows.
        used: [S] int64 their cases.
        base: [S] int64 number of a cube's first vertex.
        gamma: [S] float32.
        table: case tables.
        ring: [6, 4] int64 steps to the cubes around an edge.

    Returns:
        [2 Q, 3] int64.
    """
    out = torch.empty(2 * len(row), 3, dtype=torch.int64, device=row.device)
    if len(row):
        tables = (ring, table["ring_edges"], table["edge_patch"])
        tensors = (out, row, code, surface, rank.rows, used, base, gamma, *tables, rank.blocks.number)
        arguments = (*tensors, len(row), *sizes(rank.blocks.grid))
        _launch_faces((-(-len(row) // QUADS),), arguments, {"BLOCK": QUADS}, **EXACT)
    return out
