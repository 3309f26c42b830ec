"""Where the viewer looks from, because its own choice of distance cuts tall models off."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from gap3d_app.geometry.facts import glb_bounds

ALPHA, BETA = 60, 75  # degrees: round the model, whose front is at 90, and down from straight above
FIELD_OF_VIEW = 0.8  # radians from top to bottom, of gr.Model3D's camera
ASPECT = 1.1  # width over height of the viewer where it is narrowest, on a phone
MARGIN = 1.06


def camera_position(glb: Path) -> tuple[float, float, float]:
    """gr.Model3D's alpha, beta (degrees) and distance (metres) for a file of this app."""
    return ALPHA, BETA, distance(*glb_bounds(glb))


def distance(low: list[float], high: list[float]) -> float:
    """From where a box [low, high], Y-up, is seen whole while it is turned round its upright axis.

    The camera looks at the middle of the box, as the viewer's does.
    """
    width, height, depth = (b - a for a, b in zip(low, high, strict=True))
    radius, beta, slope = math.hypot(width, depth) / 2, math.radians(BETA), math.tan(FIELD_OF_VIEW / 2)
    angle, up = np.meshgrid(np.linspace(0, 2 * np.pi, 49), [-height / 2, height / 2])
    ahead, aside = radius * np.cos(angle), radius * np.sin(angle)
    nearer = ahead * math.sin(beta) + up * math.cos(beta)
    above = up * math.sin(beta) - ahead * math.cos(beta)
    return MARGIN * float((nearer + np.maximum(np.abs(above), np.abs(aside) / ASPECT) / slope).max())
