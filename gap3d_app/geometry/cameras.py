"""Cameras on a sphere around the object (trellis.md section 7.1).

World is Z-up; extrinsics are world-to-camera with OpenCV axes (x right, y down, z forward); intrinsics are
for an image of size 1, so pixel = uv * size. Yaw 0 puts the camera on +Y; an asset that faces -Y is seen from
the front at yaw = pi. Angles are radians, the field of view is degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Number = float | Sequence[float] | Tensor


def _doubles(value: Number) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def orbit_camera(
    yaw: Number, pitch: Number, radius: Number = 2.0, fov_deg: Number = 40.0
) -> tuple[Tensor, Tensor]:
    """Cameras that look at the origin with +Z up.

    Args:
        yaw, pitch: radians; scalars or broadcastable tensors of any shape [...].
        radius: distance of the eye from the origin, object units.
        fov_deg: full field of view across the square image, degrees.

    Returns:
        extrinsics [..., 4, 4] and intrinsics [..., 3, 3], float32.
    """
    yaw, pitch, radius, fov = torch.broadcast_tensors(*map(_doubles, (yaw, pitch, radius, fov_deg)))
    sin_y, cos_y, sin_p, cos_p = yaw.sin(), yaw.cos(), pitch.sin(), pitch.cos()
    forward = -torch.stack([sin_y * cos_p, cos_y * cos_p, sin_p], dim=-1)
    # normalise(cross(-up, forward)) written out, so that a view straight along the up axis keeps its yaw.
    right = torch.stack([-cos_y, sin_y, torch.zeros_like(sin_y)], dim=-1)
    down = torch.linalg.cross(forward, right)
    extrinsics = torch.zeros(*yaw.shape, 4, 4, dtype=torch.float64, device=yaw.device)
    extrinsics[..., 0, :3] = right
    extrinsics[..., 1, :3] = down
    extrinsics[..., 2, :3] = forward
    extrinsics[..., 2, 3] = radius  # -R eye: the eye lies on the viewing axis
    extrinsics[..., 3, 3] = 1.0
    return extrinsics.float(), intrinsics_from_fov(fov)


def intrinsics_from_fov(fov_deg: Number) -> Tensor:
    """[..., 3, 3] float32 pinhole matrices for a unit image, centre 0.5, from the view angle in degrees."""
    fov = _doubles(fov_deg)
    focal = 0.5 / torch.tan(torch.deg2rad(fov) / 2)
    intrinsics = torch.zeros(*fov.shape, 3, 3, dtype=torch.float64, device=fov.device)
    intrinsics[..., 0, 0] = focal
    intrinsics[..., 1, 1] = focal
    intrinsics[..., :2, 2] = 0.5
    intrinsics[..., 2, 2] = 1.0
    return intrinsics.float()


def look_at(eye: Number, target: Number = (0.0, 0.0, 0.0), up: Number = (0.0, 0.0, 1.0)) -> Tensor:
    """[..., 4, 4] float32 extrinsics of a camera at `eye` [..., 3] that looks at `target` [..., 3].

    Raises:
        ValueError: eye equals target, or the view is along the up axis.
    """
    eye, target, up = torch.broadcast_tensors(*map(_doubles, (eye, target, up)))
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.linalg.cross(-up, forward)
    if bool((torch.linalg.norm(right, dim=-1) < 1e-9).any()):
        raise ValueError("the viewing direction is undefined or parallel to the up axis")
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward], dim=-2)
    extrinsics = torch.zeros(*eye.shape[:-1], 4, 4, dtype=torch.float64, device=eye.device)
    extrinsics[..., :3, :3] = rotation
    extrinsics[..., :3, 3] = -(rotation @ eye[..., None])[..., 0]
    extrinsics[..., 3, 3] = 1.0
    return extrinsics.float()


def camera_centers(extrinsics: Tensor) -> Tensor:
    """[..., 3] eye positions in world space of extrinsics [..., 4, 4]."""
    return -(extrinsics[..., :3, :3].transpose(-1, -2) @ extrinsics[..., :3, 3:])[..., 0]


def project(points: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Pinhole projection.

    Args:
        points: [P, 3] world positions.
        extrinsics: [..., 4, 4].
        intrinsics: [..., 3, 3].

    Returns:
        uv [..., P, 2] in units of the image size (0,0 = top left corner) and depth [..., P] along z.
    """
    camera = points @ extrinsics[..., :3, :3].transpose(-1, -2) + extrinsics[..., None, :3, 3]
    image = camera @ intrinsics.transpose(-1, -2)
    return image[..., :2] / image[..., 2:], camera[..., 2]


