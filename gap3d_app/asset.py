"""What goes out: an asset with its files, its facts and its recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gap3d_app.errors import OutputError
from gap3d_app.output import check_output, write_atomic
from gap3d_app.values import Gaussians, Mesh, Occupancy, RadianceField, SLat, TokenGrid


@dataclass
class Asset:
    """One generated object.

    Attributes:
        mesh: surface with vertex colours, object space.
        gaussians: the same as Gaussians; None when they were not asked for.
        radiance: the same as a radiance field; None when it was not asked for.
        occupancy, slat, grid: the values of the stages before.
        recipe: plain values from which the same bytes can be made again: prompt, hash of the picture,
            settings, hash of the weights, versions. Nothing in it depends on the clock.
        seconds: wall time per stage.
        warnings: sentences for the person, such as a background that could not be removed.
    """

    mesh: Mesh
    gaussians: Gaussians | None = None
    radiance: RadianceField | None = None
    occupancy: Occupancy | None = None
    slat: SLat | None = None
    grid: TokenGrid | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def save(self, path: str | Path) -> Path:
        """Write a file by its ending: .glb, .ply (Gaussians), .npz (radiance field), .obj, .stl, .mp4, .gif or .json.

        .mp4 and .gif are turntables of what the setting turntable names, .json is the recipe. The file appears under
        its name only when it is complete.

        Raises:
            OutputError: unknown ending, a place that cannot be written, no space, or something that was not decoded.
        """
        path = check_output(path)
        _WRITERS[path.suffix.lower()[1:]](self, path)
        return path

    @property
    def turned(self) -> Mesh | Gaussians | RadianceField:
        """What turntables show.

        Raises:
            OutputError: it was not decoded.
        """
        kind = self.recipe.get("settings", {}).get("turntable", "mesh")
        return self.mesh if kind == "mesh" else self._decoded(kind, f"set turntable to {kind}")

    @property
    def shading(self) -> str:
        """How turntables show it, see `settings.SHADINGS`."""
        return self.recipe.get("settings", {}).get("turntable_shading", "color")

    def _decoded(self, name: str, how: str) -> Any:
        value = getattr(self, name)
        if value is None:
            what = {"gaussians": "Gaussians", "radiance": "radiance field"}[name]
            raise OutputError(f"The asset has no {what}; {how} and run again.")
        return value

    def facts(self) -> dict[str, Any]:
        """Counts and soundness of the mesh, see `mesh_facts`."""
        from gap3d_app.geometry.facts import mesh_facts

        return mesh_facts(self.mesh.vertices.cpu().numpy(), self.mesh.faces.cpu().numpy(), merge=False)


def _write_glb(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.glb import export_glb

    wanted = ("target_faces", "unwrap", "texture_size", "roughness", "scale_m")
    settings = asset.recipe.get("settings", {})
    export_glb(asset.mesh, path, recipe=asset.recipe, **{k: settings[k] for k in wanted if k in settings})


def _write_ply(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.ply import save_gaussians

    gaussians = asset._decoded("gaussians", "add ply to the setting formats")
    save_gaussians(gaussians, path, min_opacity=asset.recipe.get("settings", {}).get("min_opacity", 0.0))


def _write_npz(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.radiance_file import save_radiance

    save_radiance(asset._decoded("radiance", "add npz to the setting formats"), path)


def _write_obj(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.mesh_files import save_obj

    write_atomic(path, lambda part: save_obj(asset.mesh, part))


def _write_stl(asset: Asset, path: Path) -> None:
    from gap3d_app.geometry.mesh_files import save_stl

    write_atomic(path, lambda part: save_stl(asset.mesh, part))


def _write_mp4(asset: Asset, path: Path) -> None:
    from gap3d_app.render.turntable import save_mp4, turntable_frames

    save_mp4(turntable_frames(asset.turned, shading=asset.shading), path)


def _write_gif(asset: Asset, path: Path) -> None:
    from gap3d_app.render.turntable import save_gif, turntable_frames

    save_gif(turntable_frames(asset.turned, shading=asset.shading), path)


def _write_json(asset: Asset, path: Path) -> None:
    write_atomic(path, (json.dumps(asset.recipe, indent=2, ensure_ascii=False) + "\n").encode())


# Each writes under a temporary name and renames.
_WRITERS: dict[str, Callable[[Asset, Path], None]] = {
    "glb": _write_glb,
    "ply": _write_ply,
    "npz": _write_npz,
    "obj": _write_obj,
    "stl": _write_stl,
    "mp4": _write_mp4,
    "gif": _write_gif,
    "json": _write_json,
}
