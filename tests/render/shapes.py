"""Small analytic meshes for the tests of rendering and of surface fields."""

import numpy as np
import torch
import trimesh

from gap3d_app.values import Mesh


def from_trimesh(shape: trimesh.Trimesh) -> Mesh:
    """The same triangles; colours follow the position (vertex + 0.5)."""
    vertices = torch.from_numpy(np.array(shape.vertices)).float()
    return Mesh(vertices, torch.from_numpy(np.array(shape.faces)).long(), vertices + 0.5)


def sphere(radius: float, subdivisions: int) -> Mesh:
    """Sphere at the origin without colours (the renderers' grey)."""
    mesh = from_trimesh(trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius))
    mesh.colors = None
    return mesh


def box(side: float) -> Mesh:
    """Cube at the origin."""
    return from_trimesh(trimesh.creation.box((side,) * 3))


def quad(centre: tuple[float, float], half: float, y: float = 0.0) -> Mesh:
    """Upright square facing -Y: centre (x, z) and half side."""
    x, z = centre
    corners = [(x - half, y, z - half), (x + half, y, z - half), (x + half, y, z + half), (x - half, y, z + half)]
    return Mesh(torch.tensor(corners), torch.tensor([[0, 1, 2], [0, 2, 3]]))
