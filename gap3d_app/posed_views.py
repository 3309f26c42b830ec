"""From pictures of an object with known cameras to its structured latent, as TRELLIS encodes it (trellis.md 6.1, 9.2).

    slat = encode_views(pipe, pictures, *read_cameras("transforms.json"), voxelize(mesh, 64))
    pipe.decode(slat).save("again.glb")
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image, Resampling
from torch import Tensor

from gap3d_app.errors import InputError
from gap3d_app.geometry.cameras import project
from gap3d_app.models.pictures import IMAGENET_MEAN, IMAGENET_STD, normalize
from gap3d_app.sparse.tensor import SparseTensor
from gap3d_app.values import SLat

if TYPE_CHECKING:
    from gap3d_app.models.image_encoder import ImageEncoder
    from gap3d_app.pipeline import Gap3DPipeline

OPENGL = (1.0, -1.0, -1.0, 1.0)
"""Signs between camera axes: x right, y down, z forward here; x right, y up, z back in transforms.json."""

AT_ONCE = 16
"""Pictures in one pass of the image encoder, as published."""


def read_cameras(path: str | Path) -> tuple[Tensor, Tensor]:
    """Extrinsics [n, 4, 4] and intrinsics [n, 3, 3] float32 of a transforms.json (trellis.md 9.2).

    Raises:
        InputError: the file is missing or not of that form.
    """
    path = Path(path)
    try:
        frames = json.loads(path.read_text(encoding="utf-8"))["frames"]
        matrices = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
        extrinsics = torch.linalg.inv(matrices * torch.tensor(OPENGL)).float().reshape(-1, 4, 4)
        focal = torch.tensor([0.5 / math.tan(frame["camera_angle_x"] / 2) for frame in frames])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(
            f"The cameras {path.name!r} cannot be read ({error}); a list of frames with camera_angle_x and "
            "transform_matrix [4, 4] is needed."
        ) from None
    intrinsics = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]).repeat(len(frames), 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    return extrinsics, intrinsics


def picture_on_black(picture: Image, size: int) -> Tensor:
    """A picture [3, size, size] in 0..1: made that size (Lanczos), then colours times alpha."""
    rgba = np.asarray(picture.convert("RGBA").resize((size, size), Resampling.LANCZOS), dtype=np.float32) / 255
    return torch.from_numpy(rgba[..., :3] * rgba[..., 3:]).permute(2, 0, 1)


def view_maps(encoder: ImageEncoder, pictures: Sequence[Image], device: torch.device) -> Tensor:
    """Patch features [n, h, w, C] float32 of square pictures, before any norm."""
    side, maps = encoder.config.image_size // encoder.config.patch_size, []
    for first in range(0, len(pictures), AT_ONCE):
        some = pictures[first : first + AT_ONCE]
        images = torch.stack([picture_on_black(picture, encoder.config.image_size) for picture in some])
        images = normalize(images.to(device), IMAGENET_MEAN, IMAGENET_STD)
        maps.append(encoder.prenorm(images)[:, -side * side :].float().unflatten(1, (side, side)))
    return torch.cat(maps)


def sample_maps(maps: Tensor, uv: Tensor) -> Tensor:
    """What maps [n, h, w, C] hold at uv [n, V, 2] of 0..1: bilinear, zero outside; [n, C, V]."""
    grid = (uv * 2 - 1)[:, None]
    return F.grid_sample(maps.movedim(-1, 1), grid.to(maps.dtype), align_corners=False)[:, :, 0]


def voxel_centres(coords: Tensor, resolution: int) -> Tensor:
    """[V, 3] integer voxels -> [V, 3] float positions in the unit cube around the origin."""
    return (coords.float() + 0.5) / resolution - 0.5


@torch.no_grad()
def encode_views(
    pipeline: Gap3DPipeline, pictures: Sequence[Image], extrinsics: Tensor, intrinsics: Tensor, coords: Tensor
) -> SLat:
    """The structured latent of an object (mean of the posterior).

    Args:
        pipeline: weights with an image encoder and a SLAT encoder that reads its features.
        pictures: n square pictures; transparency, if any, is put on black. TRELLIS takes 150.
        extrinsics: [n, 4, 4] world to camera (x right, y down, z forward), the object in -0.5..0.5.
        intrinsics: [n, 3, 3] for a picture of size 1.
        coords: [V, 3] integer voxels of the object's surface, such as `geometry.voxels.voxelize` finds.

    Raises:
        InputError: no picture, no voxel, pictures that are not square, or other numbers of them than of cameras.
        WeightsError: the weights lack one of the encoders.
    """
    if not pictures or not len(coords):
        raise InputError(
            f"There are {len(pictures)} pictures and {len(coords)} voxels; at least one of each is needed."
        )
    if not len(pictures) == len(extrinsics) == len(intrinsics):
        raise InputError(
            f"There are {len(pictures)} pictures, {len(extrinsics)} extrinsics and {len(intrinsics)} intrinsics; "
            "give one camera for each picture."
        )
    for number, picture in enumerate(pictures):
        if picture.width != picture.height:
            raise InputError(
                f"Picture {number} has {picture.width} x {picture.height} pixels; it must be square, as its camera is."
            )
    with pipeline.using("image_encoder") as encoder:
        maps = view_maps(encoder, pictures, pipeline.device)
    with pipeline.using("slat_encoder") as encoder:
        config, device = encoder.config, pipeline.device
        rows = coords.to(device)
        if maps.shape[-1] != config.in_channels:
            raise InputError(
                f"The SLAT encoder reads {config.in_channels} channels, the image encoder gives {maps.shape[-1]}; "
                "these weights encode no views."
            )
        centres = voxel_centres(rows, config.resolution)
        # The mean over all views, also of those that do not see a voxel, is what the encoder learnt from.
        total = maps.new_zeros(maps.shape[-1], len(rows))
        for features, *camera in zip(maps, extrinsics.to(device), intrinsics.to(device), strict=True):
            uv, _ = project(centres, *camera)
            total += sample_maps(features[None], uv[None])[0]
        sites = F.pad(rows.int(), (1, 0))
        mean, _ = encoder.posterior(SparseTensor((total / len(maps)).t().contiguous(), sites))
        return SLat(SparseTensor(mean, sites), config.resolution)
