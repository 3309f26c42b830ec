"""Animals: duck, fish, penguin, turtle, whale, snail."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    Shape,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    frustum,
    hemisphere,
    lathe,
    loft,
    outward,
    rounded_box,
    smooth_path,
    sphere,
    torus,
    tube,
)


def _eyes(b: Builder, at, size: float) -> None:
    """White eyes with dark pupils on both sides; `at` is the right one's centre."""
    at = np.asarray(at, float)
    b.both(sphere(size, 10), at, paint="white")
    b.both(sphere(size * 0.62, 8), at + np.array([0.45, -0.55, 0.1]) * size, paint="black")


def duck(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, width, head = r.uniform(0.42, 0.52), r.uniform(0.32, 0.38), r.uniform(0.22, 0.27)
    neck, tail, bill = r.uniform(0.04, 0.2), r.uniform(0.2, 0.32), r.uniform(0.13, 0.18)
    lift = 0.26 if o.kind == "standing" else 0.0
    z = lift + 0.28
    b.add(ellipsoid(width, length, 0.29), (0, 0, z))
    b.add(tube([(0, length * 0.4, z + 0.05), (0, length * 0.85, z + 0.15), (0, length * 1.0 + tail * 0.3, z + tail)],
               [0.24, 0.15, 0.045], 12))
    hz, hy = z + 0.34 + neck, -length * 0.55
    b.add(tube([(0, -length * 0.35, z + 0.05), (0, hy, hz)], [0.22, 0.15], 14))
    b.add(sphere(head), (0, hy - 0.03, hz + 0.06))
    b.add(ellipsoid(bill * 0.95, bill * 1.25, 0.055), (0, hy - head - 0.06, hz + 0.05), (-8, 0, 0), paint="orange")
    b.add(ellipsoid(bill * 0.85, bill * 1.0, 0.045), (0, hy - head - 0.02, hz - 0.0), (12, 0, 0), paint="orange")
    _eyes(b, (head * 0.62, hy - 0.03 - head * 0.62, hz + 0.06 + head * 0.4), head * 0.2)
    b.both(ellipsoid(0.09 * o.thick, length * 0.58, 0.17), (width * 0.9, 0.06, z + 0.06), (12, -12, 0))
    if o.kind == "standing":
        b.both(cylinder(0.045, lift), (width * 0.4, 0, lift / 2 + 0.02), paint="orange")
        foot = [(0, 0.07), (0.11, -0.17), (0.05, -0.15), (0, -0.2), (-0.05, -0.15), (-0.11, -0.17)]
        b.both(extrude(foot, 0.06, axis="z"), (width * 0.4, 0, 0.03), paint="orange")
    if o.has("hat"):
        top = hz + 0.06 + head * 0.82
        b.add(cylinder(head * 0.8, 0.05), (0, hy - 0.03, top), paint="black")
        b.add(cylinder(head * 0.52, 0.22), (0, hy - 0.03, top + 0.1), paint="black")
    if o.has("scarf"):
        b.add(torus(0.17, 0.06, n=20, m=8), (0, hy * 0.92, hz - head * 0.75), (12, 0, 0), paint="accent")
    if o.has("crest"):
        for k in (-1, 0, 1):
            b.add(ellipsoid(0.035, 0.04, 0.13, n=8), (0.05 * k, hy + 0.05, hz + 0.06 + head * 1.05), (-25, 25 * k, 0))


def _fin(points, thick: float) -> Shape:
    return extrude(points, thick, axis="x")


def fish(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, tall, width = r.uniform(0.5, 0.62), r.uniform(0.26, 0.36), r.uniform(0.15, 0.2)
    fin, tail, fork = r.uniform(0.16, 0.28), r.uniform(0.28, 0.38), r.uniform(0.4, 0.75)
    thick = 0.06 * o.thick
    if o.kind == "puffer":
        tall = width = 0.4
        length = 0.45
    elif o.kind == "angel":
        tall, fin = 0.46, 0.34
        length = 0.44
    elif o.kind == "shark":
        tall, width, length, fin, fork = 0.22, 0.2, 0.72, 0.26, 0.3
    t = np.linspace(0, 1, 11)
    swell = np.sin(np.pi * t**0.75) ** (0.55 if o.kind == "puffer" else 0.8)
    n = 16
    a = 2 * np.pi * np.arange(n) / n
    y = -length + 2 * length * t
    half = np.maximum(swell, 0.13 + 0.16 * t)
    rings = np.stack([np.stack([width * h * np.cos(a), np.full(n, yy), tall * h * np.sin(a)], 1)
                      for yy, h in zip(y, half, strict=True)])
    f = Builder()
    f.add(outward(loft(rings)))
    e = length * 0.92
    lower = tail * (0.55 if o.kind == "shark" else 1)
    f.add(_fin([(e, 0.07), (e + tail, tail), (e + tail * (1 - fork * 0.5), 0), (e + tail, -lower), (e, -0.07)], thick),
          paint="secondary")
    top = tall * 0.72
    if o.kind == "shark":
        f.add(_fin([(-0.12, top), (0.16, top + fin), (0.24, top * 0.9)], thick), paint="primary")
    else:
        f.add(_fin([(-length * 0.4, top), (-length * 0.05, tall + fin), (length * 0.5, tall * 0.6 + fin * 0.7),
                    (length * 0.5, tall * 0.4)], thick), paint="primary")
        f.add(_fin([(-length * 0.05, -tall * 0.8), (length * 0.15, -tall - fin * 0.7), (length * 0.5, -tall * 0.4)],
                   thick),
              paint="primary")
    for side in (-1, 1):
        f.add(ellipsoid(0.045 * o.thick, fin * 0.75, fin * 0.38, n=12), (side * (width + 0.04), 0, -tall * 0.25),
              (-25, 0, side * 32), paint="secondary")
    ey = -length * 0.58
    ex = width * float(np.interp(0.21, t, half)) * 0.98
    f.both(sphere(0.085, 12), (ex * 0.92, ey, tall * 0.24), paint="white")
    f.both(sphere(0.055, 10), (ex * 0.92 + 0.045, ey - 0.02, tall * 0.26), paint="black")
    if o.has("lips"):
        f.add(torus(0.06, 0.035, n=14, m=8), (0, -length - 0.01, -0.02), (90, 0, 0), paint="accent")
    if o.has("stripes"):
        for k in (0.42, 0.62):
            h = float(np.interp(k, t, half)) * 1.035
            w = float(np.interp(k + 0.06, t, half)) * 1.035
            band = np.stack([np.stack([width * s * np.cos(a), np.full(n, yy), tall * s * np.sin(a)], 1)
                             for yy, s in ((-length + 2 * length * k, h), (-length + 2 * length * (k + 0.05), w))])
            f.add(outward(loft(band)), paint="white")
    if o.has("spikes"):
        for k in range(14):
            q, p = np.radians(51.4 * k), 0.3 + 0.4 * ((k * 0.37) % 1)
            h = float(np.interp(p, t, half))
            at = np.array([width * h * np.cos(q), -length + 2 * length * p, tall * h * np.sin(q)])
            f.add(cone(0.05, 0.22, 6), at * (1.1, 1, 1.1), (0, 90 - np.degrees(np.arctan2(at[2], at[0])), 0),
                  paint="light")
    b.group(f, (0, 0, tall + fin))


def penguin(b: Builder, r: np.random.Generator, o: Options) -> None:
    width, tall, head = r.uniform(0.34, 0.42), r.uniform(0.5, 0.62), r.uniform(0.24, 0.29)
    flip, spread = r.uniform(0.36, 0.46), r.uniform(10, 32)
    z = tall * 0.96
    if o.kind == "baby":
        head, tall = head * 1.15, tall * 0.85
        z = tall * 0.96
    b.add(lathe([(0, 0), (width * 0.8, 0.06), (width, tall * 0.6), (width * 0.86, tall * 1.1), (head * 0.8, tall * 1.6),
                 (0, tall * 1.75)], 20), scale=(1, 0.88, 1))
    hz = tall * 1.62 + head * 0.4
    b.add(sphere(head), (0, 0, hz))
    b.add(ellipsoid(width * 0.52, width * 0.27, tall * 0.55), (0, -width * 0.69, z * 0.78), paint="white")
    b.both(ellipsoid(head * 0.34, head * 0.28, head * 0.38, n=12), (head * 0.36, -head * 0.72, hz), paint="white")
    b.both(sphere(head * 0.14, 8), (head * 0.36, -head * 1.0, hz + head * 0.08), paint="black")
    b.add(cone(head * 0.27, head * 0.72, 10), (0, -head * 1.2, hz - head * 0.18), (90, 0, 0), scale=(1, 1, 0.95),
          paint="orange")
    b.both(ellipsoid(0.06 * o.thick, 0.14, flip), (width * 0.9 + flip * 0.16, 0, tall * 0.95), (0, -spread, 0))
    b.both(ellipsoid(0.15, 0.2, 0.06, n=12), (width * 0.46, -width * 0.55, 0.05), paint="orange")
    b.add(cone(0.12, 0.22, 8), (0, width * 0.85, 0.12), (-115, 0, 0))
    if o.has("scarf"):
        b.add(torus(head * 0.98, 0.06, n=22, m=8), (0, 0, hz - head * 0.72), scale=(1, 0.95, 1), paint="accent")
        b.add(rounded_box(0.13, 0.08, 0.3, 0.03), (head * 0.45, -head * 1.12, hz - head * 1.25), paint="accent")
    if o.has("hat"):
        b.add(hemisphere(head * 0.92, height=head * 0.72), (0, 0, hz + head * 0.42), paint="accent")
        b.add(torus(head * 0.9, 0.045, n=20, m=8), (0, 0, hz + head * 0.44), paint="white")
        b.add(sphere(0.07, 10), (0, 0, hz + head * 1.18), paint="white")
    if o.has("bow tie"):
        b.both(frustum(0.04, 0.11, 0.18, 8), (0.09, -head * 0.98, hz - head * 0.85), (0, 90, 0), paint="red")


def turtle(b: Builder, r: np.random.Generator, o: Options) -> None:
    shell, dome, head = r.uniform(0.42, 0.5), r.uniform(0.28, 0.42), r.uniform(0.14, 0.18)
    neck, up, limb = r.uniform(0.1, 0.2), r.uniform(0.0, 0.2), r.uniform(0.1, 0.13) * o.thick
    z = 0.2
    b.add(lathe([(0, -0.06), (shell * 0.95, -0.03), (shell * 1.04, 0.03), (shell * 0.95, dome * 0.4),
                 (shell * 0.66, dome * 0.82), (0, dome)], 20), (0, 0, z), scale=(0.92, 1.08, 1))
    b.add(torus(shell * 1.01, 0.045, n=22, m=8), (0, 0, z + 0.02), scale=(0.92, 1.08, 1), paint="secondary")
    if o.has("shell plates"):
        b.add(cylinder(shell * 0.26, 0.06, 6), (0, 0, z + dome * 0.96), paint="secondary")
        for k in range(6):
            q = np.radians(60 * k)
            b.add(cylinder(shell * 0.2, 0.06, 6), (shell * 0.6 * np.cos(q) * 0.92, shell * 0.6 * np.sin(q) * 1.08,
                                                   z + dome * 0.78), (0, 38, 60 * k), paint="secondary")
    y = -shell * 1.05
    b.add(tube([(0, y * 0.7, z), (0, y - neck * 0.5, z + 0.06 + up * 0.5), (0, y - neck, z + 0.12 + up)],
               [head * 0.7, head * 0.62, head * 0.6], 12))
    b.add(ellipsoid(head, head * 1.15, head * 0.95), (0, y - neck - 0.05, z + 0.16 + up))
    _eyes(b, (head * 0.62, y - neck - 0.05 - head * 0.72, z + 0.16 + up + head * 0.45), head * 0.25)
    if o.kind == "sea":
        for yy, s, turn in ((-0.5, 1.0, 28), (0.62, 0.6, -38)):
            b.both(ellipsoid(0.36 * s, 0.15 * s, 0.05), (shell * (0.75 + 0.4 * s), yy * shell, z - 0.04), (0, 14, turn))
    else:
        b.four(lathe([(limb * 1.15, 0), (limb, 0.26)], 12), (shell * 0.62, shell * 0.68, 0))
    b.add(cone(0.07, 0.2, 8), (0, shell * 1.12, z - 0.02), (-100, 0, 0))
    if o.has("hat"):
        b.add(cone(head * 0.6, head * 1.3, 12), (0, y - neck - 0.04, z + 0.16 + up + head * 1.4), paint="red")


def whale(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, width, tall = r.uniform(0.55, 0.7), r.uniform(0.34, 0.42), r.uniform(0.3, 0.38)
    lift, fluke = r.uniform(0.2, 0.42), r.uniform(0.26, 0.34)
    path = smooth_path([(0, -length, tall * 0.92), (0, -length * 0.3, tall), (0, length * 0.4, tall * 0.95),
                        (0, length * 0.95, tall * 0.8 + lift * 0.5), (0, length * 1.1, tall * 0.8 + lift)], 13)
    size = np.interp(np.linspace(0, 1, 13), [0, 0.07, 0.2, 0.42, 0.7, 0.88, 1],
                     [0.35, 0.72, 0.95, 1.0, 0.6, 0.27, 0.16])
    b.add(tube(path, size * width, 18))
    b.add(ellipsoid(width * 0.82, length * 0.72, tall * 0.66), (0, -length * 0.32, tall * 0.66), paint="white")
    end = path[-1]
    b.both(ellipsoid(fluke, fluke * 0.5, 0.055 * o.thick), end + (fluke * 0.72, 0.05, 0.02), (0, -14, 28))
    b.both(ellipsoid(0.26, 0.13, 0.05 * o.thick), (width * 1.1, -length * 0.2, tall * 0.55), (0, 26, 28))
    _eyes(b, (width * 0.84, -length * 0.66, tall * 1.12), 0.065)
    if o.has("water spout"):
        top = tall + width * 0.9
        b.add(cylinder(0.05, 0.3), (0, -length * 0.35, top + 0.08), paint="light blue")
        for k in (-1, 1):
            arc = smooth_path([(0, -length * 0.35, top + 0.2), (k * 0.12, -length * 0.35, top + 0.34),
                               (k * 0.24, -length * 0.35, top + 0.2)], 8)
            b.add(tube(arc, 0.05, 8), paint="light blue")
    if o.has("dorsal fin"):
        b.add(_fin([(0.0, tall + width * 0.7), (0.22, tall + width * 1.25), (0.3, tall + width * 0.45)], 0.07))


def snail(b: Builder, r: np.random.Generator, o: Options) -> None:
    shell, turns, body = r.uniform(0.42, 0.5), r.uniform(2.1, 2.7), r.uniform(0.11, 0.13) * o.thick
    head, horn = r.uniform(0.3, 0.42), r.uniform(0.2, 0.3)
    foot = smooth_path([(0, 0.62, body * 0.4), (0, 0.3, body * 0.75), (0, -0.25, body * 0.85), (0, -0.52, head * 0.7),
                        (0, -0.58, head)], 14)
    b.add(tube(foot, np.interp(np.linspace(0, 1, 14), [0, 0.25, 0.7, 1], [0.04, body, body, body * 0.9]), 12),
          paint="secondary")
    b.add(sphere(body * 1.15, 12), foot[-1], paint="secondary")
    t = np.linspace(0, 1, 36)
    angle = 2 * np.pi * turns * t + 0.6
    rad = shell * (1 - t) ** 0.9 * 0.62
    way = np.stack([0.1 * t, rad * np.cos(angle), rad * np.sin(angle)], 1)
    thick = shell * (0.43 * (1 - t) + 0.16)
    for k in (1, -1):
        b.add(tube(way * (k, 1, 1), thick, 12), (0, 0.1, body + shell * 0.88))
    for k in (-1, 1):
        tip = foot[-1] + (k * 0.1, -0.06, horn + body * 0.6)
        b.add(tube([foot[-1] + (k * 0.05, 0, 0), tip], 0.032 * o.thick, 8), paint="secondary")
        b.add(sphere(0.055, 8), tip, paint="black")
    if o.has("bow"):
        z = body + shell * 1.85
        b.both(frustum(0.04, 0.11, 0.18, 8), (0.09, 0.1, z), (0, 90, 0), paint="accent")
        b.add(sphere(0.06, 8), (0, 0.1, z), paint="accent")


_SIZES = ("tall", "short", "wide", "long", "chunky", "tiny")

CATEGORIES = {
    "duck": Category(
        duck, synonyms=("toy duck", "duckling"), kinds={"floating": ("rubber duck", "duck"),
                                                        "standing": ("standing duck",)},
        parts={"hat": "a top hat", "scarf": "a scarf", "crest": "a crest"}, sizes=_SIZES, styles=("cartoon", "rustic"),
        colors={"yellow": 6, "white": 2, "brown": 1}, finishes={"glossy": 3, "painted": 3}),
    "fish": Category(
        fish, kinds={"plain": ("fish", "goldfish"), "puffer": ("puffer fish", "round fish"), "angel": ("angelfish",),
                     "shark": ("shark",)},
        parts={"lips": "big lips", "stripes": "white stripes", "spikes": "spikes"}, sizes=_SIZES,
        styles=("cartoon",), colors={"orange": 4, "blue": 2, "silver": 1, "yellow": 1},
        finishes={"glossy": 3, "painted": 3, "striped": 1, "dotted": 1}, second="fins"),
    "penguin": Category(
        penguin, kinds={"adult": (), "baby": ("baby penguin",)},
        parts={"scarf": "a scarf", "hat": "a woolly hat",
               "bow tie": "a red bow tie"}, sizes=_SIZES, styles=("cartoon",),
        colors={"black": 5, "navy": 2, "dark grey": 1, "blue": 1}, finishes={"painted": 3, "glossy": 2}),
    "turtle": Category(
        turtle, synonyms=("tortoise",), kinds={"land": (), "sea": ("sea turtle",)},
        parts={"shell plates": "shell plates", "hat": "a party hat"}, sizes=_SIZES, styles=("cartoon", "rustic"),
        colors={"green": 4, "olive": 2, "brown": 2}, finishes={"painted": 3, "glossy": 1}, second="shell rim"),
    "whale": Category(
        whale, parts={"water spout": "a water spout", "dorsal fin": "a dorsal fin"}, sizes=_SIZES, styles=("cartoon",),
        colors={"blue": 4, "light blue": 2, "grey": 2, "navy": 1}, finishes={"painted": 3, "glossy": 2}),
    "snail": Category(
        snail, synonyms=("garden snail",), parts={"bow": "a bow"}, sizes=_SIZES, styles=("cartoon",),
        colors={"brown": 3, "tan": 2, "orange": 1, "pink": 1}, finishes={"painted": 3, "glossy": 2, "striped": 1},
        second="body"),
}
