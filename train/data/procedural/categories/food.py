"""Food: apple, pear, banana, carrot, burger."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.categories.nature import leaf
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    box,
    cylinder,
    ellipsoid,
    extrude,
    lathe,
    rod,
    rounded_box,
    smooth_path,
    sphere,
    torus,
    tube,
)


def _fruit_top(b: Builder, z: float, stem: float, lean: float, turn: float, leafy: bool, thick: float) -> None:
    """A stem from height z and perhaps a leaf."""
    b.add(tube(smooth_path([(0, 0, z - 0.12), (lean * 0.3, 0, z + stem * 0.5), (lean, 0, z + stem)], 7),
               0.036 * thick, 8),
          paint="brown")
    if leafy:
        b.add(leaf(0.34, 0.18, 0.06, 0.05, 0.1), (lean * 0.3, 0, z + stem * 0.4), (0, -18, turn), paint="leaf")


def apple(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, tall, dip = r.uniform(0.44, 0.5), r.uniform(0.36, 0.46), r.uniform(0.1, 0.16)
    stem, lean, turn, pinch = r.uniform(0.18, 0.28), r.uniform(-0.08, 0.08), r.uniform(0, 360), r.uniform(0.6, 0.8)
    t = np.linspace(-np.pi / 2, np.pi / 2, 13)
    rad = wide * np.cos(t) ** 0.75 * (1 - (1 - pinch) * 0.45 * (1 - np.sin(t)) / 2)
    z = tall * np.sin(t)
    profile = [(0, -tall * 0.88), *zip(np.maximum(rad[1:-1], 0.08), z[1:-1], strict=True), (0.14, tall * 0.99),
               (0, tall - dip)]
    b.add(lathe(profile, 22), (0, 0, tall))
    _fruit_top(b, tall * 2 - dip * 0.8, stem, lean, turn, o.has("leaf"), o.thick)
    if o.has("worm"):
        way = smooth_path([(-wide * 0.5, -wide * 0.55, tall * 1.1), (-wide * 0.72, -wide * 0.86, tall * 1.2),
                           (-wide * 0.75, -wide * 0.95, tall * 1.55)], 9)
        b.add(tube(way, 0.06, 10), paint="lime")
        b.add(sphere(0.085, 10), way[-1], paint="lime")
        b.add(sphere(0.028, 6), way[-1] + (-0.03, -0.075, 0.03), paint="black")


def pear(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, neck, tall = r.uniform(0.36, 0.44), r.uniform(0.15, 0.22), r.uniform(0.95, 1.15)
    stem, lean, turn = r.uniform(0.14, 0.24), r.uniform(-0.1, 0.1), r.uniform(0, 360)
    b.add(lathe([(0, 0.03), (wide * 0.5, 0), (wide * 0.9, tall * 0.13), (wide, tall * 0.3), (wide * 0.86, tall * 0.48),
                 (neck * 1.2, tall * 0.68), (neck, tall * 0.85), (neck * 0.6, tall * 0.96), (0, tall)], 22))
    _fruit_top(b, tall, stem, lean, turn, o.has("leaf"), o.thick)
    if o.has("sticker"):
        b.add(ellipsoid(0.08, 0.035, 0.06, n=10), (0, -wide * 0.98, tall * 0.33), paint="blue")


def banana(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, bow, thick = r.uniform(0.5, 0.6), r.uniform(0.2, 0.36), r.uniform(0.115, 0.145) * o.thick
    sides, fan = int(r.choice([5, 6, 8])), r.uniform(14, 20)
    t = np.linspace(0, 1, 13)
    way = np.stack([(t * 2 - 1) * length, 0 * t, bow * (2 * t - 1) ** 2 * 1.6], 1)
    size = thick * np.interp(t, [0, 0.06, 0.2, 0.5, 0.8, 0.92, 1], [0.3, 0.5, 0.88, 1, 0.85, 0.42, 0.3])
    one = Builder()
    one.add(tube(way, size, sides))
    one.add(tube([way[0] + (0.01, 0, -0.005), way[0] + (-0.05, 0, 0.06)], thick * 0.34, 8), paint="brown")
    one.add(tube([way[-1], way[-1] + (0.09, 0, 0.12)], thick * 0.3, 8),
            paint="olive" if o.has("green tip") else "brown")
    if o.kind == "bunch":
        count = 4 if o.thick > 1 else 3
        for i in range(count):
            b.group(one, ((i - (count - 1) / 2) * 0.02, (i - (count - 1) / 2) * thick * 1.55, 0),
                    (0, 0, (i - 1) * fan * 0.3))
        b.add(rounded_box(0.16, thick * 1.7 * count, 0.14, 0.05), way[-1] + (0.09, 0, 0.1), paint="brown")
    elif o.kind == "peeled":
        b.add(cylinder(thick * 0.62, 0.08, 8), (0, 0, 0.0), paint="olive" if o.has("green tip") else "brown")
        for k in range(4):
            b.add(leaf(0.42, 0.24, 0.35, 0.05, 0.12), (0, 0, length * 0.85), (0, 0, 45 + 90 * k))
        b.add(lathe([(thick * 0.5, 0), (thick * 1.05, length * 0.3), (thick * 1.15, length * 0.85),
                     (0, length * 0.95)], 8))
        b.add(lathe([(thick * 0.9, length * 0.7), (thick * 0.95, length * 1.2), (thick * 0.7, length * 1.5),
                     (0, length * 1.65)],
                    12), paint="cream")
    else:
        b.group(one)
    if o.has("sticker"):
        front = {"bunch": 4.05 if o.thick > 1 else 2.5, "peeled": 1.15}.get(o.kind, 0.93)
        b.add(ellipsoid(0.075, 0.04, 0.06, n=10), (0.02, -thick * front, length * 0.5 if o.kind == "peeled" else 0.01),
              paint="blue")


def carrot(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, wide, greens = r.uniform(0.95, 1.25), r.uniform(0.19, 0.26) * o.thick, int(r.integers(4, 7))
    bend, rings, turn = r.uniform(-0.1, 0.1), int(r.integers(4, 7)), r.uniform(0, 360)
    tuft = r.uniform(0.28, 0.42)
    t = np.linspace(0, 1, 15)
    blunt = o.kind == "stubby"
    if blunt:
        length *= 0.72
    shape = np.interp(t, [0, 0.05, 0.3, 0.8, 0.94, 1], [0.32, 0.5, 0.8, 1, 0.9, 0.5] if blunt
                      else [0.06, 0.16, 0.45, 0.94, 0.97, 0.55])
    groove = 1 - 0.06 * (np.arange(15) % 2)
    way = np.stack([bend * np.sin(np.pi * t), 0 * t, length * t], 1)
    b.add(tube(way, wide * shape * groove, 14))
    if o.has("grooves"):
        for i in range(rings):
            k = 0.25 + 0.6 * i / rings
            a = np.radians(turn + 140 * i)
            at = np.array([np.interp(k, t, way[:, 0]), 0, length * k])
            b.add(torus(wide * np.interp(k, t, shape * groove) * 0.97, 0.026, arc=120, n=24, m=6), at,
                  (0, 0, np.degrees(a)), paint="brown")
    for i in range(greens):
        a = np.radians(turn + 360 * i / greens)
        out = np.array([np.cos(a), np.sin(a), 0])
        stalk = smooth_path([(0, 0, length - 0.04), tuple(out * 0.09 + (0, 0, length + tuft * 0.5)),
                             tuple(out * 0.2 + (0, 0, length + tuft * (0.9 + 0.15 * (i % 2))))], 6)
        b.add(tube(stalk, np.linspace(0.034, 0.05, 6), 8), paint="leaf")
        if o.has("bushy leaves"):
            b.add(ellipsoid(0.08, 0.08, 0.13, n=10), stalk[-1], (0, 0, np.degrees(a)), paint="green")


def burger(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, dome, patty = r.uniform(0.48, 0.56), r.uniform(0.26, 0.4), r.uniform(0.1, 0.14) * o.thick
    seed, turn, bottom = int(r.integers(1 << 30)), r.uniform(0, 90), r.uniform(0.15, 0.21)
    b.add(lathe([(wide * 0.86, 0), (wide, 0.07), (wide * 0.98, bottom), (0, bottom)], 24))
    z = bottom
    for k in range(2 if o.kind == "double" else 1):
        if o.has("lettuce"):
            t = np.linspace(0, 2 * np.pi, 29)[:-1]
            rim = wide * (1.07 + 0.07 * (np.arange(28) % 2))
            b.add(extrude(np.stack([rim * np.cos(t), rim * np.sin(t)], 1), 0.06, axis="z"), (0, 0, z + 0.02),
                  paint="lime")
            z += 0.035
        b.add(lathe([(wide * 0.98, 0), (wide * 1.04, patty * 0.5), (wide * 0.98, patty), (0, patty)], 24), (0, 0, z),
              paint="brown")
        z += patty
        if o.has("cheese"):
            s = wide * 1.62
            b.add(box(s, s, 0.05), (0, 0, z + 0.01), (0, 0, turn + 45 * k), paint="yellow")
            z += 0.03
        if o.has("tomato"):
            b.add(cylinder(wide * 0.98, 0.07, 22), (0, 0, z + 0.025), paint="red")
            z += 0.055
    t = np.linspace(0, np.pi / 2, 6)
    top = [(wide * 1.02 * np.cos(a) ** 0.8, z + 0.08 + dome * np.sin(a)) for a in t[:-1]]
    b.add(lathe([(wide * 0.94, z - 0.01), *top, (0, z + 0.08 + dome)], 24))
    if o.has("sesame seeds"):
        q = np.random.default_rng(seed)
        for i in range(16):
            a, e = 2.4 * i, np.radians(q.uniform(35, 80))
            at = (wide * 1.02 * np.cos(e) ** 0.8 * np.cos(a), wide * 1.02 * np.cos(e) ** 0.8 * np.sin(a),
                  z + 0.08 + dome * np.sin(e))
            b.add(ellipsoid(0.045, 0.03, 0.024, n=8), at, (0, 90 - np.degrees(e), np.degrees(a)), paint="cream")
    if o.has("flag"):
        high = z + dome
        b.add(rod((0, 0, high), (0, 0, high + 0.48), 0.026), paint="tan")
        b.add(extrude([(0, high + 0.28), (0, high + 0.48), (0.3, high + 0.38)], 0.045), paint="accent")


_SIZES = ("tall", "wide", "chunky", "tiny", "slender")

CATEGORIES = {
    "apple": Category(
        apple, parts={"leaf": "a leaf", "worm": "a worm"}, sizes=_SIZES, styles=("cartoon",),
        colors={"red": 5, "green": 3, "yellow": 1, "lime": 1}, finishes={"glossy": 4, "painted": 2}),
    "pear": Category(
        pear, parts={"leaf": "a leaf", "sticker": "a blue sticker"}, sizes=_SIZES, styles=("cartoon", "crooked"),
        colors={"lime": 3, "yellow": 2, "green": 2}, finishes={"glossy": 2, "painted": 3}),
    "banana": Category(
        banana, kinds={"single": (), "bunch": ("bunch of bananas", "banana bunch"), "peeled": ("peeled banana",)},
        parts={"sticker": "a blue sticker", "green tip": "a green tip"}, sizes=("tall", "long", "chunky", "slender"),
        styles=("cartoon",), colors={"yellow": 6, "green": 1, "lime": 1}, finishes={"painted": 4, "glossy": 2}),
    "carrot": Category(
        carrot, kinds={"long": (), "stubby": ("stubby carrot", "baby carrot")},
        parts={"bushy leaves": "bushy leaves", "grooves": "grooves"}, sizes=_SIZES, styles=("cartoon", "crooked"),
        colors={"orange": 6, "purple": 1, "yellow": 1}, finishes={"painted": 4, "glossy": 1}),
    "burger": Category(
        burger, synonyms=("hamburger",), kinds={"single": (), "double": ("double burger", "double cheeseburger")},
        parts={"lettuce": "lettuce", "cheese": "cheese", "tomato": "tomato", "sesame seeds": "sesame seeds",
               "flag": "a little flag"},
        sizes=_SIZES, styles=("cartoon", "crooked"), colors={"tan": 5, "orange": 1, "brown": 2},
        finishes={"painted": 3, "glossy": 2}),
}
