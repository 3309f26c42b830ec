"""Outside flood fill on the lattice, so that enclosed space counts as material.

Replaces visibility tests from a thousand cameras: what a fill from outside cannot reach is interior.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import pad


def outside_of(solid: np.ndarray) -> np.ndarray:
    """Cells that a walk over face neighbours reaches from beyond the volume.

    Args:
        solid: [X, Y, Z] bool, True where the walk may not go.

    Returns:
        [X, Y, Z] bool, True where empty and connected to the surroundings.
    """
    padded = np.pad(~solid, 1, constant_values=True)
    labels, _ = ndimage.label(padded)
    return (labels == labels[0, 0, 0])[1:-1, 1:-1, 1:-1]


def outside_by_runs(solid: Tensor) -> Tensor:
    """`outside_of` on a tensor, on its device: whole runs of empty cells are reached at once, axis after axis.

    A handful of rounds is enough for the shapes of assets; a maze takes as many as it has bends.
    """
    free = pad(~solid, (1,) * 6, value=True)
    outside = torch.zeros_like(free)
    outside[0] = True
    runs = [_runs(free, axis) for axis in range(3)]
    reached, before = int(outside.sum()), 0
    while reached > before:
        for run in runs:
            seen = torch.zeros(free.numel() + 1, dtype=torch.bool, device=free.device)
            seen[run[outside]] = True
            outside = seen[run] & free
        reached, before = int(outside.sum()), reached
    return outside[1:-1, 1:-1, 1:-1]


def _runs(free: Tensor, axis: int) -> Tensor:
    """[X, Y, Z] int32 number of the run of free cells along `axis` that a cell is in; solid cells start anew."""
    lines = free.movedim(axis, 2)
    # The first cell of a line is padding, hence free, and starts a run as every solid cell does.
    starts = ~lines
    starts[..., 0] = True
    number = starts.reshape(-1).cumsum(0, dtype=torch.int32).view(lines.shape)
    return number.movedim(2, axis).contiguous()


def fill_enclosed(solid: Tensor) -> Tensor:
    """`solid` with every enclosed cavity filled; [X, Y, Z] bool on any device."""
    if solid.device.type == "cpu":
        return ~torch.from_numpy(outside_of(solid.numpy()))
    return ~outside_by_runs(solid)
