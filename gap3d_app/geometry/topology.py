"""Edges, connected parts and normals of triangle meshes (numpy)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def directed_edges(faces: np.ndarray) -> np.ndarray:
    """[3F, 2] edges in face winding; edge k of face f is row 3f + k."""
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def is_watertight(faces: np.ndarray) -> bool:
    """True when every edge belongs to two faces that run through it in opposite directions."""
    if len(faces) == 0:
        return False
    edges = directed_edges(faces.astype(np.int64))
    if (edges[:, 0] == edges[:, 1]).any():
        return False
    stride = int(edges.max()) + 1
    forward = np.sort(edges[:, 0] * stride + edges[:, 1])
    backward = np.sort(edges[:, 1] * stride + edges[:, 0])
    return bool((forward[1:] != forward[:-1]).all() and (forward == backward).all())


def face_neighbors(faces: np.ndarray) -> np.ndarray:
    """[P, 2] pairs of faces that share an edge (pairs at edges of more than two faces are chained)."""
    edges = directed_edges(faces.astype(np.int64))
    low, high = edges.min(1), edges.max(1)
    key = low * (int(high.max(initial=0)) + 1) + high
    order = np.argsort(key, kind="stable")
    same = key[order[1:]] == key[order[:-1]]
    return np.stack([order[:-1][same] // 3, order[1:][same] // 3], axis=1)


def components(count: int, pairs: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of connected groups of `count` items linked by `pairs` [P, 2], and the group of each item."""
    graph = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)


def face_cross(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[F, 3] cross products of two edges: normal direction times twice the area."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    return np.cross(b - a, c - a)


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors [N, 3]; zero vectors become +Z so that no normal is invalid."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = vectors / np.maximum(length, 1e-30)
    return np.where(length > 1e-20, unit, np.array([0.0, 0.0, 1.0], dtype=vectors.dtype))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[V, 3] unit normals, mean of the adjacent faces weighted by area."""
    cross = face_cross(vertices, faces)
    total = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(cross[:, k], 3), len(vertices)) for k in range(3)], axis=1
    )
    return normalized(total)


def corner_normals(vertices: np.ndarray, faces: np.ndarray, crease_deg: float = 50.0) -> np.ndarray:
    """[F, 3, 3] unit normals that are smooth except across creases.

    A corner averages (by area) the faces at its vertex whose normals differ from its own face's by less than
    `crease_deg`, so flat sides of a box stay flat and round parts look round.
    """
    cross = face_cross(vertices, faces)
    unit = normalized(cross)
    flat = faces.reshape(-1)
    order = np.argsort(flat, kind="stable")
    start = np.searchsorted(flat[order], np.arange(len(vertices) + 1))
    degree = np.diff(start)
    # every ordered pair of corners that share a vertex
    repeat = degree[flat]
    first = np.repeat(np.arange(len(flat)), repeat)
    step = np.arange(len(first)) - np.repeat(np.cumsum(repeat) - repeat, repeat)
    second = order[start[flat[first]] + step]
    f, g = first // 3, second // 3
    near = np.einsum("ij,ij->i", unit[f], unit[g]) > np.cos(np.radians(crease_deg))
    near |= f == g
    first, g = first[near], g[near]
    total = np.stack([np.bincount(first, cross[g, k], len(flat)) for k in range(3)], axis=1)
    return normalized(total).reshape(-1, 3, 3)
