"""OBJ and STL files of a mesh, for tools that do not read glTF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gap3d_app.values import Mesh


def save_obj(mesh: Mesh, path: Path) -> None:
    """Text OBJ, Y-up and facing +Z as the GLB is, with vertex colours behind the positions when there are any."""
    vertices = mesh.vertices.cpu().numpy().astype(np.float64)
    columns = [vertices[:, 0], vertices[:, 2], -vertices[:, 1]]
    if mesh.colors is not None:
        columns += list(mesh.colors.cpu().numpy().astype(np.float64).T)
    with path.open("w", encoding="utf-8") as file:
        np.savetxt(file, np.stack(columns, 1), fmt="v" + " %.6f" * len(columns))
        np.savetxt(file, mesh.faces.cpu().numpy() + 1, fmt="f %d %d %d")


def save_stl(mesh: Mesh, path: Path, millimetres: float = 100.0) -> None:
    """Binary STL for printing: Z-up, one unit of the unit cube in millimetres (the format carries no unit)."""
    corners = mesh.vertices.cpu().numpy().astype(np.float32)[mesh.faces.cpu().numpy()] * np.float32(millimetres)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    rows = np.zeros(len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
    rows["normal"], rows["corners"] = normals, corners
    header = b"units: mm".ljust(80) + np.uint32(len(rows)).tobytes()
    path.write_bytes(header + rows.tobytes())
