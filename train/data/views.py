"""Condition views: what the image encoder sees of an asset, and voxel features projected from views.

Cameras look at the asset as a person who takes a picture would; then the picture is cropped as inference does
(trellis.md section 1.1 step 3). The crop is a change of the intrinsics made before rendering, so that every
view is sharp at its final size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.geometry.cameras import orbit_camera, project, unproject
from gap3d_app.posed_views import sample_maps, voxel_centres
from gap3d_app.render.mesh import Raster, rasterize, render_mesh
from gap3d_app.values import Mesh

CROP = 1.2  # side of the crop over the longer side of the silhouette's box
SUPERSAMPLE = 2
CANONICAL = {"yaw": math.pi - 0.6, "pitch": 0.35, "radius": 2.0, "fov_deg": 40.0}
"""View 0: front three-quarter, from a little above."""


@dataclass
class Cameras:
    """Cameras and light of n views.

    Attributes:
        extrinsics: [n, 4, 4] float32 world to camera.
        intrinsics: [n, 3, 3] float32 for an image of size 1, crop included.
        light: [n, 3] float32 unit direction towards the key light, world space.
        ambient: [n] float32; the diffuse weight is its complement to one.
    """

    extrinsics: Tensor
    intrinsics: Tensor
    light: Tensor
    ambient: Tensor

    def to(self, device: str | torch.device) -> Cameras:
        """The same cameras on another device."""
        return Cameras(*(getattr(self, k).to(device) for k in self.__dataclass_fields__))

    def __len__(self) -> int:
        return self.extrinsics.shape[0]


@dataclass
class Views:
    """Rendered condition views.

    Attributes:
        rgb: [n, S, S, 3] uint8, premultiplied on black.
        alpha: [n, S, S] uint8 coverage.
        extrinsics, intrinsics: [n, 4, 4], [n, 3, 3] float32.
        normal: [n, S, S, 3] float32 camera-space normals (x right, y down, z forward) times coverage.
        depth: [n, S, S] float32 camera z in object units, 0 where nothing is seen.
    """

    rgb: Tensor
    alpha: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    normal: Tensor
    depth: Tensor

    def dense_targets(self, size: int = 32) -> Tensor:
        """Geometry targets at low resolution: [n, size, size, 7] int8 in -127..127, averages over a cell.

        Channels 0..2: camera-space normal; channel 3: depth relative to the distance of the object's centre, nearer
        positive, in half cube diagonals; channels 4..6: position on the object in half sides of its cube. All are 0
        on background.
        """
        covered = (self.depth > 0).float()
        centre = self.extrinsics[:, 2, 3, None, None]
        relief = (centre - self.depth) / (math.sqrt(3) / 2) * covered
        positions = 2 * self.positions() * covered[..., None]
        maps = torch.cat([self.normal.movedim(-1, 1), relief[:, None], positions.movedim(-1, 1)], dim=1)
        pooled = F.adaptive_avg_pool2d(maps, size)
        return (pooled.clamp(-1, 1) * 127).round().to(torch.int8).movedim(1, -1)

    def positions(self) -> Tensor:
        """[n, S, S, 3] float32 points of the object's space that the pixels see; any where nothing is seen."""
        n, size, _ = self.depth.shape
        axis = (torch.arange(size, device=self.depth.device) + 0.5) / size
        v, u = torch.meshgrid(axis, axis, indexing="ij")
        uv = torch.stack([u, v], dim=-1).view(1, -1, 2).expand(n, -1, -1)
        points = unproject(uv, self.depth.flatten(1), self.extrinsics, self.intrinsics)
        return points.view(n, size, size, 3)


def condition_cameras(seed: int, n: int, mesh: Mesh | None = None) -> Cameras:
    """Cameras of `n` condition views; view 0 is always the canonical one.

    The others: yaw uniform, pitch normal (0.3, 0.25) within -0.3..1.1 rad, field of view uniform 25..50 deg, at
    the distance from which the unit sphere fits. Light and ambient weight vary with the seed in all views.

    Args:
        mesh: when given, every view is cropped to its silhouette (on the mesh's device).
    """
    draw = np.random.default_rng([seed, 7])
    yaw = draw.uniform(0, 2 * math.pi, n)
    pitch = np.clip(draw.normal(0.3, 0.25, n), -0.3, 1.1)
    fov = draw.uniform(25, 50, n)
    radius = 0.5 * math.sqrt(3) / np.sin(np.radians(fov) / 2)
    if n:
        yaw[0], pitch[0] = CANONICAL["yaw"], CANONICAL["pitch"]
        radius[0], fov[0] = CANONICAL["radius"], CANONICAL["fov_deg"]
    extrinsics, intrinsics = orbit_camera(*(torch.from_numpy(v) for v in (yaw, pitch, radius, fov)))
    # around the viewer: from left to right, mostly above (camera axes are right, down, forward)
    side, up = draw.uniform(-1.0, 1.0, n), draw.uniform(0.3, 1.2, n)
    toward = torch.from_numpy(np.stack([side, -up, np.full(n, -0.8)], axis=-1)).float()
    light = F.normalize((extrinsics[:, :3, :3].mT @ toward[..., None])[..., 0], dim=-1)
    ambient = torch.from_numpy(draw.uniform(0.42, 0.6, n)).float()
    cameras = Cameras(extrinsics, intrinsics, light, ambient)
    if mesh is not None:
        cameras = cameras.to(mesh.vertices.device)
        cameras.intrinsics = crop_to_mesh(mesh, cameras.extrinsics, cameras.intrinsics)
    return cameras


