"""Radiance fields whose pictures are known."""

import math

import torch

from gap3d_app.values import SH_C0, RadianceField

RANK, LENGTH = 3, 8


def constant_field(coords: torch.Tensor, resolution: int, density: float, rgb: tuple[float, ...]) -> RadianceField:
    """The same density (per object unit) and colour everywhere in the given voxels."""
    count = len(coords)
    field = RadianceField(
        coords=coords.int(),
        trivec=torch.ones(count, RANK, 3, LENGTH),
        density=torch.zeros(count, RANK),
        features_dc=torch.zeros(count, RANK, 1, 3),
        resolution=resolution,
    )
    # component 1 has the value 1 everywhere; the others are multiplied by nothing
    field.density[:, 1] = density + math.log(-math.expm1(-density))  # inverse of softplus
    field.features_dc[:, 1, 0] = torch.logit(torch.tensor(rgb)) / SH_C0
    return field


def random_field(resolution: int = 4, share: float = 0.4, density: float = 1.0, seed: int = 0) -> RadianceField:
    """Voxels, vectors and colours drawn at random."""
    draw = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    coords = grid[torch.rand(len(grid), generator=draw) < share]
    return RadianceField(
        coords=coords.int(),
        trivec=1 + 0.5 * torch.randn(len(coords), RANK, 3, LENGTH, generator=draw),
        density=density * torch.randn(len(coords), RANK, generator=draw),
        features_dc=4 * torch.randn(len(coords), RANK, 1, 3, generator=draw),
        resolution=resolution,
    )
