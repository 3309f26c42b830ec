"""Counts and soundness of meshes, in memory and in GLB files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gap3d_app.geometry.topology import components, directed_edges, face_cross, is_watertight


def mesh_facts(vertices: np.ndarray, faces: np.ndarray, merge: bool = True) -> dict[str, Any]:
    """Counts and soundness of a triangle mesh.

    Args:
        vertices: [V, 3] float.
        faces: [F, 3] int.
        merge: count vertices at the same place once, as texture seams of a file double them.

    Returns:
        vertices, faces: counts. watertight: every edge joins exactly two faces, in opposite directions.
        parts: connected components. main_part: share of the surface area in the largest. bounds: lowest and
        highest corner, in units of the vertices.
    """
    if not len(faces):
        return dict(vertices=0, faces=0, watertight=False, parts=0, main_part=0.0, bounds=None)
    used, compact = np.unique(faces, return_inverse=True)
    points, faces = vertices[used].astype(np.float32), compact.reshape(-1, 3)
    if merge:
        points, same = np.unique(points, axis=0, return_inverse=True)
        faces = same.reshape(-1)[faces]
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    parts, label = components(len(points), directed_edges(faces))
    area = np.linalg.norm(face_cross(points.astype(np.float64), faces), axis=1)
    share = np.bincount(label[faces[:, 0]], weights=area, minlength=parts) / max(area.sum(), 1e-30)
    bounds = [[round(float(v), 6) for v in corner] for corner in (points.min(0), points.max(0))]
    return dict(vertices=len(points), faces=len(faces), watertight=is_watertight(faces), parts=int(parts),
                main_part=round(float(share.max()), 4), bounds=bounds)


def glb_bounds(path: Path) -> tuple[list[float], list[float]]:
    """Lowest and highest corner of a GLB file without node transforms (as this app writes them), in metres."""
    with path.open("rb") as file:
        head = file.read(20)
        tree = json.loads(file.read(int.from_bytes(head[12:16], "little")))
    of = [tree["accessors"][part["attributes"]["POSITION"]] for mesh in tree["meshes"] for part in mesh["primitives"]]
    low, high = np.min([a["min"] for a in of], axis=0), np.max([a["max"] for a in of], axis=0)
    return low.tolist(), high.tolist()


def glb_facts(path: Path) -> dict[str, Any]:
    """`mesh_facts` of all triangles of a GLB file (float positions, as this app writes them), in metres."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]

    def read(index: int) -> np.ndarray:
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        kind = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3}[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        return np.frombuffer(binary, kind, accessor["count"] * width, start).reshape(-1, width)

    vertices, faces, count = [], [], 0
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            vertices.append(read(primitive["attributes"]["POSITION"]))
            faces.append(read(primitive["indices"]).reshape(-1, 3).astype(np.int64) + count)
            count += len(vertices[-1])
    return mesh_facts(np.concatenate(vertices), np.concatenate(faces))
