"""Triangles to pixels by nvdiffrast, where the user installed it (research licence: never a requirement)."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

FAR = 100.0
"""Camera z beyond which nothing is drawn, object units; an asset is a unit cube."""
LARGEST_SIZE = 2048
"""Pixels per side that every version of its CUDA rasteriser takes, in multiples of 8."""


def applies(vertices: Tensor, size: int) -> bool:
    """Whether nvdiffrast is installed and takes vertices on this device and pictures of this size."""
    return (
        vertices.is_cuda
        and size <= LARGEST_SIZE
        and size % 8 == 0
        and importlib.util.find_spec("nvdiffrast") is not None
    )


@functools.cache
def _context(device: torch.device) -> Any:
    import nvdiffrast.torch

    return nvdiffrast.torch.RasterizeCudaContext(device=device)


def rasterize(
    vertices: Tensor, faces: Tensor, extrinsics: Tensor, intrinsics: Tensor, size: int, near: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of `mesh.Raster`.

    Triangles that reach nearer than `near` are cut there, not left out.

    Args:
        vertices: [V, 3] float; faces: [F, 3] int64; extrinsics, intrinsics: [K, 4, 4] and [K, 3, 3], on one device.
        size: pixels per side.
        near: object units of camera z.

    Returns:
        face_id [K, S, S] int64 (-1 for none), bary [K, S, S, 3] float32, depth [K, S, S] float32 (0 for none).
    """
    import nvdiffrast.torch

    camera = vertices.float() @ extrinsics[:, :3, :3].mT + extrinsics[:, None, :3, 3]
    clip = clip_space(camera, intrinsics, near).contiguous()
    seen, _ = nvdiffrast.torch.rasterize(
        _context(vertices.device), clip, faces.int().contiguous(), resolution=[size, size]
    )
    face = seen[..., 3].long() - 1
    there = face >= 0
    first, second = seen[..., 0], seen[..., 1]
    bary = torch.stack([first, second, 1 - first - second], dim=-1) * there[..., None]
    corners = faces[face.clamp(min=0)]
    z = camera[..., 2].gather(1, corners.flatten(1)).view(corners.shape)
    return face, bary, (bary * z).sum(-1)


def clip_space(camera: Tensor, intrinsics: Tensor, near: float) -> Tensor:
    """[K, V, 4] OpenGL clip coordinates of camera-space points [K, V, 3], y down so that row 0 is the top."""
    x, y, z = camera.unbind(-1)
    fx, fy, cx, cy = (intrinsics[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    depth = ((FAR + near) * z - 2 * FAR * near) / (FAR - near)
    return torch.stack([2 * fx * x + (2 * cx - 1) * z, 2 * fy * y + (2 * cy - 1) * z, depth, z], dim=-1)
