"""From a dense coloured mesh to a small one with a texture: in numpy, or on the CUDA device that holds the mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gap3d_app.errors import GenerationError
from gap3d_app.geometry import device_bake, device_simplify
from gap3d_app.geometry.bake import ColorFn, SurfaceColors, bake
from gap3d_app.geometry.simplify import keep_main_parts, simplify
from gap3d_app.geometry.unwrap import Atlas
from gap3d_app.geometry.unwrap import unwrap as unwrap_mesh
from gap3d_app.values import GREY, Mesh

HEAD_START = 8
"""Times the wanted faces to which a device simplifies: below, few collapses are independent, and order counts."""


@dataclass
class TexturedMesh:
    """A mesh as files want it.

    Attributes:
        points: [V, 3] float32, object space; faces: [F, 3] int64.
        atlas: texture coordinates.
        picture: [S, S, 3] uint8 base colour, sRGB.
    """

    points: np.ndarray
    faces: np.ndarray
    atlas: Atlas
    picture: np.ndarray


def textured(
    mesh: Mesh, target_faces: int, texture_size: int, unwrap: str, color_fn: ColorFn | None, clean: bool
) -> TexturedMesh:
    """Clean, simplify, unwrap and bake; see `glb.export_glb` for the arguments.

    Raises:
        GenerationError: the mesh is empty or not finite.
    """
    vertices, faces = mesh.vertices.detach().float(), mesh.faces.detach().long()
    colors = None if mesh.colors is None else mesh.colors.detach().float().clamp(0, 1)
    if len(faces) == 0:
        raise GenerationError("The mesh has no faces; try another seed.")
    if not vertices.isfinite().all() or (colors is not None and not colors.isfinite().all()):
        raise GenerationError("The mesh holds values that are not finite; try another seed.")
    if colors is None:
        colors = torch.full_like(vertices, GREY)
    reduced = reduced_on_device if vertices.is_cuda else reduced_in_numpy
    points, triangles, dense = reduced(vertices, faces, colors, target_faces, clean)
    atlas = unwrap_mesh(points, triangles, texture_size, unwrap)
    layout = (points, triangles, atlas.uv, atlas.faces, texture_size)
    if color_fn is not None:
        picture = bake(*layout, color_fn)
    elif vertices.is_cuda:
        picture = device_bake.bake(*layout, device_bake.DeviceColors(*dense))
    else:
        picture = bake(*layout, SurfaceColors(*dense))
    return TexturedMesh(points, triangles, atlas, picture)


def reduced_in_numpy(
    vertices: Tensor, faces: Tensor, colors: Tensor, target_faces: int, clean: bool
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Simplified points [V', 3] float32 and faces [F', 3] int64, and the cleaned vertices, faces and colours."""
    dense = tuple(v.cpu().numpy() for v in (vertices, faces, colors))
    if clean:
        dense = keep_main_parts(*dense)
        _require_faces(dense[1])
    return *simplify(*dense[:2], target_faces), dense


def reduced_on_device(
    vertices: Tensor, faces: Tensor, colors: Tensor, target_faces: int, clean: bool
) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, ...]]:
    """`reduced_in_numpy` by torch, down to `HEAD_START` times the wanted faces if the mesh is closed."""
    dense = (vertices, faces, colors)
    if clean:
        dense = device_simplify.keep_main_parts(*dense)
        _require_faces(dense[1])
    points, triangles, _ = dense
    if len(triangles) > 2 * HEAD_START * target_faces and device_simplify.is_closed(triangles):
        points, triangles = device_simplify.collapse(points, triangles, HEAD_START * target_faces)
    return *simplify(points.cpu().numpy(), triangles.cpu().numpy(), target_faces), dense


def _require_faces(faces: np.ndarray | Tensor) -> None:
    if len(faces) == 0:
        raise GenerationError("The mesh has no area; try another seed.")
