"""Games, costume and street: chess queen, top hat, dice, umbrella, traffic cone, anchor, gift box."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    Shape,
    box,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    frustum,
    lathe,
    loft,
    outward,
    rod,
    rounded_box,
    smooth_path,
    sphere,
    torus,
    tube,
)


def chess_queen(b: Builder, r: np.random.Generator, o: Options) -> None:
    base, tall, waist = r.uniform(0.28, 0.34), r.uniform(0.95, 1.2), r.uniform(0.11, 0.14) * o.thick
    points, crown, orb = int(r.integers(6, 10)), r.uniform(0.2, 0.25), r.uniform(0.06, 0.08)
    rings, flare = int(r.integers(1, 4)), r.uniform(0.12, 0.18)
    b.add(lathe([(base, 0), (base, 0.07), (base * 0.92, 0.1), (base * 0.95, 0.15), (base * 0.7, 0.2),
                 (waist * 1.5, 0.32),
                 (waist, tall * 0.55), (waist * 0.95, tall * 0.74), (waist * 1.1, tall * 0.8)], 24))
    for i in range(rings):
        b.add(lathe([(waist, -0.03), (waist * 1.75 - 0.02 * i, 0), (waist, 0.03)], 22),
              (0, 0, tall * (0.76 - 0.055 * i)))
    z = tall * 0.78
    b.add(lathe([(waist, z), (waist * 1.15, z + 0.08), (crown, z + 0.08 + flare), (crown * 0.75, z + 0.1 + flare),
                 (0, z + 0.15 + flare)], 24))
    high = z + 0.08 + flare
    b.ring(cone(crown * 0.28, 0.16, 8), points, at=(crown * 0.86, 0, high + 0.05), rotate=(0, 10, 0))
    if o.has("crown pearls"):
        b.ring(sphere(0.038, 8), points, at=(crown * 0.9, 0, high + 0.13), paint="accent")
    b.add(ellipsoid(crown * 0.62, crown * 0.62, 0.1), (0, 0, high + 0.03))
    b.add(sphere(orb, 12), (0, 0, high + 0.16), paint="accent" if o.has("coloured orb") else "primary")
    if o.has("felt base"):
        b.parts[:] = [(v + (0, 0, 0.05), f, p) for v, f, p in b.parts]
        b.add(cylinder(base * 1.03, 0.06, 24), (0, 0, 0.03), paint="green")
    if o.has("gold ring"):
        b.add(torus(base * 0.96, 0.034, n=26, m=8), (0, 0, 0.1 + 0.05 * o.has("felt base")), paint="gold")


def top_hat(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, tall, brim = r.uniform(0.33, 0.4), r.uniform(0.5, 0.75), r.uniform(1.55, 1.85)
    flare, curl, band = r.uniform(0.98, 1.2), r.uniform(0.0, 0.1), r.uniform(0.1, 0.16)
    turn = r.uniform(-50, 50)
    if o.kind == "magician":
        flare = 1.0
    elif o.kind == "stovepipe":
        tall, brim, flare = tall * 1.4, 1.5, 1.0
    e = 0.05 * o.thick
    b.add(lathe([(rad * 0.9, 0), (rad * brim, curl), (rad * brim, curl + e), (rad * 1.05, e), (rad * 0.96, tall * 0.4),
                 (rad * flare, tall), (rad * flare * 0.92, tall + 0.03), (0, tall + 0.04)], 28),
          scale=(1, 1.08, 1))
    b.add(torus(rad * brim, 0.034 * o.thick, n=28, m=8), (0, 0, curl + e / 2), scale=(1, 1.08, 1))
    b.add(lathe([(rad * 1.07, e + 0.01), (rad * 1.07, e + band), (rad * 0.9, e + band)], 28), scale=(1, 1.08, 1),
          paint="secondary")
    if o.has("feather"):
        way = smooth_path([(rad * 1.02, 0, e + 0.04), (rad * 1.35, 0.08, tall * 0.6), (rad * 1.25, 0.25, tall * 1.1)],
                          9)
        b.add(tube(way, [0.03, 0.06, 0.09, 0.11, 0.115, 0.11, 0.09, 0.06, 0.03], 8, flat=0.45), paint="accent")
    if o.has("card"):
        b.add(box(0.22, 0.045, 0.32), (-rad * 0.55, -rad * 1.04, band + 0.2), (0, -16, -28), paint="white")
        b.add(box(0.09, 0.05, 0.09), (-rad * 0.57, -rad * 1.06, band + 0.2), (0, 30, -28), paint="red")
    if o.has("goggles"):
        b.both(cylinder(0.13, 0.1, 16), (0.15, -rad * 1.08, e + band * 0.9 + 0.06), (90, 0, 0), paint="gold")
        b.both(cylinder(0.095, 0.12, 14), (0.15, -rad * 1.1, e + band * 0.9 + 0.06), (90, 0, 0), paint="glass")
    if o.has("rose"):
        q = np.radians(turn - 90)
        at = np.array([np.cos(q) * rad * 1.08, np.sin(q) * rad * 1.16, e + band * 0.8])
        b.add(sphere(0.09, 10), at, paint="accent")
        for k in range(5):
            a = 2 * np.pi * k / 5
            side = np.array([-np.sin(q), np.cos(q), 0]) * np.cos(a) + np.array([0, 0, 1]) * np.sin(a)
            b.add(ellipsoid(0.07, 0.07, 0.07, n=8), at + side * 0.085, paint="accent")


_PIPS = {1: [(0, 0)], 2: [(-1, -1), (1, 1)], 3: [(-1, -1), (0, 0), (1, 1)], 4: [(-1, -1), (-1, 1), (1, -1), (1, 1)],
         5: [(-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)],
         6: [(-1, -1), (-1, 0), (-1, 1), (1, -1), (1, 0), (1, 1)]}


def dice(b: Builder, r: np.random.Generator, o: Options) -> None:
    soft, pip, roll = r.uniform(0.08, 0.2), r.uniform(0.075, 0.095) * o.thick, int(r.integers(6))
    tilt, spot = r.uniform(-25, 25), r.uniform(0.24, 0.28)
    paint = "secondary"

    def one() -> Builder:
        d = Builder()
        d.add(rounded_box(1, 1, 1, soft))
        order = np.roll([1, 2, 3, 6, 5, 4], roll)
        turns = [(0, 0, 0), (90, 0, 0), (0, 90, 0), (180, 0, 0), (-90, 0, 0), (0, -90, 0)]
        for value, turn in zip(order, turns, strict=True):
            face = Builder()
            for x, y in _PIPS[int(value)]:
                face.add(cylinder(pip, 0.05, 12), (x * spot, y * spot, 0.495), paint=paint)
            d.group(face, (0, 0, 0), turn)
        return d

    if o.kind == "pair":
        b.group(one(), (-0.5, 0.1, 0.5), (0, 0, tilt), 0.95)
        b.group(one(), (0.52, -0.12, 0.5), (90, 0, -tilt), 0.95)
    else:
        b.group(one(), (0, 0, 0.5), (0, 0, tilt))
    if o.has("crown"):
        c = Builder()
        c.add(frustum(0.22, 0.26, 0.16, 12), (0, 0, 0.06), paint="gold")
        c.ring(cone(0.07, 0.2, 6), 6, at=(0.2, 0, 0.2), paint="gold")
        b.group(c, (-0.5 * (o.kind == "pair"), 0.1 * (o.kind == "pair"), 0.98))


def umbrella(b: Builder, r: np.random.Generator, o: Options) -> None:
    wide, tall, dome = r.uniform(0.6, 0.75), r.uniform(0.9, 1.1), r.uniform(0.3, 0.45)
    ribs, hook, dip = int(r.integers(6, 10)), r.uniform(0.1, 0.14), r.uniform(0.06, 0.1)
    pole = 0.032 * o.thick
    n = ribs * 4
    a = 2 * np.pi * np.arange(n) / n
    scallop = np.abs(np.sin(a * ribs / 2))  # 0 at a rib, 1 between two
    t = np.linspace(0, 1, 7)
    rows = [np.stack([wide * k * (1 - 0.04 * scallop * k) * np.cos(a), wide * k * (1 - 0.04 * scallop * k) * np.sin(a),
                      tall + dome * (1 - k**2) + dip * scallop * k**3], 1) for k in t[1:]][::-1]
    under = [np.stack([p[:, 0] * 0.985, p[:, 1] * 0.985, p[:, 2] - 0.05], 1) for p in rows[::-1]]
    b.add(outward(loft(np.stack(under + rows), (0, 0, tall + dome - 0.07), (0, 0, tall + dome))))
    b.add(rod((0, 0, hook), (0, 0, tall + dome + 0.1), pole), paint="metal")
    if o.kind == "beach":
        b.add(lathe([(0.26, 0), (0.22, 0.08), (0.06, 0.12), (0.05, 0.3)], 18), paint="dark")
    else:
        arc = np.radians(np.linspace(0, -180, 10))
        way = np.stack([-hook + hook * np.cos(arc), 0 * arc, hook + hook * np.sin(arc)], 1)
        b.add(tube(np.concatenate([[(0, 0, hook + 0.14)], way, [(-2 * hook, 0, hook + 0.05)]]), pole * 1.35, 10),
              paint="brown")
    if o.has("tip"):
        b.add(cone(0.045, 0.16, 10), (0, 0, tall + dome + 0.14), paint="metal")
    if o.has("trim"):
        for i in range(ribs):
            q = np.radians(360 * i / ribs)
            b.add(sphere(0.042, 8), (wide * np.cos(q), wide * np.sin(q), tall - 0.02), paint="accent")


def traffic_cone(b: Builder, r: np.random.Generator, o: Options) -> None:
    base, wide, tall = r.uniform(0.36, 0.42), r.uniform(0.26, 0.31), r.uniform(0.85, 1.1)
    tip, bands = r.uniform(0.05, 0.08) * o.thick, int(r.integers(1, 3))
    shape = box(base * 2, base * 2, 0.09, 0.03) if o.kind == "square" else _plate(base)
    b.stand(shape, paint="primary")
    b.add(lathe([(wide, 0.06), (wide * 0.93, 0.12), (tip, tall), (tip * 0.8, tall), (0, tall - 0.04)], 24))
    for k in ((0.45,) if bands == 1 else (0.32, 0.62)):
        low, high = np.interp([k - 0.075, k + 0.075], [0.1, 1], [wide * 0.93, tip]) + 0.014
        b.add(lathe([(low, tall * (k - 0.075)), (high, tall * (k + 0.075))], 24), paint="white")
    if o.has("lamp"):
        b.add(cylinder(0.1, 0.06), (0, 0, tall + 0.01), paint="dark")
        b.add(sphere(0.11, 12), (0, 0, tall + 0.11), paint="yellow")
    if o.has("sign"):
        b.add(box(0.46, 0.05, 0.3, 0.01), (0, -wide * 0.62, tall * 0.42), (-14, 0, 0), paint="yellow")
        b.add(box(0.3, 0.06, 0.07), (0, -wide * 0.63, tall * 0.42), (-14, 0, 0), paint="black")


def _plate(radius: float) -> Shape:
    """An eight-sided plate."""
    return cylinder(radius * 1.12, 0.09, 8)


def anchor(b: Builder, r: np.random.Generator, o: Options) -> None:
    tall, wide, bar = r.uniform(0.85, 1.05), r.uniform(0.4, 0.5), r.uniform(0.055, 0.07) * o.thick
    stock, curve = r.uniform(0.26, 0.36), r.uniform(0.3, 0.42)
    b.add(rod((0, 0, bar), (0, 0, tall), bar * 1.1, bar * 0.85))
    arms = smooth_path([(-wide, 0, curve), (-wide * 0.72, 0, curve * 0.36), (0, 0, bar), (wide * 0.72, 0, curve * 0.36),
                        (wide, 0, curve)], 17)
    b.add(tube(arms, bar * (1.25 - 0.4 * np.abs(np.linspace(-1, 1, 17))), 10))
    barb = [(-0.16, -0.06), (0.14, -0.06), (0.02, 0.2)]
    b.both(extrude(barb, bar * 1.9), (wide, 0, curve), (0, 12, 0))
    b.add(torus(0.12, bar * 0.75, n=20, m=8), (0, 0, tall + 0.1), (90, 0, 0))
    if o.kind == "stock":
        b.add(rod((-stock, 0, tall * 0.84), (stock, 0, tall * 0.84), bar * 0.85))
        b.both(sphere(bar * 1.35, 10), (stock, 0, tall * 0.84))
    else:
        b.add(box(stock * 1.9, bar * 2.2, bar * 2.2, 0.01), (0, 0, tall * 0.84), paint="wood")
    if o.has("rope"):
        t = np.linspace(0, 1, 22)
        a = 2 * np.pi * 2.2 * t
        rad = bar * 1.5
        b.add(tube(np.stack([rad * np.cos(a), rad * np.sin(a), tall * (0.14 + 0.62 * t)], 1), 0.032, 7), paint="tan")
        b.add(tube(smooth_path([(rad, 0, tall * 0.76), (0.2, -0.05, tall * 0.62), (0.26, -0.05, tall * 0.34)], 8),
                   0.032, 7),
              paint="tan")
    if o.has("plaque"):
        b.add(cylinder(bar * 2.2, bar * 2.6, 14), (0, 0, tall * 0.45), (90, 0, 0), paint="accent")


def gift_box(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, z = r.uniform(0.7, 1.0), r.uniform(0.7, 0.95), r.uniform(0.5, 0.95)
    band, lid, loop = r.uniform(0.08, 0.11) * o.thick, r.uniform(0.14, 0.2), r.uniform(0.2, 0.28)
    tail = r.uniform(0.25, 0.4)
    if o.kind == "round":
        rad = (x + y) / 4
        b.add(cylinder(rad, z, 28), (0, 0, z / 2))
        b.add(cylinder(rad * 1.06, lid, 28), (0, 0, z - lid / 2 + 0.04))
        x = y = rad * 2
    else:
        b.add(box(x, y, z), (0, 0, z / 2))
        b.add(box(x * 1.06, y * 1.06, lid), (0, 0, z - lid / 2 + 0.04))
    top = z + 0.04
    b.add(box(band, y * 1.085, z + 0.06), (0, 0, (z + 0.06) / 2), paint="secondary")
    b.add(box(x * 1.085, band, z + 0.06), (0, 0, (z + 0.06) / 2), paint="secondary")
    if o.has("bow"):
        ear = smooth_path([(0, 0, top), (loop * 0.9, 0.02, top + loop * 0.85), (loop * 1.45, 0.02, top + loop * 0.35),
                           (0.02, 0, top + 0.03)], 14)
        b.both(tube(ear, 0.055 * o.thick, 8, flat=1.4), paint="secondary")
        b.add(sphere(0.085 * o.thick, 10), (0, 0, top + 0.05), paint="secondary")
        way = smooth_path([(0, 0, top + 0.03), (0.14, -tail * 0.5, top + 0.05), (0.2, -y * 0.4, top + 0.03)], 7)
        b.both(tube(way, 0.042, 8), paint="secondary")
    if o.has("tag"):
        front = -y / 2 * (0.88 if o.kind == "round" else 1.05)
        b.add(box(0.26, 0.045, 0.18, 0.01), (x * 0.24, front, z * 0.5), (0, 18, 0), paint="cream")
    if o.has("stars"):
        t = np.radians(90 + 36 * np.arange(10))
        q = np.where(np.arange(10) % 2 == 0, 0.1, 0.042)
        for k, h in ((-0.29, 0.3), (0.29, 0.36), (-0.29, 0.68)):
            deep = y / 2 if o.kind != "round" else np.sqrt((x / 2) ** 2 - (k * x) ** 2)
            b.add(extrude(np.stack([q * np.cos(t), q * np.sin(t)], 1), 0.07), (k * x, -deep, z * h), paint="accent")


_SIZES = ("tall", "short", "wide", "chunky")

CATEGORIES = {
    "chess queen": Category(
        chess_queen, synonyms=("queen chess piece", "chess piece queen"),
        parts={"crown pearls": "pearls on the crown", "coloured orb": "a coloured orb",
               "felt base": "a green felt base",
               "gold ring": "a gold ring"},
        sizes=("tall", "short", "wide", "chunky", "slender"), styles=("cartoon", "crooked", "rustic"),
        colors={"black": 4, "white": 4, "brown": 2, "cream": 2},
        finishes={"wood": 3, "glossy": 3, "stone": 2,
                                                                           "painted": 2}),
    "top hat": Category(
        top_hat, kinds={"classic": ("top hat", "gentleman's hat"), "magician": ("magician's hat",),
                        "stovepipe": ("stovepipe hat", "tall top hat")},
        parts={"feather": "a feather", "card": "a playing card", "goggles": "goggles", "rose": "a flower"},
        sizes=_SIZES, styles=("cartoon", "crooked"), colors={"black": 6, "dark grey": 2, "brown": 1, "purple": 1},
        finishes={"painted": 4, "leather": 1, "glossy": 1, "plaid": 1}, second="band"),
    "dice": Category(
        dice, synonyms=("cube die",), kinds={"one": ("die",), "pair": ("pair of dice",)},
        parts={"crown": "a gold crown"},
        sizes=("tall", "wide"), styles=("crooked",), colors={"white": 4, "red": 3, "black": 1},
        finishes={"glossy": 4, "painted": 2, "glass-like": 1}, second="dots"),
    "umbrella": Category(
        umbrella, kinds={"hand": ("umbrella", "open umbrella"), "beach": ("beach umbrella", "parasol")},
        parts={"tip": "a pointed tip", "trim": "beads on the rim"}, sizes=("tall", "short", "wide", "narrow"),
        styles=("crooked", "cartoon"), finishes={"painted": 4, "striped": 2, "plaid": 1, "dotted": 1}),
    "traffic cone": Category(
        traffic_cone, synonyms=("road cone", "safety cone"), kinds={"square": (), "octagon": ()},
        parts={"lamp": "a warning lamp", "sign": "a sign"}, sizes=_SIZES, styles=("crooked", "cartoon"),
        colors={"orange": 6, "red": 1, "yellow": 1}, finishes={"painted": 4, "worn": 2, "glossy": 1}),
    "anchor": Category(
        anchor, synonyms=("ship's anchor",), kinds={"stock": (), "wooden": ("anchor with a wooden crossbar",)},
        parts={"rope": "a rope", "plaque": "a round plaque"}, sizes=_SIZES, styles=("rustic", "cartoon"),
        colors={"grey": 3, "dark grey": 3, "black": 2, "navy": 1}, finishes={"worn": 3, "brushed metal": 3,
                                                                             "painted": 2}),
    "gift box": Category(
        gift_box, synonyms=("present", "wrapped present"), kinds={"square": (), "round": ("round gift box",)},
        parts={"bow": "a bow", "tag": "a gift tag", "stars": "stars"}, sizes=_SIZES, styles=("crooked", "cartoon"),
        finishes={"painted": 3, "striped": 2, "dotted": 2, "plaid": 1, "glossy": 1}, second="ribbon"),
}
