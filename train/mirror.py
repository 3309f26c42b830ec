"""Mirrored assets: left and right exchanged, in pictures, in what they show and in voxels alike.

A picture flipped sideways is what a camera on the other side would see of the mirror image of the asset under mirrored
light. So every asset gives a second one for free, and pictures from the left are as many as from the right.
"""

import torch
from torch import Tensor


def draw_mirrored(count: int, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """[count] bool: the samples that are to be mirrored."""
    return torch.rand(count, generator=generator, device=generator.device) < share


def mirrored_images(images: Tensor, chosen: Tensor) -> Tensor:
    """Pictures [B, 3, H, W], those of `chosen` [B] flipped sideways."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def mirrored_geometry(maps: Tensor, chosen: Tensor) -> Tensor:
    """Normals, depth and positions [B, 7, H, W] (`Views.dense_targets`) of flipped pictures: x points the other way."""
    turned = maps.flip(3) * maps.new_tensor([-1.0, 1, 1, 1, -1, 1, 1])[:, None, None]
    return torch.where(chosen[:, None, None, None], turned, maps)


def mirrored_grid(grid: Tensor, chosen: Tensor) -> Tensor:
    """Voxels [B, C, X, Y, Z], those of `chosen` [B] mirrored at x = 0 of the object's space."""
    return torch.where(chosen[:, None, None, None, None], grid.flip(2), grid)
