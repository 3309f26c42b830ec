"""Embeddings of voxel positions and flow times (sinusoids, trellis.md 2.3 and 2.4) and of tokens (a table)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn


def position_embedding(coords: Tensor, channels: int) -> Tensor:
    """Sines and cosines of integer coordinates.

    Per axis all sines, then all cosines; axes follow each other; the rest is zero.

    Args:
        coords: [..., A] coordinates (raw integers, any numeric dtype).
        channels: C, size of the result's last axis.

    Returns:
        [..., C] float32.
    """
    axes = coords.shape[-1]
    count = channels // axes // 2
    angles = coords.float()[..., None] * _frequencies(count, coords.device)
    table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return nn.functional.pad(table, (0, channels - table.shape[-1]))


def site_embedding(coords: Tensor, channels: int, limit: int) -> Tensor:
    """`position_embedding` of integer coordinates [..., A] from 0 to below `limit`, out of a table for one axis."""
    axes = coords.shape[-1]
    table = _axis_table(1 << (limit - 1).bit_length(), channels // axes // 2 * 2, coords.device)
    rows = table[coords.long()].flatten(-2)
    return nn.functional.pad(rows, (0, channels - rows.shape[-1])) if rows.shape[-1] < channels else rows


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _axis_table(size: int, channels: int, device: torch.device) -> Tensor:
    """[size, channels], a row for every coordinate; of sizes that serve many assets."""
    return position_embedding(torch.arange(size, device=device)[:, None], channels)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(count: int, device: torch.device) -> Tensor:
    steps = torch.arange(count, dtype=torch.float32, device=device) / count
    return 1.0 / 10000**steps


def grid_position_embedding(resolution: int, channels: int, device: torch.device | None = None) -> Tensor:
    """[resolution^3, C] float32 table of all grid positions, x slowest and z fastest."""
    axis = torch.arange(resolution, device=device)
    coords = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return position_embedding(coords.reshape(-1, 3), channels)


def timestep_embedding(t: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines of times [B] (a network sees 1000 t); [B, channels] float32, zero-padded if odd."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * steps / half)
    table = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(table, (0, channels - table.shape[-1]))


class TimestepEmbedder(nn.Module):
    """Time [B] -> [B, hidden] through a sinusoid table and a two-layer perceptron."""

    def __init__(self, hidden_size: int, frequency_embedding_size: int = 256) -> None:
        super().__init__()
        self.frequency_embedding_size = frequency_embedding_size
        self.mlp = nn.Sequential(
            nn.Linear(frequency_embedding_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(timestep_embedding(t, self.frequency_embedding_size))


class TokenEmbedding(nn.Embedding):
    """Ids of any shape [...] -> their rows [..., channels], on the device of the ids.

    The table may stay in the host's memory (see `gap3d_app.memory`): 0.6 GB at full size, of which a prompt reads some
    hundred rows.
    """

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids.to(self.weight.device)).to(ids.device)
