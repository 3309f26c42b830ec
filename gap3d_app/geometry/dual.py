"""Dual vertices and their faces in plain torch: differentiable, and what the kernels of triton_cubes.py must equal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gap3d_app.geometry.blocks import Ranks

PAIRS_AT_ONCE = 1 << 21
"""Crossing edges of cubes whose attributes are in memory at a time (each takes about 200 bytes)."""


@dataclass
class Crossings:
    """One entry per crossing edge of every surface cube.

    Attributes:
        cube: [E] int64 row of the surface cube.
        edge: [E] int64 which of its 12 edges.
        vertex: [E] int64 the dual vertex of its patch.
        corners: [E, 2] int64 the edge's corners in the cube.
        ends: [E, 2] int32 the lattice vertices there.
    """

    cube: Tensor
    edge: Tensor
    vertex: Tensor
    corners: Tensor
    ends: Tensor


def find_crossings(
    table: dict[str, Tensor], used: Tensor, base: Tensor, surface: Tensor, offsets: Tensor, rank: Ranks
) -> Crossings:
    """Crossing edges of surface cubes, those of a patch together.

    Args:
        table: case tables.
        used: [S] int64 case of every surface cube.
        base: [S] int64 number of a cube's first dual vertex.
        surface: [S] int64 keys.
        offsets: [8] steps to a cell's corners.
        rank: rows of lattice vertices.
    """
    pairs = table["pairs"][used]
    cube, slot = (pairs[..., 0] >= 0).nonzero(as_tuple=True)
    patch, edge = pairs[cube, slot].long().unbind(-1)
    corners = table["edges"][edge]
    ends = rank[surface[cube][:, None] + offsets[corners]]
    return Crossings(cube, edge, base[cube] + patch, corners, ends)


def dual_vertices(crossings: Crossings, count: int, value: Tensor, weights: Tensor) -> Tensor:
    """Dual vertices as weighted means of the crossings on their patches' edges.

    Args:
        crossings: E of them.
        count: V.
        value: [P, 1 + A] sdf and attributes of lattice vertices.
        weights: [S, 20] beta 12 and alpha 8 of surface cubes.

    Returns:
        [V, A].
    """
    total = value.new_zeros(count, value.shape[1])
    for start in range(0, len(crossings.cube), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        cube, (a, b) = crossings.cube[some], crossings.ends[some].unbind(1)
        alpha_a, alpha_b = weights[cube[:, None], 12 + crossings.corners[some]].unbind(-1)
        beta = weights[cube, crossings.edge[some]][:, None]
        first, second = value.index_select(0, a), value.index_select(0, b)
        wa = (second[:, 0] * alpha_b)[:, None]
        wb = (first[:, 0] * alpha_a)[:, None]
        crossing = (first[:, 1:] * wa - second[:, 1:] * wb) / (wa - wb)
        total.index_add_(0, crossings.vertex[some], torch.cat([crossing * beta, beta], dim=1))
    return total[:, :-1] / total[:, -1:]


def find_loops(
    cell: Tensor, code: Tensor, rank: Ranks, used: Tensor, base: Tensor, table: dict[str, Tensor], ring: Tensor
) -> tuple[Tensor, Tensor]:
    """Quads around crossing edges.

    Args:
        cell: [Q] int64 key of the cube where the edge starts.
        code: [Q] int64 axis and turn of the edge.
        rank: rows of surface cubes.
        used: [S] int64 their cases.
        base: [S] int64 number of a cube's first dual vertex.
        table: case tables.
        ring: [6, 4] steps to the cubes around an edge.

    Returns:
        [Q, 4] int64 dual vertices and [Q, 4] int64 the surface cubes that own them.
    """
    cube = rank[cell[:, None] + ring[code]].long()
    return base[cube] + table["edge_patch"][used[cube], table["ring_edges"][code]], cube


def split(loops: Tensor, gamma: Tensor) -> Tensor:
    """[2 Q, 3] triangles of quads [Q, 4], cut along the diagonal with the larger product of gammas [Q, 4]."""
    even = gamma[:, 0] * gamma[:, 2] > gamma[:, 1] * gamma[:, 3]
    p0, p1, p2, p3 = loops.unbind(1)
    first = torch.stack([p0, p1, p2, p0, p2, p3], dim=1)
    second = torch.stack([p0, p1, p3, p3, p1, p2], dim=1)
    return torch.where(even[:, None], first, second).reshape(-1, 3)


def split_in_four(dual: Tensor, loops: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Four triangles per quad around a weighted centre, through which gamma gets its gradient.

    Args:
        dual: [V, A].
        loops: [Q, 4] rows of `dual`.
        gamma: [Q, 4] of the cubes that own them.

    Returns:
        [V + Q, A] vertices and [4 Q, 3] faces.
    """
    even = (gamma[:, 0] * gamma[:, 2])[:, None]
    odd = (gamma[:, 1] * gamma[:, 3])[:, None]
    p0, p1, p2, p3 = dual[loops].unbind(1)
    center = ((p0 + p2) / 2 * even + (p1 + p3) / 2 * odd) / (even + odd + 1e-8)
    index = len(dual) + torch.arange(len(loops), device=loops.device)
    ahead = loops.roll(-1, dims=1)
    faces = torch.stack([loops, ahead, index[:, None].expand(-1, 4)], dim=2)
    return torch.cat([dual, center]), faces.reshape(-1, 3)


def deviation(distance: Tensor, vertex: Tensor, count: int) -> Tensor:
    """Mean absolute deviation of the distances [E] of `count` dual vertices to their edge crossings."""
    size = distance.new_zeros(count).index_add(0, vertex, torch.ones_like(distance))
    mean = distance.new_zeros(count).index_add(0, vertex, distance) / size.clamp(min=1)
    return (distance - mean[vertex]).abs().mean()
