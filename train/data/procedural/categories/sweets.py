"""Sweets: ice cream, cake, donut, cupcake."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    Shape,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    lathe,
    outward,
    rod,
    sphere,
    torus,
    tube,
)


def _sprinkles(b: Builder, seed: int, count: int, place, size: float = 0.1) -> None:
    """Little bars in several colours; place(u, v) with u, v in 0..1 gives a surface point and its normal."""
    q = np.random.default_rng(seed)
    colors = ("red", "yellow", "blue", "green", "white", "pink")
    for i in range(count):
        at, normal = place((i + q.uniform(0.1, 0.9)) / count, q.uniform())
        side = np.cross(normal, q.normal(size=3))
        side *= size / 2 / (np.linalg.norm(side) + 1e-9)
        b.add(rod(at - side, at + side, 0.026, n=6), paint=colors[i % 6])


def ice_cream(b: Builder, r: np.random.Generator, o: Options) -> None:
    tall, wide, ball = r.uniform(0.65, 0.85), r.uniform(0.24, 0.29), r.uniform(0.29, 0.35)
    scoops, seed, turn = int(r.integers(1, 4)), int(r.integers(1 << 30)), r.uniform(0, 360)
    two = o.has("two flavours")
    if two:
        scoops = max(scoops, 2)
    if o.kind == "popsicle":
        x, z = ball * 1.05, tall * 1.25
        b.add(rod((0, 0, 0), (0, 0, 0.45), 0.06 * o.thick), scale=(1.2, 0.8, 1), paint="tan")
        t = np.linspace(0, np.pi, 11)
        outline = np.concatenate([[(-x, 0.3), (x, 0.3)], np.stack([x * np.cos(t), 0.3 + z - x + x * np.sin(t)], 1)])
        b.add(extrude(outline, 0.24 * o.thick))
        b.both(capsule(0.05, z * 0.65), (x * 0.42, -0.115 * o.thick, 0.3 + z * 0.48))
        if two:
            b.add(box(x * 2.04, 0.255 * o.thick, z * 0.3), (0, 0, 0.3 + z * 0.14), paint="cream")
        if o.has("wafer"):
            b.add(rod((x * 0.3, 0, 0.25 + z), (x * 0.75, 0, 0.55 + z), 0.055), paint="brown")
        if o.has("cherry"):
            b.add(sphere(0.1, 12), (-x * 0.2, 0, 0.34 + z), paint="red")
        centre, spread = np.array([0, -0.125 * o.thick, 0.3 + z * 0.5]), (x * 0.75, z * 0.36)

        def place(u, v):
            return centre + ((v * 2 - 1) * spread[0], 0, (u * 2 - 1) * spread[1]), np.array([0, -1.0, 0])
    else:
        if o.kind == "cup":
            tall = tall * 0.62
            b.add(lathe([(wide * 0.78, 0), (wide * 1.28, tall), (wide * 1.1, tall), (0, tall - 0.05)], 20))
            start = tall + ball * 0.2
        else:
            b.add(lathe([(0, 0), (0.05, 0.01), (wide, tall), (0, tall + 0.02)], 18), paint="tan")
            for i in range(6):
                for s in (-1, 1):
                    k = np.linspace(0.28, 0.97, 6)
                    a = np.radians(turn + 60 * i + s * 75 * (k - 0.28))
                    b.add(tube(np.stack([wide * k * np.cos(a), wide * k * np.sin(a), tall * k], 1), 0.021, 5),
                          paint="brown")
            b.add(lathe([(wide * 0.95, tall - 0.09), (wide * 1.12, tall - 0.05), (wide * 1.12, tall + 0.02),
                         (0, tall + 0.03)],
                        18), paint="tan")
            start = tall + ball * 0.55
        z = start
        if o.kind == "soft serve":
            for k in range(4):
                s = ball * (1.08 - 0.24 * k)
                b.add(torus(s * 0.62, s * 0.5, n=20, m=10), (0.02 * (k % 2), 0, start - ball * 0.25 + 0.2 * k),
                      (8, 4, 0), paint="cream" if two and k % 2 == 1 else "primary")
                b.add(cylinder(s * 0.6, 0.22), (0, 0, start - ball * 0.25 + 0.2 * k))
            b.add(cone(ball * 0.4, 0.32, 14), (0, 0, start + 0.68))
            z, last, top = start, ball * 0.9, start + 0.8
        else:
            last = ball
            for k in range(scoops):
                last = ball * (1 - 0.1 * k)
                paint = "cream" if two and k % 2 == 1 else "primary"
                b.add(ellipsoid(last, last, last * 0.95), (0, 0, z), paint=paint)
                b.add(torus(last * 0.86, last * 0.19, n=18, m=8), (0, 0, z - last * 0.42), paint=paint)
                top = z + last * 0.95
                z += last * 1.22
            z -= last * 1.22
        if o.has("cherry"):
            b.add(sphere(0.1, 12), (0, 0, top + 0.05), paint="red")
            b.add(tube([(0, 0, top + 0.1), (0.03, 0, top + 0.22), (0.1, 0, top + 0.3)], 0.025, 6), paint="dark green")
        if o.has("wafer"):
            b.add(rod((0.08, 0.02, z), (0.36, 0.08, top + 0.26), 0.055), paint="brown")
        centre = np.array([0, 0, z])

        def place(u, v):
            a, e = 2 * np.pi * u * 2.6, 0.15 + 1.1 * v
            n = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
            return centre + n * last * 0.985, n
    if o.has("sprinkles"):
        _sprinkles(b, seed, 18, place)


def _edge_of_slice(wedge: np.ndarray, k: float, z: float) -> tuple[float, float, float]:
    """A point on the rounded rear edge of a slice."""
    p = wedge[1:]
    t = np.linspace(0, 1, len(p))
    return float(np.interp(k, t, p[:, 0])), float(np.interp(k, t, p[:, 1])), z


def cake(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, tall, tiers = r.uniform(0.46, 0.56), r.uniform(0.3, 0.44), int(r.integers(2, 4))
    candles, drips, seed = int(r.integers(3, 7)), int(r.integers(9, 13)), int(r.integers(1 << 30))
    drop = np.random.default_rng(seed).uniform(0.3, 0.65, 13)
    b.add(cylinder(wide * (1.0 if o.kind == "slice" else 1.04), 0.05, 26), (0, 0, 0.025), paint="light")
    z, rad = 0.04, wide
    if o.kind == "slice":
        a = np.radians(np.linspace(-118, -62, 8))
        wedge = np.concatenate([[(0, 0.45)], np.stack([1.0 * np.cos(a), 0.45 + 1.0 * np.sin(a)], 1)])
        for k in range(2):
            b.add(extrude(wedge, tall * 0.52, axis="z"), (0, 0, z + tall * 0.28 + k * tall * 0.62), paint="primary")
            b.add(extrude(wedge * 0.985 + (0, 0.004), tall * 0.16, axis="z"), (0, 0, z + tall * 0.58), paint="cream")
        z += tall * 1.16
        b.add(extrude(wedge * 1.02, 0.07, axis="z"), (0, 0, z), paint="primary")
        if o.has("icing drips"):
            for k in np.linspace(0.1, 0.9, 6):
                b.add(capsule(0.05, tall * 0.4, 8), _edge_of_slice(wedge, k, z - tall * 0.12), paint="cream")
        if o.has("cream dots"):
            for x, y in wedge[1:] * 0.88:
                b.add(sphere(0.06, 10), (x, y, z + 0.05), paint="white")
        if o.has("cherries"):
            b.add(sphere(0.1, 12), (0, -0.3, z + 0.09), paint="red")
        if o.has("candles"):
            b.add(cylinder(0.04, 0.28, 10), (0, -0.1, z + 0.13), paint="accent")
            b.add(ellipsoid(0.045, 0.045, 0.08, n=10), (0, -0.1, z + 0.32), paint="flame")
        return
    levels = tiers if o.kind == "tiered" else 1
    for k in range(levels):
        h = tall * (1 - 0.12 * k) * (1.25 if levels == 1 else 1)
        b.add(lathe([(rad, z), (rad, z + h - 0.04), (rad * 0.96, z + h), (0, z + h)], 26))
        if not o.has("icing drips"):
            b.add(torus(rad * 0.99, 0.034, n=26, m=6), (0, 0, z + h * 0.45), paint="cream")
        if o.has("icing drips"):
            b.add(torus(rad * 0.98, 0.036, n=26, m=8), (0, 0, z + h - 0.01), paint="cream")
            for i in range(drips):
                a = 2 * np.pi * i / drips
                d = h * drop[i] * 0.6
                b.add(capsule(0.042, d, 8), (rad * np.cos(a), rad * np.sin(a), z + h - d / 2 + 0.02), paint="cream")
        if o.has("cream dots"):
            b.ring(sphere(0.06, 10), 14 - 3 * k, at=(rad * 1.0, 0, z + 0.04), paint="white")
        z, rad = z + h, rad * 0.68
    rad = rad / 0.68
    top = z + 0.03
    if o.has("cherries"):
        b.ring(sphere(0.075, 10), 8 if rad > 0.4 else 5, at=(rad * 0.8, 0, top + 0.04), paint="red")
    if o.has("candles"):
        ring = Builder()
        ring.add(cylinder(0.036, 0.26, 10), (0, 0, 0.1), paint="accent")
        ring.add(ellipsoid(0.042, 0.042, 0.08, n=10), (0, 0, 0.28), paint="flame")
        for i in range(candles):
            a = 2 * np.pi * i / candles
            b.group(ring, (rad * 0.5 * np.cos(a), rad * 0.5 * np.sin(a), top))


def donut(b: Builder, r: np.random.Generator, o: Options) -> None:
    ring, tubing, seed = r.uniform(0.3, 0.36), r.uniform(0.15, 0.2) * o.thick, int(r.integers(1 << 30))
    waves, drip = int(r.integers(6, 10)), r.uniform(0.1, 0.28)
    d = Builder()
    d.add(torus(ring, tubing, n=30, m=14), scale=(1, 1, 0.88), paint="tan")
    a = 2 * np.pi * np.arange(36) / 36
    rows = []
    for i, e in enumerate(np.linspace(-0.2, np.pi + 0.2, 9)):  # icing: the upper part of a thicker ring
        edge = drip * np.sin(waves * a + (0 if i < 4 else 1)) * (abs(i - 4) / 4) ** 3
        q = e + np.where(i < 4, edge, -edge)
        rows.append((ring + tubing * 1.1 * np.cos(q), tubing * 0.97 * np.sin(q)))
    rows = [(rr, zz) for rr, zz in rows] + [(np.full(36, ring), np.full(36, -0.02))]
    v = np.stack([np.stack([rr * np.cos(a), rr * np.sin(a), zz], 1) for rr, zz in rows])
    d.add(_closed_ring(v))
    if o.has("sprinkles"):
        def place(u, w):
            t, e = 2 * np.pi * u, 0.45 + 2.2 * w
            n = np.array([np.cos(e) * np.cos(t), np.cos(e) * np.sin(t), np.sin(e)])
            return np.array([ring * np.cos(t), ring * np.sin(t), 0]) + n * tubing * (1.1, 1.1, 0.99), n
        _sprinkles(d, seed, 30, place, 0.09)
    if o.has("stripes"):
        for k in range(5):
            t = np.radians(72 * k + np.linspace(0, 30, 8))
            e = np.linspace(0.15, 2.9, 8)
            rad = ring + tubing * 1.12 * np.cos(e)
            d.add(tube(np.stack([rad * np.cos(t), rad * np.sin(t), tubing * 1.0 * np.sin(e)], 1), 0.028, 6),
                  paint="white")
    if o.kind == "upright":
        b.group(d, (0, 0, ring + tubing), (78, 0, 0))
    elif o.kind == "stack":
        b.group(d, (0, 0, tubing * 0.88))
        b.group(d, (0.05, 0.02, tubing * 2.55), (0, 4, 70))
    else:
        b.group(d, (0, 0, tubing * 0.88))


def _closed_ring(v: np.ndarray) -> Shape:
    """A closed band of sections around the z axis; v [S, N, 3]: section point, position around."""
    s, n, _ = v.shape
    i, j = np.meshgrid(np.arange(s), np.arange(n), indexing="ij")
    a, c = i * n + j, ((i + 1) % s) * n + j
    d, e = i * n + (j + 1) % n, ((i + 1) % s) * n + (j + 1) % n
    faces = np.concatenate([np.stack([a, c, e], -1).reshape(-1, 3), np.stack([a, e, d], -1).reshape(-1, 3)])
    return outward(Shape(v.reshape(-1, 3), faces))


def cupcake(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, tall, swirl = r.uniform(0.3, 0.36), r.uniform(0.34, 0.44), int(r.integers(3, 5))
    seed, height = int(r.integers(1 << 30)), r.uniform(0.17, 0.22)
    cup = lathe([(wide * 0.78, 0), (wide * 1.08, tall), (0, tall)], 32)
    v = cup.vertices.copy()
    v[:64, :2] *= np.where(np.arange(64) % 2 == 0, 1.0, 0.92)[:, None]
    b.add(Shape(v, cup.faces), paint="secondary")
    z = tall
    for k in range(swirl):
        s = wide * (1.28 - 0.95 * k / swirl)
        b.add(lathe([(s * 0.8, -0.02), (s, height * 0.45), (s * 0.72, height * 1.1), (0, height * 1.15)], 20),
              (0.015 * (-1) ** k, 0, z),
              (4 * (-1) ** k, 5, 0))
        z += height * 0.88
    b.add(cone(wide * 0.36, height * 1.1, 14), (0, 0, z + height * 0.4))
    if o.has("cherry"):
        b.add(sphere(0.1, 12), (0, 0, z + height * 0.85), paint="red")
    if o.has("candle"):
        b.add(cylinder(0.038, 0.36, 10), (0, 0, z + height * 1.1), paint="accent")
        b.add(ellipsoid(0.045, 0.045, 0.085, n=10), (0, 0, z + height * 1.1 + 0.24), paint="flame")
    if o.has("sprinkles"):
        def place(u, w):
            t = 2 * np.pi * u * 2.6
            rad = wide * (1.24 - 0.8 * w)
            return (np.array([rad * np.cos(t), rad * np.sin(t), tall + height * (0.5 + w * (swirl - 1) * 0.9)]),
                    np.array([np.cos(t), np.sin(t), 0.6]))
        _sprinkles(b, seed, 22, place)


_SIZES = ("tall", "wide", "chunky", "tiny", "slender")

CATEGORIES = {
    "ice cream": Category(
        ice_cream, kinds={"scoops": ("ice cream cone", "scoop ice cream"), "soft serve": ("soft serve ice cream",),
                          "cup": ("ice cream cup", "ice cream sundae"), "popsicle": ("popsicle", "ice lolly")},
        parts={"cherry": "a cherry", "sprinkles": "sprinkles", "wafer": "a wafer stick",
               "two flavours": "two flavours"},
        sizes=_SIZES, styles=("cartoon", "crooked"), colors={"pink": 4, "white": 2, "brown": 2, "mint": 2, "cream": 1},
        finishes={"painted": 3, "glossy": 2}),
    "cake": Category(
        cake, kinds={"round": ("birthday cake", "round cake"), "tiered": ("tiered cake", "wedding cake"),
                     "slice": ("slice of cake", "cake slice")},
        parts={"candles": "candles", "icing drips": "icing drips", "cherries": "cherries", "cream dots": "cream dots"},
        sizes=_SIZES, styles=("cartoon", "crooked"), colors={"pink": 4, "brown": 3, "white": 2, "mint": 1},
        finishes={"painted": 4, "glossy": 1, "striped": 1, "dotted": 1}),
    "donut": Category(
        donut, synonyms=("doughnut", "iced donut"), kinds={"flat": (), "upright": (), "stack": ("stack of donuts",)},
        parts={"sprinkles": "sprinkles", "stripes": "white icing stripes"},
        sizes=("tall", "wide", "chunky"), styles=("cartoon",), colors={"pink": 5, "brown": 3, "white": 1, "mint": 1},
        finishes={"glossy": 4, "painted": 2}),
    "cupcake": Category(
        cupcake, synonyms=("muffin with frosting",),
        parts={"cherry": "a cherry", "candle": "a candle", "sprinkles": "sprinkles"},
        sizes=_SIZES, styles=("cartoon", "crooked"), colors={"pink": 4, "white": 2, "brown": 2, "mint": 1,
                                                             "lavender": 1},
        finishes={"painted": 3, "glossy": 2}, second="wrapper"),
}
