"""Outside flood fill on the lattice, so that enclosed space counts as material.

Replaces visibility tests from a thousand cameras: what a fill from outside cannot reach is interior.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


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


def fill_enclosed(solid: np.ndarray) -> np.ndarray:
    """`solid` with every enclosed cavity filled; [X, Y, Z] bool."""
    return ~outside_of(solid)
