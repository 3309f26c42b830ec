"""Mesh files (GLB, OBJ, STL, PLY, ...) to triangles in object space: Z-up, front -Y."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gap3d_app.errors import InputError
from gap3d_app.values import Mesh

Z_UP = (".ply", ".stl")
"""Endings of files whose axes are taken as they are; all others are Y-up with the front on +Z."""


def read_parts(path: str | Path) -> Iterator[tuple[Any, np.ndarray]]:
    """Every triangle geometry (trimesh's, with its materials) of a file and its 4 x 4 transform to the scene.

    Raises:
        InputError: the file cannot be read or holds no triangles.
    """
    import trimesh

    path, empty = Path(path), True
    if path.is_dir():
        raise InputError(f"The mesh {path.name!r} is a folder; give a file.")
    if not path.is_file():
        raise InputError(f"The mesh {path.name!r} does not exist; check the path.")
    try:
        scene = trimesh.load(path, force="scene", process=False)
    except Exception as error:  # the readers of the formats raise many types
        raise InputError(f"{path.name} cannot be read as a 3D asset; give a GLB file that is whole.") from error
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            empty = False
            yield geometry, np.asarray(transform)
    if empty:
        raise InputError(f"{path.name} holds no triangles; give a GLB file with a mesh.")


def placed_corners(geometry: Any, transform: np.ndarray, y_up: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Corners [F, 3, 3] in object axes and their vertex numbers [F, 3]; mirrored parts keep their outside."""
    faces = np.asarray(geometry.faces)
    if np.linalg.det(transform[:3, :3]) < 0:
        faces = faces[:, ::-1]
    vertices = np.asarray(geometry.vertices) @ transform[:3, :3].T + transform[:3, 3]
    if y_up:
        vertices = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=-1)
    return vertices[faces], faces


def read_mesh(path: str | Path) -> Mesh:
    """The triangles of a file without colours, three vertices a face, in the file's own size and place.

    Raises:
        InputError: the file cannot be read, holds no triangles, or has vertices that are not finite.
    """
    y_up = Path(path).suffix.lower() not in Z_UP
    corners = np.concatenate([placed_corners(*part, y_up)[0] for part in read_parts(path)])
    if not np.isfinite(corners).all():
        raise InputError(f"{Path(path).name} has vertices that are not finite; repair the mesh.")
    vertices = torch.from_numpy(corners).float().reshape(-1, 3)
    return Mesh(vertices, torch.arange(len(vertices)).reshape(-1, 3))
