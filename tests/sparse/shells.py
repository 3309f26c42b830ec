"""Voxel sets like those of real assets: closed surfaces two voxels thick."""

import math

import torch


def shell(voxels: int, size: int = 64) -> torch.Tensor:
    """[voxels, 4] int32 sorted (0, x, y, z): the cells nearest to a sphere on which they lie two voxels thick."""
    axis = torch.arange(size) - (size - 1) / 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().flatten()
    radius = math.sqrt(voxels / (8 * math.pi))
    cell = (distance - radius).abs().argsort(stable=True)[:voxels].sort().values
    rows = [torch.zeros_like(cell), cell // size**2, cell // size % size, cell % size]
    return torch.stack(rows, dim=1).int()
