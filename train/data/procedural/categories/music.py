"""Instruments: guitar, drum, bell, trumpet."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    box,
    cone,
    cylinder,
    extrude,
    frustum,
    lathe,
    rod,
    rounded_box,
    smooth_path,
    sphere,
    torus,
    tube,
)


def _closed_curve(half, n: int = 20) -> np.ndarray:
    """A smooth outline [2n-2, 2], symmetric about x=0, through points with x >= 0 from bottom to top."""
    p = smooth_path([(x, 0, z) for x, z in half], n)[:, [0, 2]]
    p[:, 0] = np.maximum(p[:, 0], 0)
    p[0, 0] = p[-1, 0] = 0
    return np.concatenate([p, p[-2:0:-1] * (-1, 1)])


def guitar(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, tall, waist = r.uniform(0.37, 0.44), r.uniform(0.78, 0.93), r.uniform(0.6, 0.74)
    neck, head, depth = r.uniform(0.56, 0.7), r.uniform(0.19, 0.24), r.uniform(0.15, 0.2) * o.thick
    upper, horn, frets = r.uniform(0.7, 0.85), r.uniform(0.1, 0.22), int(r.integers(4, 7))
    electric = o.kind in ("electric", "flying v")
    if electric:
        depth *= 0.62
    if o.kind == "flying v":
        body = np.array([(0, tall * 0.28), (wide * 0.72, 0), (wide * 1.25, 0.1), (wide * 0.28, tall * 0.92),
                         (0, tall * 0.95),
                         (-wide * 0.28, tall * 0.92), (-wide * 1.25, 0.1), (-wide * 0.72, 0)])
    elif o.kind == "electric":
        right = [(0, 0), (wide * 0.75, 0.05), (wide, tall * 0.28), (wide * waist, tall * 0.55),
                 (wide * 0.82, tall * 0.78),
                 (wide * 0.66, tall * 0.86 + horn), (wide * 0.36, tall * 0.76), (0.06, tall * 0.8)]
        left = [(-0.06, tall * 0.78), (-wide * 0.4, tall * 0.78), (-wide * 0.75, tall * 0.95 + horn),
                (-wide * 0.9, tall * 0.75), (-wide * waist, tall * 0.5), (-wide, tall * 0.25), (-wide * 0.75,
                    0.03), (0, 0)]
        body = smooth_path([(x, 0, z) for x, z in right + left], 44)[:-1, [0, 2]]
    else:
        body = _closed_curve([(0, 0), (wide * 0.62, 0.03), (wide, tall * 0.26), (wide * waist, tall * 0.58),
                              (wide * upper, tall * 0.8), (wide * 0.45, tall * 0.98), (0, tall)])
    b.add(extrude(body, depth), (0, 0, 0))
    front = -depth / 2
    end = tall + neck
    b.add(box(0.09 * o.thick, 0.075, neck + 0.42 * tall), (0, front, end - (neck + 0.42 * tall) / 2), paint="brown")
    for i in range(frets):
        b.add(box(0.095 * o.thick, 0.03, 0.022), (0, front - 0.04, tall + neck * (i + 0.7) / (frets + 0.5)),
              paint="metal")
    peg = box(0.17, 0.085, head, 0.02) if not electric else extrude(
        [(-0.07, 0), (0.07, 0), (0.11, head * 0.3), (0.04, head * 1.15), (-0.11, head * 0.9)], 0.085)
    b.add(peg, (0, front + 0.01, end + (0 if electric else head * 0.45)), paint="primary" if electric else "brown")
    for k in (0.2, 0.5, 0.8):
        for side in (-1, 1):
            b.add(cylinder(0.028, 0.07, 8), (side * 0.11, front, end + head * k), (0, 90, 0), paint="metal")
    if electric:
        for k in (0.42, 0.6):
            b.add(box(0.19, 0.05, 0.07), (0, front - 0.01, tall * k), paint="dark")
        b.add(box(0.2, 0.06, 0.05), (0, front - 0.015, tall * 0.26), paint="metal")
        if o.has("pickguard"):
            b.add(box(0.24, 0.03, tall * 0.42, 0.01), (0.12, front - 0.004, tall * 0.44), (0, 10, 0), paint="white")
        for k in (0, 1):
            b.add(cylinder(0.03, 0.06, 8), (wide * 0.45, front - 0.02, tall * (0.2 + 0.1 * k)), (90, 0, 0),
                  paint="metal")
    else:
        b.add(cylinder(0.115, 0.03, 20), (0, front, tall * 0.6), (90, 0, 0), paint="dark")
        b.add(torus(0.125, 0.022, n=22, m=6), (0, front - 0.005, tall * 0.6), (90, 0, 0), paint="light")
        b.add(box(0.27, 0.06, 0.055), (0, front - 0.015, tall * 0.24), paint="brown")
        if o.has("pickguard"):
            b.add(cylinder(0.1, 0.03, 14), (0.15, front - 0.002, tall * 0.46), (90, 0, 0), paint="dark")
    b.add(box(0.06, 0.026, end - tall * 0.24), (0, front - 0.045, (end + tall * 0.24) / 2), paint="light")
    if o.has("strap"):
        way = smooth_path([(0, depth * 0.3, 0.02), (wide * 1.25, depth * 0.7, tall * 0.45),
                           (wide * 0.7, depth * 0.7, tall * 1.2),
                           (0.03, depth * 0.3, end - 0.05)], 14)
        b.add(tube(way, 0.045, 8, flat=0.7), paint="accent")


def _lace(b: Builder, kind: str, radius: float, height: float, hoop: float, swell: float, zig: int) -> None:
    """A zigzag of cords around the shell between two heights."""
    spans = {"bongo": ((-0.32, radius * 0.8, radius * 0.96), (0.32, radius * 0.98, radius * 1.17)),
             "djembe": ((0.0, radius * 0.52, radius * 0.98),)}
    low_z, high_z = {"bongo": (height * 0.2, height * 0.72), "djembe": (height * 0.49, height * 0.82)}.get(
        kind, (hoop * 2, height - hoop * 2))
    side = radius * 1.03 * (2 - swell) ** 0.5
    for x, low, high in spans.get(kind, ((0.0, side, side),)):
        a = np.pi * np.arange(2 * zig) / zig
        even = np.arange(2 * zig) % 2 == 0
        rad = np.where(even, low, high) * (1.02 if kind in spans else 1)
        p = np.stack([x + rad * np.cos(a), rad * np.sin(a), np.where(even, low_z, high_z)], 1)
        for i in range(2 * zig):
            b.add(rod(p[i], p[(i + 1) % (2 * zig)], 0.021, n=6), paint="white")


def drum(b: Builder, r: np.random.Generator, o: Options) -> None:
    radius, height, hoop = r.uniform(0.36, 0.42), r.uniform(0.72, 1.0), r.uniform(0.024, 0.03) * o.thick
    zig, swell, sticks = int(r.integers(4, 7)), r.uniform(0.85, 1.0), r.uniform(12, 40)
    if o.kind == "bongo":
        radius, height = 0.26, 0.85
        for k, s in ((-1, 1.0), (1, 1.22)):
            x = k * 0.32
            b.add(lathe([(radius * s * 0.72, 0.0), (radius * s * 0.95, height * 0.7), (radius * s, height)], 20),
                  (x, 0, 0))
            b.add(cylinder(radius * s * 0.97, 0.04), (x, 0, height + 0.01), paint="light")
            b.add(torus(radius * s, hoop, n=22, m=8), (x, 0, height - 0.03), paint="secondary")
        b.add(box(0.3, 0.16, 0.14), (-0.03, 0, height * 0.55))
        top = height
    elif o.kind == "djembe":
        height = 0.95
        b.add(lathe([(radius * 0.72, 0), (radius * 0.42, height * 0.36), (radius * 0.5, height * 0.48),
                     (radius * 0.98, height * 0.8), (radius, height)], 22))
        b.add(torus(radius, hoop, n=22, m=8), (0, 0, height - 0.04), paint="secondary")
        b.add(torus(radius * 0.46, hoop, n=20, m=8), (0, 0, height * 0.43))
        b.add(cylinder(radius * 0.97, 0.04), (0, 0, height + 0.01), paint="light")
        top = height
    else:
        b.add(lathe([(radius, 0), (radius * (2 - swell), height / 2), (radius, height)], 26))
        for z in (hoop, height - hoop):
            b.add(torus(radius * 1.02, hoop * 1.15, n=26, m=8), (0, 0, z), paint="secondary")
        b.add(cylinder(radius * 0.96, 0.04, 24), (0, 0, height + 0.01), paint="light")
        top = height
    if o.has("cords"):
        _lace(b, o.kind, radius, height, hoop, swell, zig)
    if o.has("drumsticks"):
        for k, turn in ((0.0, sticks), (0.06, -sticks)):
            d = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn)), 0])
            b.add(rod((0, -0.05, top + 0.06 + k) - d * 0.42, (0, -0.05, top + 0.06 + k) + d * 0.42, 0.034),
                  paint="wood")
            b.add(sphere(0.06, 10), (0, -0.05, top + 0.06 + k) + d * 0.44, paint="wood")
    if o.has("legs"):
        b.parts[:] = [(v + (0, 0, 0.3), f, p) for v, f, p in b.parts]
        reach = radius * (1.4 if o.kind == "bongo" else 0.85)
        b.ring(rod((reach * 1.12, 0, 0), (reach * 0.75, 0, 0.36), 0.04 * o.thick), 3, start=30, paint="metal")
        b.add(cylinder(reach * 0.85, 0.06), (0, 0, 0.3))
    if o.has("star"):
        t = np.radians(90 + 36 * np.arange(10))
        q = np.where(np.arange(10) % 2 == 0, 0.14, 0.06)
        z = 0.3 * o.has("legs") + height * 0.5
        y = -radius * {"bongo": 0.95, "djembe": 0.62}.get(o.kind, 2 - swell)
        b.add(extrude(np.stack([q * np.cos(t), q * np.sin(t)], 1), 0.08), (0.32 * (o.kind == "bongo"), y, z),
              paint="accent")


def bell(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, tall, flare = r.uniform(0.4, 0.48), r.uniform(0.6, 0.78), r.uniform(0.5, 0.62)
    clap = r.uniform(0.1, 0.13)
    z = 0.1
    b.add(lathe([(wide * 0.85, z), (wide, z), (wide * 0.92, z + 0.07), (wide * flare * 1.12, z + tall * 0.35),
                 (wide * flare, z + tall * 0.7), (wide * flare * 0.8, z + tall * 0.92), (0, z + tall)], 24))
    b.add(torus(wide * 0.97, 0.04 * o.thick, n=24, m=8), (0, 0, z + 0.03))
    b.add(sphere(clap, 12), (0, 0, z - 0.01), paint="dark")
    b.add(rod((0, 0, 0.06), (0, 0, z + tall * 0.5), 0.05), paint="dark")
    if o.kind == "hand":
        b.add(lathe([(0.06, z + tall - 0.03), (0.085, z + tall + 0.12), (0.06, z + tall + 0.36), (0.1, z + tall + 0.45),
                     (0, z + tall + 0.52)], 14), scale=(o.thick, o.thick, 1), paint="wood")
    else:
        b.add(torus(0.11, 0.045 * o.thick, n=20, m=8), (0, 0, z + tall + 0.08), (90, 0, 0))
    if o.has("bow"):
        b.both(frustum(0.05, 0.15, 0.26, 8), (0.14, -wide * flare * 0.55, z + tall * 0.9), (0, 90, 0), paint="accent")
        b.add(sphere(0.075, 8), (0, -wide * flare * 0.55, z + tall * 0.9), paint="accent")
    if o.has("band"):
        b.add(torus(wide * flare * 1.06, 0.04, n=22, m=8), (0, 0, z + tall * 0.48), paint="accent")


def trumpet(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, horn, pipe = r.uniform(0.6, 0.72), r.uniform(0.24, 0.3), r.uniform(0.038, 0.048) * o.thick
    loop, valves = r.uniform(0.11, 0.15), r.uniform(0.26, 0.34)
    z = loop * 2 + 0.16
    t = np.linspace(0, 1, 9)
    b.add(lathe([(pipe, 0), *zip(pipe + (horn - pipe) * t**3, length * 0.85 * t, strict=True),
                 (horn * 0.8, length * 0.85),
                 (pipe, length * 0.55)], 20), (0, -length * 0.05, z), (90, 0, 0))
    way = smooth_path([(0, -0.1, z), (0, length * 0.55, z), (0, length * 0.66, z - loop),
                       (0, length * 0.55, z - 2 * loop),
                       (0, -length * 0.3, z - 2 * loop), (0, -length * 0.4, z - loop), (0, -length * 0.28,
                                                                                        z - 0.02)], 26)
    b.add(tube(way, pipe, 10))
    b.add(rod((0, length * 0.4, z - 0.0), (0, length * 0.95, z), pipe))
    b.add(lathe([(0.045, -0.05), (0.075, 0.05), (0.05, 0.06), (0, 0.03)], 12), (0, length * 0.97, z), (-90, 0, 0),
          paint="metal")
    for k in (-1, 0, 1):
        y = 0.05 + 0.115 * k
        b.add(cylinder(0.052 * o.thick, valves, 12), (0, y, z - loop))
        b.add(rod((0, y, z - loop), (0, y, z - loop + valves * 0.5 + 0.09), 0.028), paint="metal")
        b.add(cylinder(0.045, 0.035, 12), (0, y, z - loop + valves * 0.5 + 0.1), paint="light")
    if o.has("banner"):
        b.add(rounded_box(0.05, length * 0.62, 0.32, 0.015), (0, -length * 0.12, z - 2 * loop - 0.14),
              paint="secondary")
    if o.has("stand"):
        b.add(cone(0.3, 0.2, 16), (0, 0.05, -0.16), paint="dark")
        b.add(rod((0, 0.05, -0.16), (0, 0.05, z - loop), 0.04), paint="dark")


_SIZES = ("tall", "wide", "chunky", "slender")

CATEGORIES = {
    "guitar": Category(
        guitar, kinds={"acoustic": ("acoustic guitar",), "electric": ("electric guitar",),
                       "flying v": ("flying V guitar", "V-shaped electric guitar")},
        parts={"pickguard": "a pickguard", "strap": "a strap"}, sizes=("tall", "short", "wide", "chunky"),
        styles=("cartoon", "rustic", "crooked"), colors={"brown": 3, "tan": 3, "red": 2, "black": 1},
        finishes={"wood": 3, "glossy": 4, "painted": 2}),
    "drum": Category(
        drum, kinds={"snare": ("drum", "snare drum"), "bongo": ("bongo drums",), "djembe": ("djembe", "goblet drum")},
        parts={"cords": "white cords", "drumsticks": "drumsticks", "legs": "legs", "star": "a star"}, sizes=_SIZES,
        styles=("cartoon", "rustic", "crooked"), colors={"red": 3, "blue": 2, "brown": 2}, second="hoops"),
    "bell": Category(
        bell, kinds={"church": ("bell", "church bell"), "hand": ("hand bell", "school bell")},
        parts={"bow": "a bow", "band": "a painted band"}, sizes=_SIZES, styles=("cartoon", "rustic", "crooked"),
        colors={"gold": 5, "silver": 2, "brown": 1}, finishes={"brushed metal": 3, "glossy": 3, "worn": 1}),
    "trumpet": Category(
        trumpet, parts={"banner": "a banner", "stand": "a stand"}, sizes=("tall", "long", "wide", "chunky"),
        styles=("cartoon", "rustic"), colors={"gold": 5, "silver": 3}, finishes={"brushed metal": 3, "glossy": 4},
        second="banner"),
}