def crop_to_mesh(mesh: Mesh, extrinsics: Tensor, intrinsics: Tensor, factor: float = CROP) -> Tensor:
    """[n, 3, 3] intrinsics of the square crop around the projected vertices, `factor` times their longer side.

    Vertices that no face uses do not count.
    """
    used = torch.zeros(mesh.vertices.shape[0], dtype=torch.bool, device=mesh.vertices.device)
    used[mesh.faces.reshape(-1)] = True
    uv, _ = project(mesh.vertices[used].float(), extrinsics, intrinsics)
    low, high = uv.amin(1), uv.amax(1)
    side = ((high - low).amax(-1) * factor).clamp(min=1e-3)
    corner = (low + high) / 2 - side[:, None] / 2
    cropped = intrinsics.clone()
    cropped[:, 0, 0] /= side
    cropped[:, 1, 1] /= side
    cropped[:, :2, 2] = (cropped[:, :2, 2] - corner) / side[:, None]
    return cropped


def render_views(mesh: Mesh, cameras: Cameras, size: int = 224) -> Views:
    """Render the condition views of a mesh with their lights, on the mesh's device."""
    cameras = cameras.to(mesh.vertices.device)
    extrinsics, intrinsics = cameras.extrinsics, cameras.intrinsics
    raster = rasterize(mesh.vertices, mesh.faces, extrinsics, intrinsics, size * SUPERSAMPLE)
    shared = {"size": size, "ssaa": SUPERSAMPLE, "raster": raster}
    picture = render_mesh(
        mesh, extrinsics, intrinsics, light=cameras.light, ambient=cameras.ambient,
        diffuse=1 - cameras.ambient, **shared,
    )  # fmt: skip
    world = render_mesh(mesh, extrinsics, intrinsics, shading="normal", **shared)
    world = world[..., :3] * 2 - world[..., 3:]  # undo the mapping to 0..1, keep the coverage weight
    normal = torch.einsum("nij,nhwj->nhwi", extrinsics[:, :3, :3], world)
    byte = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    return Views(
        rgb=byte[..., :3],
        alpha=byte[..., 3],
        extrinsics=extrinsics,
        intrinsics=intrinsics,
        normal=normal,
        depth=_nearest_depth(raster),
    )


def _nearest_depth(raster: Raster) -> Tensor:
    """[n, S, S] smallest depth among the samples of each pixel, 0 where none hit."""
    depth = torch.where(raster.mask, raster.depth, float("inf"))
    steps = range(SUPERSAMPLE)
    depth = torch.stack([depth[:, i::SUPERSAMPLE, j::SUPERSAMPLE] for i in steps for j in steps]).amin(0)
    return torch.where(depth.isinf(), 0.0, depth)


def project_features(
    maps: Tensor,
    coords: Tensor,
    extrinsics: Tensor,
    intrinsics: Tensor,
    depth: Tensor,
    resolution: int = 32,
    tolerance: float = 1.5,
) -> Tensor:
    """Voxel features: mean over the views that see a voxel's centre (compare trellis.md section 9.2).

    TRELLIS averages 150 views without looking at visibility, which washes hidden surfaces out evenly; with a
    handful of views the wrong ones would dominate, so a depth test picks them. Voxels that no view sees take
    the mean of all views.

    Args:
        maps: [n, h, w, C] patch features.
        coords: [V, 3] integer voxel coordinates.
        extrinsics, intrinsics: [n, 4, 4], [n, 3, 3].
        depth: [n, S, S] camera z of the views, 0 on background.
        tolerance: how far behind the seen surface a centre may lie, in voxels.

    Returns:
        [V, C] in the dtype of `maps`.
    """
    uv, z = project(voxel_centres(coords, resolution), extrinsics, intrinsics)
    grid, features = (uv * 2 - 1)[:, None], sample_maps(maps, uv)  # [n, 1, V, 2], [n, C, V]
    # background counts as infinitely deep; the nearest sample avoids mixing it with the surface
    surface = torch.where(depth > 0, depth, 1e6)[:, None]
    surface = F.grid_sample(surface, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0, 0]
    inside = ((uv >= 0) & (uv <= 1)).all(-1)
    seen = (inside & (z <= surface + tolerance / resolution)).to(maps.dtype)
    seen = torch.where(seen.sum(0, keepdim=True) > 0, seen, torch.ones_like(seen))
    return ((features * seen[:, None]).sum(0) / seen.sum(0)).T
