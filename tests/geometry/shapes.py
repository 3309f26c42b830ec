"""Analytic solids as cube features and as meshes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gap3d_app.geometry.cube_tables import CORNERS
from gap3d_app.geometry.flexicubes import extract
from gap3d_app.values import Mesh

Field = Callable[[Tensor], Tensor]


def sphere(radius: float = 0.35) -> Field:
    """Signed distance of a sphere around the origin."""
    return lambda p: p.norm(dim=-1) - radius


def torus(major: float = 0.3, minor: float = 0.1) -> Field:
    """Signed distance of a torus around the z axis."""

    def field(p: Tensor) -> Tensor:
        return ((p[..., :2].norm(dim=-1) - major).square() + p[..., 2].square()).sqrt() - minor

    return field


def box(half: tuple[float, float, float] = (0.3, 0.3, 0.3)) -> Field:
    """Signed distance of an axis-aligned box."""

    def field(p: Tensor) -> Tensor:
        q = p.abs() - torch.tensor(half)
        return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)

    return field


def cubes(field: Field, resolution: int, band: float = 2.0, color: Callable[[Tensor], Tensor] | None = None):
    """Active cubes within `band` cells of the surface and their features, 101 channels if coloured.

    `color` maps points to rgb; features hold its logit, as extraction applies a sigmoid.
    """
    axis = torch.arange(resolution)
    coords = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    center = (coords + 0.5) / resolution - 0.5
    coords = coords[field(center).abs() < band / resolution]
    corner = (coords[:, None] + torch.from_numpy(CORNERS)) / resolution - 0.5
    feats = torch.zeros(len(coords), 53 if color is None else 101)
    feats[:, :8] = field(corner) + 1 / resolution  # extraction subtracts this
    if color is not None:
        rgb = color(corner).clamp(0.01, 0.99)
        feats[:, 53:] = torch.cat([torch.logit(rgb), torch.zeros_like(rgb)], -1).reshape(len(coords), 48)
    return coords, feats


def solid_mesh(field: Field, resolution: int = 48, color: Callable[[Tensor], Tensor] | None = None) -> Mesh:
    """Watertight mesh of a field."""
    return extract(*cubes(field, resolution, color=color), resolution, solid=True).to_mesh()


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume; positive for outward winding."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)
