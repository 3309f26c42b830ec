"""What goes out: an asset with its files, its facts and its recipe."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gap3d_app.errors import OutputError
from gap3d_app.settings import FORMATS
from gap3d_app.values import Gaussians, Mesh, Occupancy, SLat, TokenGrid

NEEDED_BYTES = 64 * 2**20
"""Free space asked for before a run: a GLB with its texture, a PLY and a turntable fit into it."""


@dataclass
class Asset:
    """One generated object.

    Attributes:
        mesh: surface with vertex colours, object space.
        gaussians: the same as Gaussians; None when they were not asked for.
        occupancy, slat, grid: the values of the stages before.
        recipe: plain values from which the same bytes can be made again: prompt, hash of the picture,
            settings, hash of the weights, versions. Nothing in it depends on the clock.
        seconds: wall time per stage.
        warnings: sentences for the person, such as a background that could not be removed.
    """

    mesh: Mesh
    gaussians: Gaussians | None = None
    occupancy: Occupancy | None = None
    slat: SLat | None = None
    grid: TokenGrid | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def save(self, path: str | Path) -> Path:
        """Write a file: .glb, .ply (Gaussians), .obj, .stl, .mp4 (turntable) or .json (recipe) by its ending.

        The file appears under its name only when it is complete.

        Raises:
            OutputError: unknown ending, a place that cannot be written, no space, or Gaussians that were not
                decoded.
        """
        path = check_output(path)
        if path.suffix.lower() == ".ply" and self.gaussians is None:
            raise OutputError("The asset has no Gaussians; add ply to the setting formats and run again.")
        write_whole(path, _WRITERS[path.suffix.lower()[1:]], self)
        return path

    def facts(self) -> dict[str, Any]:
        """Counts and soundness of the mesh, see `mesh_facts`."""
        return mesh_facts(self.mesh.vertices.cpu().numpy(), self.mesh.faces.cpu().numpy())


def check_output(path: str | Path, needed_bytes: int = 0) -> Path:
    """Make sure that a result can be written, before the work for it begins.

    Args:
        path: file to be written; its folder must exist.
        needed_bytes: free space to ask for.

    Raises:
        OutputError: unknown ending, missing folder, a folder in place of the file, no permission, no space.
    """
    path = Path(path)
    endings = ", ".join("." + name for name in FORMATS)
    if path.suffix.lower()[1:] not in FORMATS:
        raise OutputError(f"The output {str(path)!r} has an unknown ending; it must be one of {endings}.")
    folder = path.parent
    try:
        if not folder.is_dir():
            raise OutputError(f"The folder {str(folder)!r} of the output does not exist; make it first.")
        if path.is_dir():
            raise OutputError(f"The output {str(path)!r} is a folder; give the name of a file.")
        # Asking the file system is the only sure test: permission bits say little about mounts and roots.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".gap3d-", suffix=".tmp"):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"The output {str(path)!r} may not be replaced; choose another name.")
        stats = os.statvfs(folder) if hasattr(os, "statvfs") else None
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    if stats and stats.f_bavail * stats.f_frsize < needed_bytes:
        free = stats.f_bavail * stats.f_frsize / 2**20
        raise OutputError(
            f"The disk of {str(path)!r} has {free:.0f} MB left and {needed_bytes / 2**20:.0f} MB are needed; "
            "make room."
        )
    return path


def write_whole(path: Path, writer: Callable[[Asset, Path], Any], asset: Asset) -> None:
    """Call writer(asset, temporary path in the same folder), then rename; no trace is left on failure."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{os.urandom(4).hex()}{path.suffix}")
    try:
        writer(asset, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def mesh_facts(vertices: np.ndarray, faces: np.ndarray) -> dict[str, Any]:
    """Counts and soundness of a triangle mesh; vertices at the same place count once.

    Args:
        vertices: [V, 3] float.
        faces: [F, 3] int.

    Returns:
        vertices, faces: counts. watertight: every edge joins exactly two faces, in opposite directions.
        parts: connected components. main_part: share of the surface area in the largest. bounds: lowest and
        highest corner, in units of the vertices.
    """
    if not len(faces):
        return dict(vertices=0, faces=0, watertight=False, parts=0, main_part=0.0, bounds=None)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    used, compact = np.unique(faces, return_inverse=True)
    points, same = np.unique(vertices[used].astype(np.float32), axis=0, return_inverse=True)
    faces = same.reshape(-1)[compact].reshape(-1, 3)
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    count = len(points)
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    forward, uses = np.unique(edges[:, 0] * count + edges[:, 1], return_counts=True)
    backward = np.unique(edges[:, 1] * count + edges[:, 0])
    watertight = bool((uses == 1).all() and np.array_equal(forward, backward))
    graph = coo_matrix((np.ones(len(edges), bool), edges.T), shape=(count, count))
    parts, label = connected_components(graph, directed=False)
    a, b, c = points[faces].astype(np.float64).transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    share = np.bincount(label[faces[:, 0]], weights=area, minlength=parts) / max(area.sum(), 1e-30)
    bounds = [[round(float(v), 6) for v in corner] for corner in (points.min(0), points.max(0))]
    return dict(vertices=count, faces=len(faces), watertight=watertight, parts=int(parts),
                main_part=round(float(share.max()), 4), bounds=bounds)


def _unwritable(path: Path, error: Exception) -> OutputError:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"The disk is full, so {str(path)!r} was not written; make room and run again.")
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"The output {str(path)!r} cannot be written: {reason}; choose another place.")


def _write_glb(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.glb import export_glb

    wanted = ("target_faces", "unwrap", "texture_size", "roughness", "scale_m")
    settings = asset.recipe.get("settings", {})
    export_glb(asset.mesh, path, recipe=asset.recipe, **{k: settings[k] for k in wanted if k in settings})


def _write_ply(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.ply import save_gaussians

    save_gaussians(asset.gaussians, path)


def _write_mesh_file(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.mesh_files import save_mesh

    save_mesh(asset.mesh, path)


def _write_mp4(asset: Asset, path: Path) -> None:
    from gap3d_app.render.turntable import save_turntable

    save_turntable(asset.mesh, path)


def _write_json(asset: Asset, path: Path) -> None:
    path.write_text(json.dumps(asset.recipe, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[Asset, Path], None]] = {
    "glb": _write_glb,
    "ply": _write_ply,
    "obj": _write_mesh_file,
    "stl": _write_mesh_file,
    "mp4": _write_mp4,
    "json": _write_json,
}
