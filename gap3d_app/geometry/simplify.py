"""Cleaning and simplification of extracted meshes."""

from __future__ import annotations

import numpy as np

from gap3d_app.geometry.topology import components, directed_edges, face_cross, is_watertight


def compact(vertices: np.ndarray, faces: np.ndarray, *values: np.ndarray | None) -> tuple:
    """Drop vertices that no face uses; `values` are per-vertex arrays (or None) that follow."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces.reshape(-1)] = True
    index = np.cumsum(used) - 1
    return (vertices[used], index[faces], *(None if v is None else v[used] for v in values))


def keep_main_parts(
    vertices: np.ndarray, faces: np.ndarray, *values: np.ndarray | None, min_area: float = 0.005
) -> tuple:
    """Remove faces that repeat a vertex and connected parts below a share of the total area.

    The largest part always stays. Whole parts go, so a watertight mesh stays watertight.

    Args:
        vertices: [V, 3]; faces: [F, 3]; values: per-vertex arrays or None.
        min_area: smallest share of the whole area that a part needs.

    Returns:
        (vertices, faces, *values) without unused vertices.
    """
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    if len(faces) == 0:
        return compact(vertices, faces, *values)
    _, part_of_vertex = components(len(vertices), directed_edges(faces))
    part = part_of_vertex[faces[:, 0]]
    area = np.bincount(part, np.linalg.norm(face_cross(vertices, faces), axis=1))
    keep = area >= min_area * area.sum()
    keep[np.argmax(area)] = True
    return compact(vertices, faces[keep[part]], *values)


def simplify(vertices: np.ndarray, faces: np.ndarray, target_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Quadric edge collapse to about `target_faces` triangles.

    A watertight input stays watertight: where the collapse folds the surface onto itself the fold is cut out
    or, failing that, a less aggressive target is tried; in the worst case the input comes back unchanged.

    Returns:
        vertices [V, 3] float32 and faces [F, 3] int64.
    """
    vertices = np.ascontiguousarray(vertices, dtype=np.float32)
    faces = np.ascontiguousarray(faces, dtype=np.int64)
    if len(faces) <= target_faces or target_faces < 4:
        return vertices, faces
    import fast_simplification  # here, so that training machines can clean meshes without it

    closed = is_watertight(faces)
    result = None
    for factor, aggression in ((1.0, 5), (1.0, 2), (1.5, 3), (2.5, 2), (4.0, 1)):
        target = int(target_faces * factor)
        if target >= len(faces):
            break
        points, triangles = fast_simplification.simplify(
            vertices, faces.astype(np.int32), target_count=target, agg=aggression
        )
        triangles = cut_folds(triangles.astype(np.int64))
        if len(triangles) < 4:
            continue
        candidate = compact(points.astype(np.float32), triangles)
        if not closed or is_watertight(candidate[1]):
            return candidate
        candidate = separate_sheets(*candidate)
        if is_watertight(candidate[1]):
            return candidate
        result = result or candidate
    return (vertices, faces) if closed or result is None else result


def cut_folds(faces: np.ndarray) -> np.ndarray:
    """Remove triangles that repeat a vertex and pairs on the same three vertices with opposite winding."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    for _ in range(8):
        if len(faces) == 0:
            break
        _, inverse, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
        double = count[inverse.reshape(-1)] == 2
        if not double.any():
            break
        faces = faces[~double]
    return faces


def separate_sheets(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell apart sheets that share an edge after a collapse.

    Where an edge belongs to more than two faces, the faces are paired around it, solid side to solid side, and
    every pair but the first meets at a midpoint vertex of its own instead, pulled a little into its faces so
    that readers that merge equal positions do not close the edge again.

    Returns:
        vertices and faces; edges whose faces do not balance in direction are left as they are.
    """
    vertices, faces = vertices.copy(), faces.copy()
    for _ in range(8):  # a face can lie at several such edges; each round touches a face once
        edges = directed_edges(faces)
        low, high = edges.min(1), edges.max(1)
        key = low * (int(high.max()) + 1) + high
        order = np.argsort(key, kind="stable")
        bounds = np.flatnonzero(np.diff(key[order], prepend=-1, append=-1))
        crowded = np.flatnonzero(np.diff(bounds) > 2)
        touched: set[int] = set()
        points: list[np.ndarray] = []
        added: list[np.ndarray] = []
        for g in crowded:
            rows = order[bounds[g] : bounds[g + 1]]
            runs_up = edges[rows, 0] == low[rows]
            if runs_up.sum() * 2 != len(rows) or touched & {int(r) // 3 for r in rows}:
                continue
            touched |= {int(r) // 3 for r in rows}
            for pair in _pairs_around(vertices, faces, rows, runs_up)[1:]:
                middle = len(vertices) + len(points)
                apex = [faces[row // 3, (row % 3 + 2) % 3] for row in pair]
                points.append(0.97 * vertices[edges[pair[0]]].mean(0) + 0.03 * vertices[apex].mean(0))
                for row in pair:
                    face, k = divmod(int(row), 3)
                    half = faces[face].copy()
                    half[k] = middle
                    added.append(half)
                    faces[face, (k + 1) % 3] = middle
        if not points:
            break
        vertices = np.concatenate([vertices, np.stack(points)])
        faces = np.concatenate([faces, np.stack(added)])
    return vertices, faces


def _pairs_around(
    vertices: np.ndarray, faces: np.ndarray, rows: np.ndarray, runs_up: np.ndarray
) -> list[tuple[int, int]]:
    """Pairs of directed edges (rows) of one edge that bound the same wedge of solid."""
    ends = np.sort(directed_edges(faces)[rows[0]])
    a, b = vertices[ends].astype(np.float64)
    axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-30)
    side = vertices[faces[rows // 3, (rows % 3 + 2) % 3]] - a
    side = side - (side @ axis)[:, None] * axis
    u = side[0] / max(float(np.linalg.norm(side[0])), 1e-30)
    angle = np.arctan2(side @ np.cross(axis, u), side @ u) % (2 * np.pi)
    around = np.argsort(angle, kind="stable")
    # Solid lies at larger angles of a face that runs down the edge and at smaller angles of one that runs up.
    # Faces that fold onto each other break the alternation; then matching goes like brackets.
    start = int(np.argmin(np.cumsum(np.where(runs_up[around], -1, 1))))
    around = np.roll(around, -(start + 1))
    open_rows: list[int] = []
    pairs = []
    for k in around:
        if not runs_up[k]:
            open_rows.append(int(rows[k]))
        else:
            pairs.append((open_rows.pop(), int(rows[k])))
    return pairs
