"""Small pictures of what the stages hand on, for the page."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import torch
from PIL import Image

from gap3d_app.geometry.cameras import orbit_camera
from gap3d_app.render.gaussians import render_gaussians
from gap3d_app.render.mesh import render_mesh
from gap3d_app.render.pictures import token_picture, voxel_mesh
from gap3d_app.values import Gaussians, Mesh, Occupancy, TokenGrid

SIZE = 256
_YAW, _PITCH = math.pi - 0.6, 0.4  # three quarters from the front, which is seen from yaw pi


def tile(stage: str, made: Any) -> tuple[str, str] | None:
    """Name of a tile and data: address of a picture of what a stage made, if it has one."""
    if stage == "grid" and made.height:  # TRELLIS's text encoder gives no grid
        return "grid", data_uri(grid_picture(made))
    if stage == "structure":
        return "structure", data_uri(voxel_picture(made))
    if stage in ("decode", "mesh"):  # the Gaussians, then the mesh without its colours
        return "surface", data_uri(surface_picture(made))
    return None


def grid_picture(grid: TokenGrid) -> Image.Image:
    """The patch tokens' first three principal components as colours; RGB, SIZE x SIZE."""
    return token_picture(grid.tokens, grid.height, grid.width, SIZE)


def voxel_picture(occupancy: Occupancy) -> Image.Image:
    """The occupied voxels as shaded cubes; RGBA, SIZE x SIZE."""
    return _render(voxel_mesh(occupancy.coords, occupancy.resolution))


def surface_picture(surface: Mesh | Gaussians) -> Image.Image:
    """The Gaussians in their colours, or a mesh in grey; RGBA, SIZE x SIZE."""
    if isinstance(surface, Mesh):
        surface = Mesh(surface.vertices.cpu(), surface.faces.cpu())
    return _render(surface)


def data_uri(picture: Image.Image) -> str:
    """The picture as a PNG in a data: address, so that no file has to be kept for it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@torch.no_grad()
def _render(thing: Mesh | Gaussians) -> Image.Image:
    extrinsics, intrinsics = orbit_camera(_YAW, _PITCH, 2.3, 40.0)
    if isinstance(thing, Mesh):
        rgba = render_mesh(thing, extrinsics[None], intrinsics[None], SIZE, ssaa=2)[0]
    else:
        rgba = render_gaussians(thing, extrinsics[None], intrinsics[None], SIZE)[0]
    rgba = rgba.cpu()
    # Black behind means colours multiplied by alpha; a PNG wants them straight.
    rgb = rgba[..., :3] / rgba[..., 3:].clamp(min=1e-6)
    values = torch.cat([rgb, rgba[..., 3:]], dim=-1).clamp(0, 1)
    return Image.fromarray((values * 255).round().to(torch.uint8).numpy())
