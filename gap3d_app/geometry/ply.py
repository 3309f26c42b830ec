"""Gaussian PLY files as splat viewers read them (trellis.md section 8.4)."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.errors import InputError
from gap3d_app.output import write_atomic
from gap3d_app.values import Gaussians

COLUMNS = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip

Y_DOWN = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
"""Default transform (x, y, z) -> (x, -z, y): splat viewers expect Y down."""


def gaussians_to_table(
    gaussians: Gaussians, transform: tuple[tuple[float, ...], ...] | None = Y_DOWN
) -> Tensor:
    """The vertex table of the file.

    Args:
        gaussians: G Gaussians.
        transform: 3x3 rotation applied to positions and orientations, None for object space.

    Returns:
        [G, 17] float32, columns as in COLUMNS: opacity as a logit, scales as natural logarithms, quaternions
        (w, x, y, z), unit length if transformed.
    """
    xyz, quaternion = gaussians.xyz.float(), gaussians.quaternion.float()
    if transform is not None:
        turn = torch.tensor(transform, dtype=xyz.dtype, device=xyz.device)
        xyz = xyz @ turn.T
        quaternion = matrix_to_quaternion(turn @ gaussians.rotation_matrix.float())
    # the logit of the activated opacity, which where it is saturated is that of the nearest value with a finite one
    limits = torch.finfo(torch.float32)
    opacity = torch.logit(gaussians.opacity.float().clamp(limits.tiny, 1 - limits.eps / 2))
    parts = [
        xyz,
        torch.zeros_like(xyz),
        gaussians.raw_features_dc[:, 0].float(),
        opacity,
        gaussians.scaling.float().log(),
        quaternion,
    ]
    return torch.cat(parts, dim=1).float()


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions [..., 4] (w, x, y, z) of rotation matrices [..., 3, 3]; w is not negative."""
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # |w|, |x|, |y|, |z| times two; the largest decides which differences give the signs
    size = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], dim=-1)
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    candidates = torch.stack(
        [
            torch.stack([size[..., 0], a, b, c], dim=-1),
            torch.stack([a, size[..., 1], d, e], dim=-1),
            torch.stack([b, d, size[..., 2], f], dim=-1),
            torch.stack([c, e, f, size[..., 3]], dim=-1),
        ],
        dim=-2,
    )
    best = size.argmax(-1)[..., None, None].expand(*size.shape[:-1], 1, 4)
    quaternion = F.normalize(candidates.gather(-2, best)[..., 0, :], dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def save_gaussians(
    gaussians: Gaussians,
    path: str | os.PathLike,
    transform: tuple[tuple[float, ...], ...] | None = Y_DOWN,
    min_opacity: float = 0.0,
) -> None:
    """Write a binary little-endian PLY, 68 bytes a Gaussian.

    Args:
        transform: as for `gaussians_to_table`.
        min_opacity: Gaussians that are less opaque, 0..1, are left out.

    Raises:
        OutputError: the file cannot be written.
    """
    table = gaussians_to_table(gaussians, transform)[gaussians.opacity[:, 0] >= min_opacity]
    table = table.detach().cpu().numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property float {name}" for name in COLUMNS]
    write_atomic(path, ("\n".join([*header, "end_header"]) + "\n").encode("ascii") + table.tobytes())


def load_gaussians(
    path: str | os.PathLike, transform: tuple[tuple[float, ...], ...] | None = Y_DOWN
) -> Gaussians:
    """Read a file that `save_gaussians` wrote with the same transform.

    Returns:
        Gaussians whose activated values equal the saved ones (raw values follow from them).

    Raises:
        InputError: not a Gaussian PLY, or cut short.
    """
    with open(path, "rb") as file:
        content = file.read()
    head, found, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    count = [int(line.split()[-1]) for line in lines if line.startswith("element vertex ")]
    if not found or "format binary_little_endian 1.0" not in lines or tuple(names) != COLUMNS or not count:
        raise InputError(f"{os.fspath(path)} is not a Gaussian PLY with the 17 columns of this program.")
    if len(body) != count[0] * 4 * len(COLUMNS):
        raise InputError(f"{os.fspath(path)} is cut short: {len(body)} of {count[0] * 68} bytes of data.")
    table = torch.from_numpy(np.frombuffer(body, dtype="<f4").reshape(-1, len(COLUMNS)).copy())
    xyz, quaternion = table[:, :3], table[:, 13:]
    if transform is not None:
        turn = torch.tensor(transform).T
        xyz = xyz @ turn.T
        rotation = Gaussians(xyz, table[:, None, 6:9], table[:, 10:13], quaternion - _IDENTITY, table[:, 9:10])
        quaternion = matrix_to_quaternion(turn @ rotation.rotation_matrix)
    defaults = Gaussians(xyz, xyz, xyz, xyz, xyz)
    sigma = (table[:, 10:13].exp().square() - defaults.kernel_3d**2).clamp(min=1e-14).sqrt()
    box = torch.tensor(defaults.aabb)
    return Gaussians(
        raw_xyz=(xyz - box[:3]) / box[3:],
        raw_features_dc=table[:, None, 6:9].contiguous(),
        raw_scaling=torch.log(torch.expm1(sigma)) - math.log(math.expm1(defaults.scaling_bias)),
        raw_rotation=quaternion - _IDENTITY,
        raw_opacity=table[:, 9:10] - math.log(defaults.opacity_bias / (1 - defaults.opacity_bias)),
    )


_IDENTITY = torch.tensor([1.0, 0.0, 0.0, 0.0])
