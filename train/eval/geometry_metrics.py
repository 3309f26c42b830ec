"""How close two shapes are, and whether a mesh can be used: voxel IoU, F-score, parts, watertightness."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from gap3d_app.geometry.topology import components, directed_edges, face_cross, is_watertight
from gap3d_app.values import Mesh

YAWS = 24
THRESHOLD = 1 / 64  # object units: half a voxel of 32^3
SAMPLES = 10_000
REFERENCE = 100_000  # samples that stand for the other surface; their spacing must be far below THRESHOLD
MAIN_SHARE = 0.95


def voxel_grid(coords: Tensor, resolution: int) -> Tensor:
    """Occupancy [R, R, R] bool of voxels [V, 3 or 4] (a leading column is the batch index and is ignored)."""
    grid = torch.zeros((resolution,) * 3, dtype=torch.bool, device=coords.device)
    grid[tuple(coords[:, -3:].long().T)] = True
    return grid


def voxel_iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two occupancies of equal shape; 1 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


@lru_cache(maxsize=8)
def _yaw_maps(resolution: int, count: int, device: torch.device) -> Tensor:
    """[count, R^3] where each voxel of a grid turned about Z comes from; R^3 for outside."""
    centre = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution - 0.5
    x, y, z = torch.meshgrid(centre, centre, torch.arange(resolution, dtype=torch.float64), indexing="ij")
    maps = []
    for k in range(count):
        c, s = math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)
        i = ((c * x + s * y + 0.5) * resolution).floor().long()
        j = ((c * y - s * x + 0.5) * resolution).floor().long()
        inside = (i >= 0) & (i < resolution) & (j >= 0) & (j < resolution)
        index = (i * resolution + j) * resolution + z.long()
        maps.append(torch.where(inside, index, resolution**3).flatten())
    return torch.stack(maps).to(device)


def turned(grid: Tensor, count: int = YAWS) -> Tensor:
    """[count, R, R, R] bool: the grid [R, R, R] turned about Z by k * 360 / count degrees, k = 0 unchanged.

    Each voxel takes the value of the voxel that its centre comes from.
    """
    flat = torch.cat([grid.flatten(), grid.new_zeros(1)])
    return flat[_yaw_maps(grid.shape[0], count, grid.device)].view(count, *grid.shape)


def best_yaw_iou(made: Tensor, truth: Tensor, count: int = YAWS) -> tuple[float, float]:
    """(IoU, yaw in degrees) of the best of `count` turns of `made` about Z; occupancies [R, R, R] bool."""
    rotated = turned(made, count).flatten(1)
    other = truth.flatten()[None]
    score = (rotated & other).sum(1) / (rotated | other).sum(1).clamp(min=1)
    best = int(score.argmax())
    return float(score[best]), 360.0 * best / count


def sample_surface(mesh: Mesh, count: int, seed: int) -> Tensor:
    """[count, 3] points spread evenly over the area; drawn on the CPU, so that they repeat on any device."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 3, generator=generator, dtype=torch.float64).to(mesh.vertices.device)
    corners = mesh.vertices.double()[mesh.faces]
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = torch.linalg.cross(edge1, edge2).norm(dim=-1).cumsum(0)
    face = torch.searchsorted(area, draw[:, 0] * area[-1]).clamp(max=len(area) - 1)
    u, v = draw[:, 1:2], draw[:, 2:3]
    outside = u + v > 1
    u, v = torch.where(outside, 1 - u, u), torch.where(outside, 1 - v, v)
    return (corners[face, 0] + u * edge1[face] + v * edge2[face]).float()


def nearest_distance(points: Tensor, reference: Tensor) -> Tensor:
    """[P] float32 distance from each point [P, 3] to the nearest reference point [Q, 3]."""
    if points.device.type == "cpu":
        from scipy.spatial import cKDTree

        return torch.from_numpy(cKDTree(reference.numpy()).query(points.numpy(), workers=-1)[0]).float()
    # By matrix products: inside the unit cube their rounding is some 1e-3 of the threshold, and a launch per pair
    # would take seconds.
    mode = "use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(p, reference, compute_mode=mode).amin(1) for p in points.split(4096)])


def f_score(made: Mesh, truth: Mesh, threshold: float = THRESHOLD, seed: int = 0) -> dict[str, float]:
    """Precision, recall and their harmonic mean "f" between two surfaces.

    SAMPLES points of one surface are measured against REFERENCE points of the other: with as few points on
    both sides, even a surface and itself would disagree by chance.
    """
    if made.is_empty or truth.is_empty:
        return {"f": 0.0, "precision": 0.0, "recall": 0.0}
    shares = []
    for a, b in ((made, truth), (truth, made)):
        distance = nearest_distance(sample_surface(a, SAMPLES, seed), sample_surface(b, REFERENCE, seed + 1))
        shares.append(float((distance <= threshold).float().mean()))
    precision, recall = shares
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"f": f, "precision": precision, "recall": recall}


def part_shares(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Share of the area of every connected part, largest first; empty for a mesh without faces."""
    if len(faces) == 0:
        return np.zeros(0)
    _, part = components(len(vertices), directed_edges(faces))
    area = np.bincount(part[faces[:, 0]], np.linalg.norm(face_cross(vertices, faces), axis=1))
    area = np.sort(area[area > 0])[::-1]
    return area / area.sum()


@dataclass
class MeshState:
    """What the export makes of a mesh.

    Attributes:
        faces: triangles after cleaning (and simplification where its package is installed).
        parts: connected parts that are left.
        main_share: the largest part's share of the area.
        watertight: every edge belongs to two faces that run through it in opposite directions.
        simplified: whether the simplification ran.
    """

    faces: int = 0
    parts: int = 0
    main_share: float = 0.0
    watertight: bool = False
    simplified: bool = False

    def usable(self, truth_parts: int) -> bool:
        """Non-empty, watertight, and one main part or no more parts than the truth has."""
        whole = self.main_share > MAIN_SHARE or self.parts <= truth_parts
        return self.faces > 0 and self.watertight and whole


def mesh_state(mesh: Mesh | None, target_faces: int = 10_000) -> MeshState:
    """Clean and simplify a mesh as `export_glb` does before it unwraps, and look at what is left."""
    from gap3d_app.geometry.simplify import keep_main_parts, simplify

    if mesh is None or mesh.is_empty:
        return MeshState()
    vertices, faces = mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy()
    if not np.isfinite(vertices).all():
        return MeshState()
    vertices, faces = keep_main_parts(vertices, faces)
    try:
        vertices, faces = simplify(vertices, faces, target_faces)
        simplified = True
    except ImportError:
        simplified = False
    if len(faces) == 0:
        return MeshState(simplified=simplified)
    shares = part_shares(vertices, faces)
    return MeshState(len(faces), len(shares), float(shares[0]), is_watertight(faces), simplified)


def count_parts(mesh: Mesh) -> int:
    """Connected parts that the export would keep."""
    from gap3d_app.geometry.simplify import keep_main_parts

    return len(part_shares(*keep_main_parts(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy())))