def unproject(uv: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> Tensor:
    """World positions [..., P, 3] of what `project` gives uv [..., P, 2] and depth [..., P]."""
    ones = torch.ones_like(uv[..., :1])
    rays = torch.cat([uv, ones], dim=-1) @ torch.linalg.inv(intrinsics).transpose(-1, -2)
    camera = rays * depth[..., None] - extrinsics[..., None, :3, 3]
    return camera @ extrinsics[..., :3, :3]


def projection_matrix(intrinsics: Tensor, near: float, far: float) -> Tensor:
    """[..., 4, 4] clip-space matrix for depth range 0..1 with y down, as the renderers use it."""
    fx, fy = intrinsics[..., 0, 0], intrinsics[..., 1, 1]
    cx, cy = intrinsics[..., 0, 2], intrinsics[..., 1, 2]
    matrix = torch.zeros(*intrinsics.shape[:-2], 4, 4, dtype=intrinsics.dtype, device=intrinsics.device)
    matrix[..., 0, 0] = 2 * fx
    matrix[..., 0, 2] = 2 * cx - 1
    matrix[..., 1, 1] = 2 * fy
    matrix[..., 1, 2] = 1 - 2 * cy
    matrix[..., 2, 2] = far / (far - near)
    matrix[..., 2, 3] = -near * far / (far - near)
    matrix[..., 3, 2] = 1.0
    return matrix


def radical_inverse(base: int, index: int) -> float:
    """Van der Corput value of `index` in `base`, in [0, 1)."""
    value, scale = 0.0, 1.0
    while index > 0:
        scale /= base
        index, digit = divmod(index, base)
        value += digit * scale
    return value


def hammersley(index: int, count: int, dims: int = 2) -> list[float]:
    """Point `index` of `count` of the Hammersley set: (i/n, vdc_2(i), vdc_3(i), ...)."""
    primes = (2, 3, 5, 7, 11)
    if not 1 <= dims <= len(primes) + 1:
        raise ValueError(f"dims must be 1..{len(primes) + 1}, got {dims}")
    return [index / count] + [radical_inverse(primes[k], index) for k in range(dims - 1)]


def sphere_hammersley(
    index: int, count: int, offset: tuple[float, float] = (0.0, 0.0), remap: bool = False
) -> tuple[float, float]:
    """(yaw, pitch) in radians of view `index` of `count`, evenly spread over the sphere.

    Args:
        offset: shift of the two Hammersley coordinates, for random but even view sets.
        remap: put three quarters of the views above the equator (the data toolkit does).
    """
    u, v = hammersley(index, count, 2)
    u = u + offset[0] / count
    v = v + offset[1]
    if remap:
        u = 2 * u if u < 0.25 else 2 * u / 3 + 1 / 3
    return 2 * math.pi * v, math.acos(min(1.0, max(-1.0, 1 - 2 * u))) - math.pi / 2


def sphere_cameras(
    count: int,
    radius: float = 2.0,
    fov_deg: float = 40.0,
    offset: tuple[float, float] = (0.0, 0.0),
    remap: bool = False,
) -> tuple[Tensor, Tensor]:
    """`count` cameras spread over the sphere: extrinsics [count, 4, 4] and intrinsics [count, 3, 3]."""
    angles = [sphere_hammersley(i, count, offset, remap) for i in range(count)]
    return orbit_camera([a[0] for a in angles], [a[1] for a in angles], radius, fov_deg)


def turntable_cameras(
    count: int, pitch: float = 0.3, radius: float = 2.0, fov_deg: float = 40.0, start: float = math.pi
) -> tuple[Tensor, Tensor]:
    """One turn that starts at the front of the asset; the last view is one step short of the first."""
    yaw = start + 2 * math.pi * torch.arange(count, dtype=torch.float64) / max(count, 1)
    return orbit_camera(yaw, pitch, radius, fov_deg)
