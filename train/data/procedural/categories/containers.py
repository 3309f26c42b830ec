"""Things that hold things: crate, barrel, treasure chest, suitcase, backpack, watering can, trophy."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    box,
    capsule,
    cylinder,
    extrude,
    lathe,
    rod,
    rounded_box,
    smooth_path,
    sphere,
    torus,
    tube,
)


def crate(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, z = r.uniform(0.8, 1.15), r.uniform(0.75, 1.0), r.uniform(0.6, 0.95)
    slats, frame = int(r.integers(3, 6)), r.uniform(0.06, 0.085) * o.thick
    slope = r.integers(2)
    tilt = r.uniform(8, 20)
    wall = 0.06
    if o.kind == "open":
        for side in (-1, 1):
            for i in range(slats):
                h = z / slats
                at = h * (i + 0.5)
                b.add(box(x, wall, h * 0.8), (0, side * (y / 2 - wall / 2), at))
                b.add(box(wall, y, h * 0.8), (side * (x / 2 - wall / 2), 0, at))
        b.add(box(x, y, wall), (0, 0, wall / 2))
        b.four(box(frame, frame, z + 0.03), (x / 2 - frame / 2 + 0.02, y / 2 - frame / 2 + 0.02, z / 2),
               paint="secondary")
    else:
        b.add(box(x, y, z), (0, 0, z / 2))
        e = frame * 0.5
        b.four(box(frame, frame, z + 0.04), (x / 2 - e * 0.6, y / 2 - e * 0.6, z / 2), paint="secondary")
        for top in (0, z):
            b.both(box(frame, y + 0.04, frame), (x / 2 - e * 0.6, 0, top), paint="secondary")
            for side in (-1, 1):
                b.add(box(x + 0.04, frame, frame), (0, side * (y / 2 - e * 0.6), top), paint="secondary")
        for i in range(1, slats):
            h = z * i / slats
            for side in (-1, 1):
                b.add(box(x * 0.9, 0.03, 0.028), (0, side * (y / 2), h), paint="dark")
                b.add(box(0.03, y * 0.9, 0.028), (side * (x / 2), 0, h), paint="dark")
    if o.has("lid ajar"):
        b.add(box(x * 1.06, y * 1.06, 0.07), (0.04, -0.03, z + frame * 0.5 + 0.02), (0, 0, tilt))
    if o.has("cross braces"):
        lean = np.degrees(np.arctan2(z, x)) * (1 if slope else -1)
        for side in (-1, 1):
            b.add(box(np.hypot(x, z) * 0.95, 0.05, frame * 0.8), (0, side * y / 2, z / 2), (0, lean, 0),
                  paint="primary")
    if o.has("rope handles"):
        loop = smooth_path([(0, -0.15, 0.06), (0.12, -0.1, -0.06), (0.12, 0.1, -0.06), (0, 0.15, 0.06)], 9)
        b.both(tube(loop, 0.032, 8), (x / 2, 0, z * 0.62), paint="tan")
    if o.has("metal corners"):
        c = frame * 1.45
        for h in (0, z):
            b.four(box(c, c, c), (x / 2 - frame * 0.2, y / 2 - frame * 0.2, h), paint="metal")


def barrel(b: Builder, r: np.random.Generator, o: Options) -> None:
    radius, height, bulge = r.uniform(0.32, 0.4), r.uniform(0.9, 1.15), r.uniform(1.12, 1.32)
    staves, hoops, hoop = int(r.choice([12, 16, 20])), int(r.integers(2, 5)), r.uniform(0.05, 0.075) * o.thick
    t = np.linspace(0, 1, 11)
    metal_drum = o.kind == "drum"
    if metal_drum:
        profile = radius * np.ones(11) * 1.08
    else:
        profile = radius * (1 + (bulge - 1) * np.sin(np.pi * t))
    body = Builder()
    inner = radius * 0.86
    floor = height - (0.25 if o.has("open top") else 0.05)
    body.add(lathe([*zip(profile, t * height, strict=True), (inner, height), (inner, floor), (0, floor)],
                   24 if metal_drum else staves))
    if metal_drum:
        for k in (0.02, 0.35, 0.66, 0.98):
            body.add(torus(radius * 1.08, 0.035 * o.thick, n=24, m=8), (0, 0, k * height))
        body.add(cylinder(0.06, 0.07, 10), (radius * 0.55, 0, floor + 0.02), paint="metal")
    else:
        spots = np.linspace(0.09, 0.91, hoops + 1) if hoops < 4 else np.array([0.06, 0.27, 0.73, 0.94])
        for k in spots:
            w = float(np.interp(k, t, profile))
            body.add(torus(w, 0.03, n=24, m=6), (0, 0, k * height), scale=(1, 1, hoop / 0.05), paint="secondary")
    if o.has("tap"):
        body.add(rod((0, -profile[2], height * 0.18), (0, -profile[2] - 0.17, height * 0.18), 0.045), paint="metal")
        body.add(rod((0, -profile[2] - 0.13, height * 0.08), (0, -profile[2] - 0.13, height * 0.25), 0.038),
                 paint="metal")
        body.add(box(0.15, 0.05, 0.05), (0, -profile[2] - 0.13, height * 0.27), paint="metal")
    if o.has("label"):
        mid = profile[5] + 0.012
        arc = np.radians(np.linspace(-125, -55, 9))
        outer = np.stack([mid * np.cos(arc), mid * np.sin(arc)], 1)
        body.add(extrude(np.concatenate([outer, outer[::-1] * 0.8]), height * 0.28, axis="z"), (0, 0, height * 0.5),
                 paint="accent")
    if o.kind == "lying":
        big = float(profile.max())
        b.group(body, (0, height / 2, big + 0.06), (90, 0, 0))
        for y in (-0.3, 0.3):
            b.add(box(big * 1.5, 0.12, 0.22), (0, y * height, 0.11), paint="wood")
    else:
        b.group(body)


def treasure_chest(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, z = r.uniform(0.95, 1.25), r.uniform(0.6, 0.78), r.uniform(0.38, 0.5)
    arch, bands, band = r.uniform(0.62, 1.0), int(r.integers(2, 4)), r.uniform(0.07, 0.1) * o.thick
    gape, coins = r.uniform(38, 62), r.integers(1 << 30)
    n = 9
    t = np.linspace(0, np.pi, n)
    dome = np.stack([y / 2 * np.cos(t), y / 2 * arch * np.sin(t)], 1)
    opened = o.kind == "open"
    b.add(box(x, y, z), (0, 0, z / 2))
    lid = Builder()  # hinge along x at y = y/2, z = 0

    def slab(grow: float, wide: float, at: float, paint: str) -> None:
        p = dome * (1 + grow / (y / 2)) + (-y / 2, 0)
        lid.add(extrude(np.concatenate([p, [(-y - grow, -0.02), (grow, -0.02)]]), wide, axis="x"), (at, 0, 0),
                paint=paint)

    slab(0.0, x, 0, "primary")
    places = np.linspace(-x * 0.42, x * 0.42, bands)
    for k in places:
        slab(0.025, band, k, "secondary")
        b.add(box(band, y + 0.05, z + 0.02), (k, 0, z / 2 + 0.005), paint="secondary")
    b.add(box(x + 0.04, y + 0.04, 0.06), (0, 0, z - 0.03), paint="secondary")
    if opened:
        rim = Builder()
        rim.group(lid, (0, y / 2, z), (-gape, 0, 0))
        b.group(rim)
        b.add(box(x * 0.88, y * 0.84, 0.08), (0, 0, z), paint="dark")
        q = np.random.default_rng(coins)
        b.add(lathe([(0.5, 0), (0.38, 0.6), (0, 1)], 14), (0, 0, z), scale=(x * 0.82, y * 0.72, 0.2), paint="gold")
        for _ in range(9):
            p = q.uniform(-0.32, 0.32, 2) * (x, y * 0.85)
            b.add(cylinder(0.075, 0.03, 10), (*p, z + 0.11), tuple(q.uniform(-50, 50, 3)), paint="gold")
        for paint in ("red", "blue"):
            p = q.uniform(-0.25, 0.25, 2) * (x, y)
            b.add(sphere(0.07, 6), (*p, z + 0.16), paint=paint)
    else:
        b.group(lid, (0, y / 2, z))
    if o.has("lock"):
        b.add(rounded_box(0.17, 0.08, 0.2, 0.03), (0, -y / 2 - 0.02, z - 0.04), paint="gold")
        b.add(cylinder(0.035, 0.1, 8), (0, -y / 2 - 0.03, z - 0.04), (90, 0, 0), paint="dark")
    if o.has("handles"):
        b.both(torus(0.1, 0.034, n=16, m=8), (x / 2 + 0.02, 0, z * 0.55), (90, 0, 90), paint="metal")
    if o.has("feet"):
        low = b.parts[:]
        b.parts.clear()
        for v, f, p in low:
            b.parts.append((v + (0, 0, 0.09), f, p))
        b.four(sphere(0.09, 10), (x * 0.42, y * 0.4, 0.075), paint="secondary")


def suitcase(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, z, y = r.uniform(0.95, 1.2), r.uniform(0.68, 0.82), r.uniform(0.26, 0.36)
    soft, ribs, reach = r.uniform(0.05, 0.12), int(r.integers(4, 7)), r.uniform(0.25, 0.42)
    trolley = o.kind == "trolley"
    if trolley:
        x, z = z * 0.95, x
    base = 0.1 if trolley else 0.0
    b.stand(rounded_box(x, y, z, soft), (0, 0, base))
    mid = base + z / 2
    if trolley:
        for k in np.linspace(-0.36, 0.36, ribs) * x:
            b.both(box(0.035, y + 0.035, z * 0.86, 0.01), (k, 0, mid))
        b.four(cylinder(0.075, 0.07, 12), (x * 0.36, y * 0.32, 0.075), (0, 90, 0), paint="rubber")
        b.four(box(0.1, 0.1, 0.06), (x * 0.36, y * 0.32, base), paint="dark")
        b.both(rod((x * 0.2, y * 0.3, base + z * 0.9), (x * 0.2, y * 0.3, base + z + reach), 0.028 * o.thick),
               paint="metal")
        b.add(rounded_box(x * 0.4 + 0.14, 0.08, 0.08, 0.03), (0, y * 0.3, base + z + reach), paint="dark")
    else:
        b.both(box(0.06, y + 0.04, z * 1.02, 0.01), (x * 0.3, 0, mid), paint="secondary")
        grip = smooth_path([(-0.17, 0, base + z - 0.02), (-0.14, 0, base + z + 0.12), (0.14, 0, base + z + 0.12),
                            (0.17, 0, base + z - 0.02)], 10)
        b.add(tube(grip, 0.036 * o.thick, 8), paint="secondary")
        b.both(box(0.09, 0.06, 0.11, 0.01), (x * 0.3, -y / 2, base + z * 0.9), paint="metal")
        b.add(box(x * 0.99, 0.035, z * 0.99, 0.01), (0, 0, mid), paint="dark")
    if o.has("corner guards"):
        s = 0.17
        for h in (base + s * 0.42, base + z - s * 0.42):
            b.four(rounded_box(s, s * 0.8, s, 0.06), (x / 2 - s * 0.4, y / 2 - s * 0.3, h), paint="secondary")
    if o.has("stickers"):
        b.add(cylinder(0.1, 0.05, 14), (x * 0.12, -y / 2 - 0.01, mid + z * 0.16), (90, 0, 0), paint="accent")
        b.add(box(0.2, 0.05, 0.13), (-x * 0.12, -y / 2 - 0.01, mid - z * 0.17), (0, 14, 0), paint="white")
    if o.has("name tag"):
        b.add(box(0.1, 0.045, 0.2, 0.01), (0.14, -0.05, base + z + 0.01), (0, 20, 0), paint="yellow")


def backpack(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, z = r.uniform(0.62, 0.76), r.uniform(0.3, 0.38), r.uniform(0.85, 1.02)
    dome, pocket = r.uniform(0.12, 0.26), r.uniform(0.34, 0.46)
    t = np.linspace(0, np.pi, 11)
    w = x / 2
    outline = np.concatenate([[(-w * 0.92, 0), (w * 0.92, 0), (w, 0.12)],
                              np.stack([w * np.cos(t), z - dome + dome * np.sin(t)], 1), [(-w, 0.12)]])
    b.add(extrude(outline, y))
    b.add(extrude((outline - (0, z / 2)) * 0.9 + (0, z / 2), y + 0.1))
    if o.kind == "hiking":
        b.add(rounded_box(x * 1.04, y * 1.25, 0.2, 0.08), (0, -0.03, z + 0.02))
        b.add(capsule(0.12, x * 1.3), (0, -0.02, z + 0.2), (0, 90, 0), paint="accent")
        b.both(box(0.05, y * 1.4, 0.05), (x * 0.26, -0.02, z + 0.1), paint="dark")
    else:
        flap = np.linspace(0, np.pi, 9)
        b.add(extrude(np.concatenate([[(-w * 0.86, z * 0.66), (w * 0.86, z * 0.66)],
                                      np.stack([w * 0.86 * np.cos(flap), z * 0.7 + (z * 0.27) * np.sin(flap)], 1)]),
                      y + 0.18))
    b.add(rounded_box(x * 0.74, 0.2, pocket, 0.07), (0, -y / 2 - 0.08, pocket / 2 + 0.06))
    b.add(box(x * 0.56, 0.05, 0.042), (0, -y / 2 - 0.175, pocket * 0.82), paint="secondary")
    if o.has("buckles"):
        b.both(box(0.07, 0.09, z * 0.26), (x * 0.2, -y / 2 - 0.11, z * 0.58), paint="secondary")
        b.both(box(0.11, 0.06, 0.09), (x * 0.2, -y / 2 - 0.16, z * 0.53), paint="metal")
    if o.has("side pockets"):
        b.both(rounded_box(0.16, y * 0.75, z * 0.36, 0.05), (x / 2 + 0.03, 0, z * 0.22))
        b.both(rounded_box(0.17, y * 0.77, 0.06, 0.02), (x / 2 + 0.03, 0, z * 0.38), paint="secondary")
    b.add(tube(smooth_path([(-0.12, 0.05, z - 0.04), (-0.09, 0.05, z + 0.1), (0.09, 0.05, z + 0.1),
                            (0.12, 0.05, z - 0.04)], 9), 0.034 * o.thick, 8), paint="secondary")
    strap = smooth_path([(x * 0.22, y / 2, z * 0.88), (x * 0.3, y / 2 + 0.19, z * 0.72),
                         (x * 0.34, y / 2 + 0.16, z * 0.35),
                         (x * 0.36, y / 2 - 0.02, z * 0.08)], 10)
    b.both(tube(strap, 0.055 * o.thick, 8, flat=0.7), paint="secondary")
    if o.has("patch"):
        b.add(cylinder(0.085, 0.05, 14), (0, -y / 2 - 0.18, pocket * 0.45), (90, 0, 0), paint="accent")


def watering_can(b: Builder, r: np.random.Generator, o: Options) -> None:
    radius, height, taper = r.uniform(0.28, 0.36), r.uniform(0.5, 0.66), r.uniform(0.8, 1.0)
    reach, up = r.uniform(0.42, 0.55), r.uniform(0.02, 0.14)
    top = radius * taper
    b.add(lathe([(radius, 0), (top, height), (top * 0.85, height), (top * 0.85, height - 0.1), (0, height - 0.1)], 22))
    b.add(torus(radius * 1.0, 0.035, n=22, m=8), (0, 0, 0.04))
    b.add(torus(top, 0.035, n=22, m=8), (0, 0, height))
    tip = np.array([radius + reach, 0, height + up])
    start = np.array([radius * 0.8, 0, height * 0.22])
    b.add(rod(start, tip, 0.085 * o.thick, 0.05 * o.thick))
    if o.has("rose head"):
        lean = np.degrees(np.arctan2(tip[0] - start[0], tip[2] - start[2]))
        b.add(lathe([(0.045, -0.08), (0.14, 0.05), (0.14, 0.085), (0, 0.1)], 16), tip, (0, lean, 0), paint="secondary")
    loop = smooth_path([(-radius * 0.8, 0, height * 0.2), (-radius - 0.26, 0, height * 0.5),
                        (-radius - 0.12, 0, height + 0.14), (top * 0.55, 0, height + 0.2), (top * 0.8, 0, height)], 16)
    if o.kind == "tall handle":
        loop = smooth_path([(-top, 0, height - 0.03), (-top * 0.8, 0, height + 0.3), (top * 0.8, 0, height + 0.3),
                            (top, 0, height - 0.03)], 14)
        back = smooth_path([(-top * 0.9, 0, height * 0.8), (-radius - 0.2, 0, height * 0.6),
                            (-radius * 0.9, 0, height * 0.2)], 10)
        b.add(tube(back, 0.042 * o.thick, 8), paint="secondary")
    b.add(tube(loop, 0.042 * o.thick, 8), paint="secondary")
    if o.has("band"):
        b.add(lathe([(radius * 1.02, height * 0.38), (radius * (0.5 + taper / 2) * 1.04, height * 0.52)], 22),
              paint="accent")


def trophy(b: Builder, r: np.random.Generator, o: Options) -> None:
    cup, tall, stem = r.uniform(0.3, 0.38), r.uniform(0.48, 0.65), r.uniform(0.16, 0.32)
    base, lip = r.uniform(0.24, 0.3), r.uniform(1.02, 1.15)
    z = 0.2 + stem
    b.stand(box(base * 2, base * 2, 0.16, 0.02) if o.kind == "square" else cylinder(base, 0.16), paint="dark")
    b.add(lathe([(base * 0.72, 0.14), (0.07 * o.thick, 0.24), (0.06 * o.thick, z - 0.05), (0.12, z),
                 (cup * 0.8, z + tall * 0.3), (cup, z + tall * 0.75), (cup * lip, z + tall),
                 (cup * lip * 0.86, z + tall), (cup * 0.8, z + tall * 0.72), (0, z + tall * 0.6)], 22))
    b.add(sphere(0.085 * o.thick, 12), (0, 0, 0.2 + stem * 0.45))
    if o.has("handles"):
        ear = smooth_path([(cup * 0.9, 0, z + tall * 0.86), (cup + 0.26, 0, z + tall * 0.92),
                           (cup + 0.2, 0, z + tall * 0.4), (cup * 0.62, 0, z + tall * 0.22)], 12)
        b.both(tube(ear, 0.042 * o.thick, 8))
    if o.has("star"):
        t = np.radians(90 + 36 * np.arange(10))
        q = np.where(np.arange(10) % 2 == 0, 0.15, 0.065)
        b.add(extrude(np.stack([q * np.cos(t), q * np.sin(t)], 1), 0.12), (0, -cup * 0.93, z + tall * 0.6),
              paint="accent")
    if o.has("plaque"):
        b.add(box(base * 1.1, 0.05, 0.1), (0, -base, 0.08), paint="gold")


_SIZES = ("tall", "short", "wide", "chunky")

CATEGORIES = {
    "crate": Category(
        crate, synonyms=("packing crate", "shipping crate"),
        kinds={"closed": (), "open": ("open crate", "slatted crate")},
        parts={"cross braces": "cross braces", "lid ajar": "a shifted lid", "rope handles": "rope handles",
               "metal corners": "metal corners"},
        sizes=(*_SIZES, "long"), styles=("rustic", "cartoon", "crooked"), colors={"brown": 4, "tan": 3},
        finishes={"wood": 6, "worn": 2, "painted": 1}, second="frame"),
    "barrel": Category(
        barrel, synonyms=("cask",), kinds={"upright": (), "lying": ("lying barrel", "wine cask on a rack"),
                                           "drum": ("oil drum", "steel drum")},
        parts={"tap": "a tap", "open top": "an open top", "label": "a label"},
        sizes=_SIZES, styles=("rustic", "cartoon", "crooked"), colors={"brown": 4, "tan": 2, "blue": 1},
        finishes={"wood": 5, "worn": 2, "painted": 2}, second="hoops"),
    "treasure chest": Category(
        treasure_chest, synonyms=("pirate chest", "loot chest"),
        kinds={"closed": (), "open": ("open treasure chest", "treasure chest full of gold")},
        parts={"lock": "a lock", "handles": "side handles", "feet": "round feet"},
        sizes=_SIZES, styles=("rustic", "cartoon", "crooked"), colors={"brown": 5, "maroon": 1, "tan": 1},
        finishes={"wood": 5, "worn": 2, "painted": 1}, second="bands"),
    "suitcase": Category(
        suitcase, synonyms=("travel case",), kinds={"classic": ("vintage suitcase",),
                                                     "trolley": ("trolley suitcase", "rolling suitcase")},
        parts={"corner guards": "corner guards", "stickers": "stickers", "name tag": "a name tag"},
        sizes=_SIZES, styles=("rustic", "cartoon", "crooked"), finishes={"leather": 4, "glossy": 2, "painted": 2},
        second="trim"),
    "backpack": Category(
        backpack, synonyms=("rucksack", "school bag"), kinds={"school": ("school backpack",),
                                                              "hiking": ("hiking backpack",)},
        parts={"buckles": "buckles", "side pockets": "side pockets", "patch": "a round patch"},
        sizes=_SIZES, styles=("rustic", "cartoon"), finishes={"painted": 3, "leather": 2, "plaid": 1, "dotted": 1},
        second="straps"),
    "watering can": Category(
        watering_can, synonyms=("garden watering can",), kinds={"round handle": (), "tall handle": ()},
        parts={"rose head": "a sprinkler head", "band": "a painted band"}, sizes=_SIZES,
        styles=("rustic", "cartoon", "crooked"), finishes={"painted": 4, "brushed metal": 2, "glossy": 2},
        second="handle"),
    "trophy": Category(
        trophy, synonyms=("trophy cup", "winner's cup"), kinds={"round": (), "square": ()},
        parts={"handles": "handles", "star": "a star", "plaque": "a plaque"}, sizes=_SIZES,
        styles=("cartoon", "crooked", "rustic"), colors={"gold": 5, "silver": 3, "brown": 1},
        finishes={"glossy": 4, "brushed metal": 3}),
}
