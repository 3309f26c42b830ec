"""Collects painted parts of one object.

Space: Z up, FRONT FACES -Y, left and right along x, base at z=0, any units (the finished object is scaled so
that its longest side is 0.96 and centred). Parts are closed solids that overlap a little, so that their union
is connected; nothing is thinner than about 1/40 of the object.

Paints: "primary" (the asset's main colour and finish; must be most of what is seen), "secondary", "accent",
"dark", "metal", "glass", "light", "wood", "rubber", "skin", "glow", or any colour name of look.COLORS.

A category, complete:

    def stool(b: Builder, r: np.random.Generator, o: Options) -> None:
        legs, height = int(r.integers(3, 5)), r.uniform(0.8, 1.2)      # draw first, branch later
        leg = 0.05 * o.thick
        b.stand(cylinder(0.4, 0.12), (0, 0, height), paint="primary")  # z is the part's lowest point
        foot = rod((0.36, 0, 0), (0.26, 0, height + 0.02), leg)
        b.ring(foot, legs, start=45, paint="secondary")                # copies around the z axis
        if o.has("footrest"):
            b.add(torus(0.31, leg * 0.8), (0, 0, height * 0.35), paint="metal")

    CATEGORIES = {"stool": Category(stool, synonyms=("bar stool",), parts={"footrest": "a footrest ring"},
                                    sizes=("tall", "wide", "chunky"), second="legs")}
"""

from dataclasses import dataclass, field

import numpy as np

from train.data.procedural.shapes import Shape


def rotation(x: float = 0, y: float = 0, z: float = 0) -> np.ndarray:
    """Matrix [3, 3] for column vectors: degrees about x, then y, then z (fixed axes)."""
    cx, cy, cz = np.cos(np.radians((x, y, z)))
    sx, sy, sz = np.sin(np.radians((x, y, z)))
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


@dataclass
class Builder:
    """Parts in order: (vertices [V, 3], faces [F, 3], paint)."""

    parts: list[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)

    def add(self, shape: Shape, at=(0, 0, 0), rotate=(0, 0, 0), scale=1.0, paint: str = "primary") -> None:
        """Scale, then rotate (degrees about x, y, z), then move the shape's origin to `at`."""
        v, f = shape
        scale = np.asarray(scale, dtype=np.float64)
        v = v * scale
        if scale.size == 3 and np.prod(scale) < 0 or scale.size == 1 and scale < 0:
            f = f[:, ::-1]
        if any(rotate):
            v = v @ rotation(*rotate).T
        self.parts.append((v + np.asarray(at, dtype=np.float64), f, paint))

    def stand(self, shape: Shape, at=(0, 0, 0), rotate=(0, 0, 0), scale=1.0, paint: str = "primary") -> None:
        """As `add`, but at[2] is where the lowest point of the turned shape comes to stand."""
        self.add(shape, (at[0], at[1], 0), rotate, scale, paint)
        v, f, p = self.parts[-1]
        self.parts[-1] = (v + (0, 0, at[2] - v[:, 2].min()), f, p)

    def both(self, shape: Shape, at=(0, 0, 0), rotate=(0, 0, 0), scale=1.0, paint: str = "primary") -> None:
        """The part and its mirror image across x=0."""
        self.add(shape, at, rotate, scale, paint)
        v, f, p = self.parts[-1]
        self.parts.append((v * (-1, 1, 1), f[:, ::-1], p))

    def four(self, shape: Shape, at=(0, 0, 0), rotate=(0, 0, 0), scale=1.0, paint: str = "primary") -> None:
        """The part and its mirror images across x=0, y=0 and both."""
        self.both(shape, at, rotate, scale, paint)
        for v, f, p in self.parts[-2:]:
            self.parts.append((v * (1, -1, 1), f[:, ::-1], p))

    def ring(self, shape: Shape, count: int, at=(0, 0, 0), rotate=(0, 0, 0), scale=1.0,
             paint: str = "primary", start: float = 0.0, arc: float = 360.0) -> None:
        """`count` copies of the part (placed as by `add`) turned about the z axis over `arc` degrees."""
        self.add(shape, at, rotate, scale, paint)
        v, f, p = self.parts.pop()
        for i in range(count):
            angle = start + arc * i / (count if arc >= 360 else max(count - 1, 1))
            self.parts.append((v @ rotation(z=angle).T, f, p))

    def row(self, shape: Shape, count: int, first, last, rotate=(0, 0, 0), scale=1.0,
            paint: str = "primary") -> None:
        """`count` copies at even steps from `first` to `last`."""
        for t in np.linspace(0, 1, count):
            at = (1 - t) * np.asarray(first, float) + t * np.asarray(last, float)
            self.add(shape, at, rotate, scale, paint)

    def group(self, other: "Builder", at=(0, 0, 0), rotate=(0, 0, 0), scale=1.0) -> None:
        """All parts of another builder, scaled, turned and moved together."""
        for v, f, p in other.parts:
            self.add(Shape(v, f), at, rotate, scale, p)

    def top(self) -> float:
        """The highest z so far."""
        return max(float(v[:, 2].max()) for v, _, _ in self.parts)
