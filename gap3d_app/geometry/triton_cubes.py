"""Triton kernels of surface extraction: corner means, dual vertices and faces, each in one launch; inference only.

Every one has a twin in plain torch that it must equal bit for bit: `ActiveCubes.mean` in lattice.py, and functions
in dual.py. Hence sums run in the twin's order, quotients are rounded to nearest, and products are not contracted with
the sums that follow them.

Kernels number cells and lattice vertices in 32 bits. Their arguments are contiguous, but for the rows of features.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.kernels import INDEX_LIMIT, INTERPRETED, Launcher

TILE = 1024
"""Numbers of one program's tile: vertices by attributes."""
QUADS = 128
"""Quads of one program."""
EXACT = {"num_warps": 4, "enable_fp_fusion": False}

_PATCH_EDGES = tl.constexpr(7)


@triton.jit
def _step(corner, step_x, step_y):
    """Flat step from a cell to its corner."""
    return (corner & 1) * step_x + (corner >> 1 & 1) * step_y + (corner >> 2 & 1)


# Sizes differ from mesh to mesh: to specialise on those that 16 divides would mean to compile again and again.
@triton.jit(do_not_specialize=["vertices", "cells", "step_x", "step_y"])
def _mean_kernel(
    out_ptr, vertex_ptr, rank_ptr, feats_ptr, vertices, cells, row_stride, step_x, step_y, bias,
    LISTED: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = place < vertices
    vertex = tl.load(vertex_ptr + place, mask=known, other=0).to(tl.int32) if LISTED else place
    column = tl.arange(0, COLUMNS)
    wanted = (column < WIDTH)[None, :]
    total = tl.zeros((BLOCK, COLUMNS), dtype=tl.float32)
    count = tl.zeros((BLOCK,), dtype=tl.float32)
    for corner in tl.static_range(8):
        cell = vertex - _step(corner, step_x, step_y)
        row = tl.load(rank_ptr + tl.where(cell < 0, cell + cells, cell), mask=known, other=-1)
        # the channels of sdf, deform 3 and colour 6 of this corner
        channel = tl.where(column == 0, corner, tl.where(column < 4, 7 + 3 * corner, 49 + 6 * corner) + column)
        there = row >= 0
        source = feats_ptr + row[:, None] * row_stride + channel[None, :]
        total += tl.load(source, mask=there[:, None] & wanted, other=0.0)
        count += there.to(tl.float32)
    mean = tl.math.div_rn(total, tl.broadcast_to(tl.maximum(count, 1.0)[:, None], (BLOCK, COLUMNS)))
    sdf = tl.where(count[:, None] > 0, mean - bias, 1.0)
    target = out_ptr + place[:, None] * WIDTH + column[None, :]
    tl.store(target, tl.where(column[None, :] == 0, sdf, mean), mask=known[:, None] & wanted)


@triton.jit(do_not_specialize=["vertices", "step_x", "step_y"])
def _dual_kernel(
    out_ptr, owner_ptr, base_ptr, surface_ptr, case_ptr, rank_ptr, value_ptr, weight_ptr, patch_edges_ptr, edges_ptr,
    vertices, step_x, step_y, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
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
        end_a = tl.load(rank_ptr + cell + _step(corner_a, step_x, step_y), mask=there, other=0)
        end_b = tl.load(rank_ptr + cell + _step(corner_b, step_x, step_y), mask=there, other=0)
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
    corner: tl.constexpr, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr
):  # fmt: skip
    """Dual vertex and gamma of one of the four cubes around a crossing edge."""
    step = tl.load(step_ptr + code * 4 + corner, mask=known, other=0)
    edge = tl.load(edge_ptr + code * 4 + corner, mask=known, other=0)
    cube = tl.load(rank_ptr + cell + step, mask=known, other=0)
    patch = tl.load(patch_ptr + tl.load(case_ptr + cube) * 12 + edge)
    return tl.load(base_ptr + cube) + patch, tl.load(gamma_ptr + cube)


@triton.jit(do_not_specialize=["quads"])
def _faces_kernel(
    out_ptr, row_ptr, code_ptr, surface_ptr, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr,
    quads, BLOCK: tl.constexpr,
):  # fmt: skip
    quad = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = quad < quads
    cell = tl.load(surface_ptr + tl.load(row_ptr + quad, mask=known, other=0))
    code = tl.load(code_ptr + quad, mask=known, other=0)
    p0, gamma0 = _ring_corner(
        0, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr
    )
    p1, gamma1 = _ring_corner(
        1, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr
    )
    p2, gamma2 = _ring_corner(
        2, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr
    )
    p3, gamma3 = _ring_corner(
        3, cell, code, known, rank_ptr, case_ptr, base_ptr, gamma_ptr, step_ptr, edge_ptr, patch_ptr
    )
    even = gamma0 * gamma2 > gamma1 * gamma3
    target = out_ptr + quad.to(tl.int64) * 6
    tl.store(target, p0, mask=known)
    tl.store(target + 1, p1, mask=known)
    tl.store(target + 2, tl.where(even, p2, p3), mask=known)
    tl.store(target + 3, tl.where(even, p0, p3), mask=known)
    tl.store(target + 4, tl.where(even, p2, p1), mask=known)
    tl.store(target + 5, tl.where(even, p3, p2), mask=known)


_launch_mean, _launch_dual, _launch_faces = map(Launcher, (_mean_kernel, _dual_kernel, _faces_kernel))


def applies(feats: Tensor, cells: int) -> bool:
    """Whether the kernels can work on features [N, C] in a box of `cells` cells.

    They need float32, no gradient, a CUDA device (or Triton's interpreter) and offsets that fit 32 bits: the
    widest row per cell has 20 numbers.
    """
    return (
        (feats.is_cuda or INTERPRETED)
        and feats.dtype == torch.float32
        and feats.stride(1) == 1
        and max(len(feats) * feats.stride(0), 20 * cells) < INDEX_LIMIT
        and not (torch.is_grad_enabled() and feats.requires_grad)
    )


def mean(vertices: Tensor | None, rank: Tensor, feats: Tensor, strides: list[int], bias: float, width: int) -> Tensor:
    """See `ActiveCubes.mean`.

    Args:
        vertices: [P] int64 flat indices, or None for all of the box.
        rank: [count] int32 rows of `feats`, -1 for inactive cells.
        feats: [N, C].
        strides: of the box.
        bias: to subtract from the sdf.
        width: leading attributes that are wanted: 1, 4 or 10.

    Returns:
        [P, width] float32.
    """
    size = len(rank) if vertices is None else len(vertices)
    out = feats.new_empty(size, width)
    columns = triton.next_power_of_2(width)
    listed, block = vertices is not None, TILE // columns
    _launch_mean(
        (-(-size // block),),
        (out, vertices if listed else rank, rank, feats, size, len(rank), feats.stride(0), *strides[:2], bias),
        {"LISTED": listed, "WIDTH": width, "COLUMNS": columns, "BLOCK": block},
        **EXACT,
    )
    return out


def dual_vertices(
    owner: Tensor,
    base: Tensor,
    surface: Tensor,
    used: Tensor,
    rank: Tensor,
    value: Tensor,
    weights: Tensor,
    table: dict[str, Tensor],
    strides: list[int],
) -> Tensor:
    """See `dual.dual_vertices`; one lane per vertex in place of one entry per crossing.

    Args:
        owner: [V] int64 row of the surface cube that has the vertex.
        base: [S] int64 number of a cube's first vertex.
        surface: [S] int64 flat indices of the cubes.
        used: [S] int64 their cases.
        rank: [count] int32 row of a lattice vertex.
        value: [P, 1 + A] float32 sdf and attributes of lattice vertices.
        weights: [S, 20] float32 beta 12 and alpha 8.
        table: case tables.
        strides: of the box.

    Returns:
        [V, A] float32.
    """
    width = value.shape[1] - 1
    out = value.new_empty(len(owner), width)
    columns = triton.next_power_of_2(width)
    tables = (table["patch_edges"], table["edges"])
    _launch_dual(
        (-(-len(owner) // (TILE // columns)),),
        (out, owner, base, surface, used, rank, value, weights, *tables, len(owner), *strides[:2]),
        {"WIDTH": width, "COLUMNS": columns, "BLOCK": TILE // columns},
        **EXACT,
    )
    return out


def faces(
    row: Tensor,
    code: Tensor,
    surface: Tensor,
    rank: Tensor,
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
        surface: [S] int64 flat indices of surface cubes.
        rank: [count] int32 their rows.
        used: [S] int64 their cases.
        base: [S] int64 number of a cube's first vertex.
        gamma: [S] float32.
        table: case tables.
        ring: [6, 4] int64 flat steps to the cubes around an edge.

    Returns:
        [2 Q, 3] int64.
    """
    out = torch.empty(2 * len(row), 3, dtype=torch.int64, device=row.device)
    if len(row):
        tables = (ring, table["ring_edges"], table["edge_patch"])
        arguments = (out, row, code, surface, rank, used, base, gamma, *tables, len(row))
        _launch_faces((-(-len(row) // QUADS),), arguments, {"BLOCK": QUADS}, **EXACT)
    return out
