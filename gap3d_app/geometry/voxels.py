"""Meshes to the voxels that their triangles touch (trellis.md section 1.9)."""

from __future__ import annotations

import torch
from torch import Tensor

from gap3d_app.errors import InputError
from gap3d_app.values import Mesh

PAIRS_PER_PASS = 1 << 20
INSIDE = 0.5 - 1e-6


def unit_cube(mesh: Mesh) -> Tensor:
    """Vertices [V, 3] float64, centred by their box, its longest side scaled to 1, inside the unit cube.

    Raises:
        InputError: the mesh has no faces or no extent.
    """
    if mesh.is_empty:
        raise InputError("The mesh has no faces, so it has no voxels; give another mesh.")
    points = mesh.vertices.detach().cpu().double()
    used = points[mesh.faces.cpu().unique()]
    low, high = used.amin(0), used.amax(0)
    longest = (high - low).max()
    if not longest > 0 or not torch.isfinite(longest):
        raise InputError("The mesh is a single point or not finite; give another mesh.")
    return ((points - (low + high) / 2) / longest).clamp(-INSIDE, INSIDE)


def voxelize(mesh: Mesh, resolution: int) -> Tensor:
    """Voxels of the unit cube that a triangle of the mesh touches, their sides included.

    Args:
        mesh: any triangles, closed or not; scaled to the cube first, see `unit_cube`.
        resolution: voxels per axis.

    Returns:
        [V, 3] int32 on the CPU, in lexicographic order.

    Raises:
        InputError: see `unit_cube`.
    """
    # In voxels, so that a voxel is the unit cube round a point whose coordinates are integers and a half.
    triangles = ((unit_cube(mesh) + 0.5) * resolution)[mesh.faces.cpu()]
    low = (triangles.amin(1).ceil() - 1).clamp(0, resolution - 1).long()
    high = triangles.amax(1).floor().clamp(0, resolution - 1).long()
    extent = high - low + 1
    count = extent.prod(1)
    active = torch.zeros(resolution**3, dtype=torch.bool)
    ends = count.cumsum(0)
    first = 0
    while first < len(triangles):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(ends, before + PAIRS_PER_PASS, right=True)))
        owner = torch.repeat_interleave(torch.arange(first, last), count[first:last])
        index = torch.arange(len(owner)) - (ends - count)[owner] + before
        depth, width = extent[owner, 2], extent[owner, 1]
        offset = torch.stack([index // (depth * width), index // depth % width, index % depth], dim=1)
        voxel = low[owner] + offset
        voxel = voxel[_touches(triangles[owner] - (voxel + 0.5).double()[:, None])]
        active[(voxel[:, 0] * resolution + voxel[:, 1]) * resolution + voxel[:, 2]] = True
        first = last
    index = active.nonzero(as_tuple=True)[0]
    rows = [index // resolution**2, index // resolution % resolution, index % resolution]
    return torch.stack(rows, dim=1).int()


def _touches(triangles: Tensor) -> Tensor:
    """[P] whether triangles [P, 3, 3] meet the cube [-0.5, 0.5]^3: no axis separates the two.

    The candidates are the cube's axes, the triangle's normal, and the products of both shapes' edges.
    """
    meets = ((triangles.amin(1) <= 0.5) & (triangles.amax(1) >= -0.5)).all(1)
    edges = triangles.roll(-1, dims=1) - triangles
    axes = [torch.linalg.cross(edges[:, 0], edges[:, 1])]
    for axis in torch.eye(3, dtype=triangles.dtype):
        axes += [torch.linalg.cross(edges[:, k], axis.expand_as(edges[:, k])) for k in range(3)]
    for axis in axes:
        reach = axis.abs().sum(1) / 2
        shadow = (triangles @ axis[:, :, None])[..., 0]
        meets &= (shadow.amin(1) <= reach) & (shadow.amax(1) >= -reach)
    return meets
