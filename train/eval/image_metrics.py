"""How close two sets of pictures are: PSNR inside and outside of silhouettes, colour histograms."""

import math

import torch
from torch import Tensor

from gap3d_app.geometry.cameras import orbit_camera
from gap3d_app.render.mesh import render_mesh
from gap3d_app.values import Mesh

PSNR_LIMIT = 100.0  # equal pictures
BINS = 6


def albedo_renders(mesh: Mesh, views: int = 4, size: int = 224) -> Tensor:
    """[views, size, size, 4] unlit pictures on black with coverage, from eye level and above in turn."""
    yaw = [2 * math.pi * (k + 0.5) / views for k in range(views)]
    pitch = [0.1 if k % 2 else 0.5 for k in range(views)]
    return render_mesh(mesh, *orbit_camera(yaw, pitch, 2.0, 40.0), size, shading="albedo", ssaa=2)


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """PSNR in dB over all pixels (or those of `mask`) of all views together; pictures [..., 3] in 0..1."""
    square = (a - b).square()
    error = float(square.mean() if mask is None else square[mask].mean()) if a.numel() else 0.0
    return min(PSNR_LIMIT, -10 * math.log10(max(error, 1e-12)))


def render_psnr(made: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR of pictures [V, S, S, 4] on black: "union" of the two silhouettes, and the "whole" image."""
    union = (made[..., 3] > 0) | (truth[..., 3] > 0)
    return {
        "union": psnr(made[..., :3], truth[..., :3], union),
        "whole": psnr(made[..., :3], truth[..., :3]),
    }


def color_histogram(rgb: Tensor, mask: Tensor, bins: int = BINS) -> Tensor:
    """Share of the masked pixels per colour cell, [bins^3], sums to 1; every pixel is shared by 8 cells.

    rgb [..., 3] in 0..1; mask [...] bool.
    """
    place = rgb[mask].float().clamp(0, 1) * (bins - 1)
    low = place.floor().clamp(max=bins - 2)
    part = place - low
    low = low.long()
    histogram = torch.zeros(bins**3, device=rgb.device)
    for corner in range(8):
        step = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=rgb.device)
        weight = torch.where(step.bool(), part, 1 - part).prod(-1)
        cell = low + step
        histogram.index_add_(0, (cell[:, 0] * bins + cell[:, 1]) * bins + cell[:, 2], weight)
    return histogram / histogram.sum().clamp(min=1e-9)


def histogram_distance(a: Tensor, b: Tensor) -> float:
    """Half the L1 distance of two histograms: 0 equal, 1 disjoint."""
    return float((a - b).abs().sum() / 2)
