"""Case tables and what follows from them as tensors, uploaded once per device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gap3d_app.geometry.cube_tables import CORNERS, EDGES, case_tables

OFFSETS = ("corners", "ring", "twin", "first")
"""Tables of steps along the axes; the others number or flag something."""

# Per axis of a crossing edge: the two other axes (ascending) and the edge's index in each of the four cubes
# around it, cubes in ascending flat order.
_QUADS = {0: ((1, 2), (6, 4, 2, 0)), 1: ((0, 2), (10, 9, 11, 8)), 2: ((0, 1), (5, 1, 7, 3))}
# The order in which a quad goes round those cubes: its edge starts outside the surface, or inside.
_TURNS = ((0, 1, 3, 2), (2, 3, 1, 0))


@lru_cache(maxsize=4)
def tables_on(device: torch.device) -> dict[str, Tensor]:
    """Case tables and index constants on a device.

    Beside the arrays of `CaseTables`:
        flagged: [256] bool cases with a twin.
        pairs: [256, 12, 2] int8 (patch, edge) of a case's crossing edges, patch by patch; -1 in the padding.
        ends: [256] uint8 a bit for every corner at the end of a crossing edge.

    What depends on a quad has a row per code, axis + 3 * turn:
        code: [256, 3] int8 code of the edge that leaves the first corner of a cell along an axis, -1 if its ends are
            on one side.
        ring: [6, 4, 3] steps to the cubes around the edge, in the order of the quad.
        ring_edges: [6, 4] which of their edges it is.
        first: [6, 3] step to the edge's first end; y edges point down, so theirs is the upper one.
        place: [6] order of edges with the same first end: y, z, x.
        turn: [6] 1 for edges that start inside.
    """
    tables = case_tables()
    pairs = torch.full((256, 12, 2), -1, dtype=torch.int8)
    code = torch.full((256, 3), -1, dtype=torch.int8)
    ends = torch.zeros(256, dtype=torch.uint8)
    for case in range(1, 255):
        rows = [(k, e) for k in range(4) for e in tables.patch_edges[case, k].tolist() if e >= 0]
        pairs[case, : len(rows)] = torch.tensor(rows, dtype=torch.int8)
        ends[case] = sum(1 << j for j in {int(j) for _, e in rows for j in EDGES[e]})
        for axis in range(3):
            start, end = case & 1, case >> (1 << axis) & 1
            if start != end:
                code[case, axis] = axis + 3 * (end if axis == 1 else start)
    unit = torch.eye(3, dtype=torch.int64)
    ring, ring_edges = [], []
    for turn in _TURNS:
        for (s, t), edges in _QUADS.values():
            around = (-unit[s] - unit[t], -unit[s], -unit[t], 0 * unit[s])
            ring.append(torch.stack([around[i] for i in turn]))
            ring_edges.append([edges[i] for i in turn])
    named = {
        "corners": torch.from_numpy(CORNERS),
        "edges": torch.from_numpy(EDGES),
        "patch_count": torch.from_numpy(tables.patch_count).to(torch.uint8),
        "patch_edges": torch.from_numpy(tables.patch_edges).to(torch.int8),
        "edge_patch": torch.from_numpy(tables.edge_patch),
        "twin": torch.from_numpy(tables.twin),
        "flagged": torch.from_numpy(tables.twin != 0).any(1),
        "pairs": pairs,
        "ends": ends,
        "code": code,
        "ring": torch.stack(ring),
        "ring_edges": torch.tensor(ring_edges),
        "first": torch.stack([0 * unit[0], unit[1], 0 * unit[2]]).repeat(2, 1),
        "place": torch.tensor([2, 0, 1]).repeat(2),
        "turn": torch.tensor([0, 0, 0, 1, 1, 1]),
    }
    return {name: tensor.to(device) for name, tensor in named.items()}
