"""Furniture."""

import numpy as np

from ..builder import Builder
from ..category import Category, Options
from ..shapes import cylinder, rod, torus


def stool(b: Builder, r: np.random.Generator, o: Options) -> None:
    legs, height = int(r.integers(3, 5)), r.uniform(0.8, 1.2)
    leg = 0.05 * o.thick
    b.stand(cylinder(0.4, 0.12), (0, 0, height), paint="primary")
    b.ring(rod((0.36, 0, 0), (0.26, 0, height + 0.02), leg), legs, start=45, paint="secondary")
    if o.has("footrest"):
        b.add(torus(0.31, leg * 0.8), (0, 0, height * 0.35), paint="metal")


CATEGORIES = {
    "stool": Category(stool, synonyms=("bar stool",), parts={"footrest": "a footrest ring"}, second="legs"),
}
