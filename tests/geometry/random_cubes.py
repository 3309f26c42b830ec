"""Cubes with random features, which meet every case of a cube."""

import torch
from torch import Tensor


def random_cubes(resolution: int, share: float, channels: int) -> tuple[Tensor, Tensor]:
    """Coordinates [N, 3] of a share of a grid's cubes, those at its border too, in any order, and features [N, C]."""
    generator = torch.Generator().manual_seed(resolution + channels)
    grid = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    coords = grid[torch.rand(len(grid), generator=generator) < share]
    coords = coords[torch.randperm(len(coords), generator=generator)]
    return coords, torch.randn(len(coords), channels, generator=generator)
