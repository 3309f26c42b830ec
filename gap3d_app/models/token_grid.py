"""The token grid: one class vector, R register vectors and H x W patch vectors.

A grid exists in two layouts. As a `GridState` (three tensors) it is diffused; as one sequence
``[B, 1 + R + H*W, C]`` in the order class, registers, patches row by row it conditions the flow models
(spec gap3d.md 1 and 0.1).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GridState(NamedTuple):
    """Three parts of a token grid, or of its noise or velocity.

    patch: ``[B, C, H, W]``; cls: ``[B, C]``; reg: ``[B, R, C]``; one floating dtype, no unit
    (layer-normalised features, about unit variance per token).
    """

    patch: Tensor
    cls: Tensor
    reg: Tensor


def pack_grid(patch: Tensor, cls: Tensor, reg: Tensor) -> Tensor:
    """Parts to the sequence ``[B, 1 + R + H*W, C]``: class, registers, patches row by row."""
    return torch.cat([cls.unsqueeze(1), reg, patch.flatten(2).transpose(1, 2)], dim=1)


def unpack_grid(tokens: Tensor, height: int, width: int, registers: int = 4) -> GridState:
    """Sequence ``[B, 1 + R + H*W, C]`` to its parts; the inverse of `pack_grid`.

    Raises ValueError if the length does not fit the grid.
    """
    batch, length, channels = tokens.shape
    if length != 1 + registers + height * width:
        raise ValueError(f"{length} tokens are not 1 + {registers} + {height} x {width}")
    patch = tokens[:, 1 + registers :].transpose(1, 2).reshape(batch, channels, height, width)
    return GridState(patch, tokens[:, 0], tokens[:, 1 : 1 + registers])


def normalize_tokens(prenorm: Tensor) -> Tensor:
    """Layer norm over channels without weights, eps 1e-5: encoder stream to training target (spec 4.2)."""
    return F.layer_norm(prenorm, prenorm.shape[-1:], eps=1e-5)


def grid_canvas(state: GridState) -> tuple[Tensor, Tensor]:
    """One picture of a whole grid: class at (0, 0), registers at (0, 1..R), patches from (1, 1).

    Returns the canvas ``[B, C, H + 1, W + 1]`` (zero where nothing lies) and where something lies,
    ``[B, 1, H + 1, W + 1]`` bool. Used to show a grid; the networks never see it (spec 0.1).
    """
    batch, channels, height, width = state.patch.shape
    registers = state.reg.shape[1]
    if registers > width:
        raise ValueError(f"{registers} registers do not fit beside the class token above {width} columns")
    canvas = state.patch.new_zeros(batch, channels, height + 1, width + 1)
    canvas[:, :, 1:, 1:] = state.patch
    canvas[:, :, 0, 0] = state.cls
    canvas[:, :, 0, 1 : 1 + registers] = state.reg.transpose(1, 2)
    valid = torch.ones(batch, 1, height + 1, width + 1, dtype=torch.bool, device=canvas.device)
    valid[:, :, 0, 1 + registers :] = False
    valid[:, :, 1:, 0] = False
    return canvas, valid


def split_canvas(canvas: Tensor, registers: int = 4) -> GridState:
    """Canvas ``[B, C, H + 1, W + 1]`` back to its parts; the inverse of `grid_canvas`."""
    reg = canvas[:, :, 0, 1 : 1 + registers].transpose(1, 2)
    return GridState(canvas[:, :, 1:, 1:], canvas[:, :, 0, 0], reg)
