"""Case tables of dual marching cubes, derived instead of listed (trellis.md section 6.6).

A case is the bit mask of the corners inside the surface. Its crossing edges fall into patches, each of which
gets one dual vertex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CORNERS = np.array([(j & 1, j >> 1 & 1, j >> 2 & 1) for j in range(8)], dtype=np.int64)
"""[8, 3] corner offsets along (x, y, z), x fastest."""

EDGES = np.array(
    [(0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4)],
    dtype=np.int64,
)
"""[12, 2] corners of each edge; x and z edges point up the axis, y edges down."""

MAX_PATCHES = 4
MAX_PATCH_EDGES = 7


@dataclass(frozen=True)
class CaseTables:
    """Per case: how many patches, the edges of each, the patch of each edge, the direction to a twin.

    Attributes:
        patch_count: [256] int64.
        patch_edges: [256, 4, 7] int64 edge indices, -1 where unused.
        edge_patch: [256, 12] int64 patch of each crossing edge, 0 elsewhere.
        twin: [256, 3] int64 unit step across the ambiguous face of a flagged case, zero if not flagged.
    """

    patch_count: np.ndarray
    patch_edges: np.ndarray
    edge_patch: np.ndarray
    twin: np.ndarray


def _faces() -> list[tuple[np.ndarray, list[int], list[int]]]:
    """The six cube faces as (outward step, corners, edges)."""
    found = []
    for axis in range(3):
        for side in (0, 1):
            corners = [j for j in range(8) if CORNERS[j, axis] == side]
            edges = [e for e, (a, b) in enumerate(EDGES) if a in corners and b in corners]
            step = np.zeros(3, dtype=np.int64)
            step[axis] = 2 * side - 1
            found.append((step, corners, edges))
    return found


def _patches(case: int, faces: list) -> tuple[list[list[int]], list[np.ndarray]]:
    """Patches of a case in output order, and the steps across ambiguous faces that lie in one patch."""
    inside = [bool(case >> j & 1) for j in range(8)]
    crossing = [e for e, (a, b) in enumerate(EDGES) if inside[a] != inside[b]]
    label = {e: e for e in crossing}

    def join(first: int, second: int) -> None:
        old, new = label[second], label[first]
        for e in crossing:
            if label[e] == old:
                label[e] = new

    ambiguous = []
    for step, corners, edges in faces:
        cut = [e for e in edges if e in label]
        if len(cut) == 2:
            join(*cut)
        elif len(cut) == 4:
            ambiguous.append((step, cut))
            for j in corners:
                if inside[j]:  # diagonal inside corners stay apart on the face
                    join(*[e for e in cut if j in EDGES[e]])
    groups = [[e for e in crossing if label[e] == name] for name in sorted(set(label.values()))]
    groups.sort(key=lambda group: min(int(j) for e in group for j in EDGES[e] if inside[j]))
    if case == 231:  # the one row of the public table that breaks the rule; it only sets vertex numbers
        groups.reverse()
    steps = [step for step, cut in ambiguous if len({label[e] for e in cut}) == 1]
    return groups, steps


@lru_cache(maxsize=1)
def case_tables() -> CaseTables:
    """The tables of all 256 cases."""
    faces = _faces()
    patch_count = np.zeros(256, dtype=np.int64)
    patch_edges = np.full((256, MAX_PATCHES, MAX_PATCH_EDGES), -1, dtype=np.int64)
    edge_patch = np.zeros((256, 12), dtype=np.int64)
    twin = np.zeros((256, 3), dtype=np.int64)
    for case in range(1, 255):
        groups, steps = _patches(case, faces)
        patch_count[case] = len(groups)
        for k, group in enumerate(groups):
            patch_edges[case, k, : len(group)] = group
            edge_patch[case, group] = k
        if steps:
            twin[case] = steps[0]
    return CaseTables(patch_count, patch_edges, edge_patch, twin)
