"""Outside flood fills on the lattice, so that enclosed space counts as material.

Replaces visibility tests from a thousand cameras: what a fill from outside cannot reach is interior. A single lattice
vertex with the wrong sign would let it in, and the inner side of the whole shell would come out as surface; so space
that no cube touches is judged by the cubes alone, whose shell has no such holes.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import pad

from gap3d_app.kernels import kernel_module


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


def sealed_off(touched: Tensor) -> Tensor:
    """Untouched lattice vertices that a walk over untouched ones does not reach from outside.

    The walk sees every second vertex: cubes come in blocks of two or more, and openings narrower than that are none.

    Args:
        touched: [X, Y, Z] bool, vertices that belong to a cube; sizes are even, and cubes' blocks begin at even ones.

    Returns:
        [X, Y, Z] bool.
    """
    seen = touched[::2, ::2, ::2]
    sealed = fill_enclosed(seen) & ~seen
    for axis in range(3):  # a vertex between two seen ones takes after both
        few = sealed.movedim(axis, 0)
        between = few.clone()
        between[:-1] |= few[1:]
        sealed = torch.stack([few, between], dim=1).flatten(0, 1).movedim(0, axis)
    return sealed & ~touched


def fill_enclosed(solid: Tensor) -> Tensor:
    """`solid` with every enclosed cavity filled; [X, Y, Z] bool on any device."""
    if solid.device.type == "cpu":
        return ~torch.from_numpy(outside_of(solid.numpy()))
    kernel = kernel_module("gap3d_app.geometry.triton_flood")
    return ~(kernel.outside if kernel and kernel.applies(solid) else outside_by_runs)(solid)
