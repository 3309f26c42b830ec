"""Plants: tree, pine, palm, cactus, mushroom, potted flower."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    Shape,
    cone,
    ellipsoid,
    extrude,
    frustum,
    lathe,
    loft,
    outward,
    rod,
    smooth_path,
    sphere,
    tube,
)


def _lumpy(shape: Shape, r: np.random.Generator, amount: float) -> Shape:
    """The shape with every vertex moved in or out by up to `amount` of its radius."""
    v = shape.vertices * (1 + amount * r.uniform(-1, 1, (len(shape.vertices), 1)))
    return Shape(v, shape.faces)


def leaf(length: float, width: float, droop: float, thickness: float, rise: float = 0.0) -> Shape:
    """A pointed blade from the origin along +x that bends down by `droop` at its tip; width along y."""
    t = np.linspace(0, 1, 7)
    half = np.maximum(width / 2 * np.sin(np.pi * np.clip(0.12 + 0.86 * t, 0, 1)) ** 0.8, 0.1 * width)
    x, z = length * t, rise * np.sin(np.pi * t * 0.6) - droop * t**2
    ring = np.array([[0, 1], [-1, 0], [0, -1], [1, 0]])  # (across, up): a flat diamond
    rings = np.stack([np.stack([np.full(4, x[i]), half[i] * ring[:, 0] * -1,
                                z[i] + thickness / 2 * ring[:, 1]], 1) for i in range(7)])
    return outward(loft(rings))


def tree(b: Builder, r: np.random.Generator, o: Options) -> None:
    trunk, radius = r.uniform(0.55, 0.95), r.uniform(0.07, 0.12) * o.thick
    crown, flat, count = r.uniform(0.42, 0.58), r.uniform(0.75, 1.05), int(r.integers(5, 9))
    turn, lump, fruit_seed = r.uniform(0, 360), r.uniform(0.02, 0.07), r.integers(1 << 30)
    spread = r.uniform(0.5, 0.75, 9)
    lean = r.uniform(-0.06, 0.06)
    foliage: list[tuple[np.ndarray, np.ndarray]] = []  # centre, semi-axes

    if o.kind == "poplar":
        foliage.append((np.array([lean, 0, trunk * 0.45 + crown * 1.45]),
                        np.array([crown * 0.62, crown * 0.62, crown * 1.55])))
    elif o.kind == "topiary":
        z = trunk + crown * 0.6
        foliage.append((np.array([0, 0, z]), np.full(3, crown * 0.85)))
        foliage.append((np.array([0, 0, z + crown * 1.05]), np.full(3, crown * 0.58)))
    else:
        centre = np.array([lean, 0, trunk + crown * flat * 0.75])
        foliage.append((centre, np.array([crown, crown, crown * flat]) * 0.95))
        for i in range(count):
            angle = np.radians(turn + 360 * i / count)
            off = np.array([np.cos(angle), np.sin(angle), 0]) * crown * 0.68
            off[2] = crown * (0.35 if i % 2 else -0.18) * flat
            foliage.append((centre + off, np.full(3, crown * spread[i])))
    b.add(tube([(0, 0, 0), (lean * 0.3, 0, trunk * 0.25), (lean, 0, trunk + crown * 0.4)],
               [radius * 1.5, radius, radius * 0.75], 10), paint="wood")
    for centre, axes in foliage:
        b.add(_lumpy(ellipsoid(*axes, n=14), r, lump), centre)
    if o.has("roots"):
        b.ring(rod((radius * 0.6, 0, radius * 1.1), (radius * 3.2, 0, radius * 0.35), radius * 0.55, radius * 0.35, 8),
               5, start=turn, paint="wood")
    if o.has("fruit"):
        q = np.random.default_rng(fruit_seed)
        for centre, axes in foliage[:8]:
            for _ in range(3 if len(foliage) > 2 else 8):
                d = q.normal(size=3)
                d /= np.linalg.norm(d)
                b.add(sphere(0.062, 8), centre + d * axes * 0.99, paint="accent")
    if o.has("grass base"):
        b.stand(lathe([(crown * 0.65, -0.04), (crown * 0.6, 0.02), (0, 0.1)], 18), (0, 0, -0.04), paint="green")


def pine(b: Builder, r: np.random.Generator, o: Options) -> None:
    layers, trunk, width = int(r.integers(3, 6)), r.uniform(0.26, 0.45), r.uniform(0.38, 0.56)
    step, sides, taper = r.uniform(0.24, 0.34), int(r.choice([8, 12, 18])), r.uniform(0.35, 0.5)
    bauble_turn = r.uniform(0, 360)
    radius = 0.075 * o.thick
    b.add(rod((0, 0, 0), (0, 0, trunk + step), radius, radius * 0.8), paint="wood")
    for i in range(layers):
        w = width * (1 - (1 - taper) * i / max(layers - 1, 1))
        z = trunk + i * step * (1 - 0.04 * i)
        h = step * 1.75
        b.add(lathe([(0, z + 0.03), (w, z), (w * 0.4, z + h * 0.46), (0 if i == layers - 1 else 0.02, z + h)], sides))
        if o.has("snow"):
            b.add(lathe([(w * 0.50, z + h * 0.385), (w * 0.53, z + h * 0.40), (w * 0.36, z + h * 0.54),
                         (0.03, z + h * 1.03)], sides), paint="white")
        if o.has("baubles"):
            b.ring(sphere(0.048, 8), 5, at=(w * 0.86, 0, z + 0.05), start=bauble_turn + 36 * i, paint="accent")
    if o.has("star"):
        t = np.radians(90 + 36 * np.arange(10))
        rad = np.where(np.arange(10) % 2 == 0, 0.15, 0.065)
        b.add(extrude(np.stack([rad * np.cos(t), rad * np.sin(t)], 1), 0.06), (0, 0, b.top() + 0.07), paint="yellow")
    if o.has("pot"):
        low = Builder(parts=list(b.parts))
        b.parts.clear()
        b.group(low, (0, 0, 0.2))
        b.stand(frustum(0.17, 0.23, 0.26), paint="orange")


def palm(b: Builder, r: np.random.Generator, o: Options) -> None:
    height, bend, count = r.uniform(0.9, 1.35), r.uniform(-0.3, 0.3), int(r.integers(7, 11))
    length, droop, width = r.uniform(0.58, 0.78), r.uniform(0.3, 0.55), r.uniform(0.24, 0.32)
    turn, side = r.uniform(0, 360), r.uniform(-0.15, 0.15)
    radius = 0.06 * o.thick
    path = smooth_path([(0, 0, 0), (bend * 0.2, side * 0.3, height * 0.4), (bend, side, height)], 12)
    rings = radius * (1.25 - 0.5 * np.linspace(0, 1, 12)) * np.where(np.arange(12) % 2 == 0, 1.12, 0.92)
    trunks = [(path, 1.0)]
    if o.kind == "double":
        trunks.append((path * (-0.9, -1.0, 0.72) - (0.04, 0, 0), 0.75))
    for way, scale in trunks:
        b.add(tube(way, rings * np.sqrt(scale), 10), paint="wood")
        top = way[-1]
        for i in range(count):
            frond = leaf(length * scale, width * scale, droop * scale * (0.75 + 0.5 * (i % 2)), 0.055, 0.16 * scale)
            b.add(frond, top, (0, 0, turn + 360 * i / count))
        b.add(sphere(radius * 1.3 * scale, 10), top)
        if o.has("coconuts"):
            for k in range(3):
                a = np.radians(turn + 120 * k)
                b.add(sphere(0.075 * scale, 10), top + np.array([np.cos(a), np.sin(a), 0]) * 0.09 * scale
                      - (0, 0, 0.08 * scale), paint="soil")
    if o.has("island"):
        b.stand(lathe([(0.34, 0), (0.31, 0.06), (0.2, 0.1), (0, 0.13)], 20), (0, 0, -0.03), paint="tan")


def cactus(b: Builder, r: np.random.Generator, o: Options) -> None:
    height, radius, ribs = r.uniform(0.9, 1.3), r.uniform(0.14, 0.2) * o.thick, int(r.integers(8, 13))
    arms = int(r.integers(1, 4))
    levels, reach, lift = r.uniform(0.3, 0.55, 3), r.uniform(0.2, 0.28, 3), r.uniform(0.25, 0.45, 3)
    pads = r.uniform(0.75, 1.0, 6)
    flowers = int(r.integers(1, 4))

    def column(rad: float, tall: float) -> Shape:
        t = np.linspace(0, np.pi / 2, 5)
        profile = [(rad * 0.85, 0), *[(rad * np.cos(a), tall - rad + rad * np.sin(a)) for a in t[:-1]], (0, tall)]
        s = lathe(profile, ribs * 2)
        v = s.vertices.copy()
        pinch = np.where(np.arange(ribs * 2) % 2 == 0, 1.0, 0.84)
        k = (len(v) - 2) // (ribs * 2)
        v[:k * ribs * 2, :2] *= np.tile(pinch, k)[:, None]
        return Shape(v, s.faces)

    lift0 = 0.2 if o.has("pot") else 0.0
    tips = []
    if o.kind == "barrel":
        size = radius * 2.1
        s = ellipsoid(size, size, size * 0.9, n=ribs * 2)
        v = s.vertices.copy()
        pinch = np.where(np.arange(ribs * 2) % 2 == 0, 1.0, 0.86)
        k = (len(v) - 2) // (ribs * 2)
        v[:k * ribs * 2, :2] *= np.tile(pinch, k)[:, None]
        b.add(Shape(v, s.faces), (0, 0, lift0 + size * 0.82))
        b.ring(cone(0.03, 0.1, 5), ribs, at=(size * 0.98, 0, lift0 + size * 0.82), rotate=(0, 90, 0), paint="light")
        for up, out in ((0.55, 0.8), (-0.4, 0.9)):
            b.ring(cone(0.03, 0.1, 5), ribs, at=(size * out, 0, lift0 + size * (0.82 + up * 0.9)),
                   rotate=(0, 90 - 35 * np.sign(up), 0), paint="light")
        tips.append((0, 0, lift0 + size * 1.68))
        pot = size * 0.72
    elif o.kind == "prickly pear":
        pot = 0.2
        spots = [(0, 0.28, 0.0), (-0.24, 0.66, 28), (0.22, 0.7, -24), (0.02, 0.92, -4), (-0.4, 0.95, 40),
                 (0.42, 1.0, -34)]
        for i, (x, z, tilt) in enumerate(spots):
            s = 0.3 * pads[i] * (1 if i == 0 else 0.8 if i < 4 else 0.62)
            b.add(ellipsoid(s * 0.72, 0.09 * o.thick, s, n=14), (x * 0.85, 0.03 * (i % 2), lift0 + z * 0.85),
                  (0, -tilt, 0))
            if i > 2:
                tips.append((x * 0.85 - np.sin(np.radians(tilt)) * s, 0.03 * (i % 2),
                             lift0 + z * 0.85 + np.cos(np.radians(tilt)) * s))
    else:
        pot = radius * 1.6
        b.add(column(radius, height), (0, 0, lift0))
        tips.append((0, 0, lift0 + height))
        for i in range(arms):
            sign = 1 if i % 2 == 0 else -1
            z = lift0 + height * levels[i]
            x = sign * (radius * 0.4 + reach[i])
            y = -0.02 if i < 2 else -radius
            arm = smooth_path([(0, y, z), (x * 0.7, y, z + 0.02), (x, y, z + 0.14), (x, y, z + 0.14 + lift[i])], 11)
            b.add(tube(arm, radius * 0.58, 12), paint="primary")
            b.add(sphere(radius * 0.58, 12), arm[-1])
            tips.append(tuple(arm[-1] + (0, 0, radius * 0.5)))
    if o.has("flowers"):
        for i, tip in enumerate(tips[:flowers + 1]):
            b.add(lathe([(0.02, -0.03), (0.09, 0.05), (0.05, 0.06), (0, 0.03)], 10), tip, paint="pink" if i else "red")
    if o.has("pot"):
        b.stand(lathe([(pot * 0.9, 0), (pot * 1.15, 0.2), (pot * 1.3, 0.2), (pot * 1.3, 0.28), (pot * 1.1, 0.28),
                       (0, 0.26)], 18), paint="orange")


def mushroom(b: Builder, r: np.random.Generator, o: Options) -> None:
    height, stem = r.uniform(0.45, 0.8), r.uniform(0.13, 0.19) * o.thick
    cap, dome = r.uniform(0.45, 0.62), r.uniform(0.32, 0.5)
    turn, seed, small = r.uniform(0, 360), r.integers(1 << 30), r.uniform(0.42, 0.6)

    def one(at: tuple[float, float], scale: float, which: int) -> None:
        m = Builder()
        w, h = cap, dome
        if o.kind == "pointed":
            w, h = cap * 0.72, dome * 1.9
        elif o.kind == "flat":
            w, h = cap * 1.1, dome * 0.55
        m.add(lathe([(stem * 1.25, 0), (stem, height * 0.3), (stem * 0.85, height + 0.06)], 16), paint="light")
        t = np.linspace(0, np.pi / 2, 7)
        outer = [(w * np.cos(a) ** 0.9, height + h * np.sin(a)) for a in t[:-1]]
        m.add(lathe([(0, height + 0.05), (w * 0.8, height - 0.07), *outer, (0, height + h)], 22), paint="primary")
        m.add(lathe([(0, height - 0.04), (w * 0.72, height - 0.085), (w * 0.78, height - 0.05), (0, height + 0.1)], 18),
              paint="tan")
        if o.has("spots"):
            q = np.random.default_rng(seed + which)
            for i in range(9):
                a, e = np.radians(turn + 360 * i / 8), np.radians((18, 48)[i % 2] + q.uniform(-5, 5))
                if i == 8:
                    e = np.pi / 2
                p = (w * np.cos(e) ** 0.9 * np.cos(a), w * np.cos(e) ** 0.9 * np.sin(a), height + h * np.sin(e))
                s = 0.085 * q.uniform(0.75, 1.2)
                tilt = np.degrees(np.arctan2(np.cos(e) / w, np.sin(e) / h))
                m.add(ellipsoid(s, s, 0.035, n=10), p, (0, tilt, np.degrees(a)), paint="white")
        if o.has("skirt"):
            m.add(lathe([(stem * 1.55, height * 0.6), (stem * 1.6, height * 0.64), (stem * 0.8, height * 0.8)], 16),
                  paint="light")
        b.group(m, (*at, 0), scale=scale)

    one((0, 0), 1.0, 0)
    if o.has("baby mushrooms"):
        a = np.radians(turn)
        reach = cap * 0.95
        one((reach * np.cos(a), reach * np.sin(a)), small, 1)
        one((-reach * 0.9 * np.cos(a + 0.6), -reach * 0.9 * np.sin(a + 0.6)), small * 0.75, 2)
        b.add(ellipsoid(reach * 0.95, reach * 0.95, 0.06), (0, 0, 0.02), paint="green")


def potted_flower(b: Builder, r: np.random.Generator, o: Options) -> None:
    pot_h, pot_r, flare = r.uniform(0.32, 0.46), r.uniform(0.22, 0.29), r.uniform(0.62, 0.85)
    stem, petals, head = r.uniform(0.5, 0.75), int(r.integers(6, 11)), r.uniform(0.34, 0.42)
    bend, turn, tilt = r.uniform(-0.12, 0.12), r.uniform(0, 360), r.uniform(28, 55)
    top = np.array([bend, -0.04, pot_h + stem])
    b.stand(lathe([(pot_r * flare, 0), (pot_r * 0.97, pot_h * 0.75), (pot_r * 1.1, pot_h * 0.75), (pot_r * 1.1, pot_h),
                   (pot_r * 0.92, pot_h), (0, pot_h - 0.06)], 20), paint="primary")
    b.add(ellipsoid(pot_r * 0.93, pot_r * 0.93, 0.05, n=14), (0, 0, pot_h - 0.03), paint="soil")
    b.add(tube(smooth_path([(0, 0, pot_h - 0.05), (bend * 0.2, 0, pot_h + stem * 0.5), top], 8), 0.036 * o.thick, 8),
          paint="green")
    for k in range(2 + 2 * o.has("extra leaves")):
        b.add(leaf(0.36, 0.2, 0.08, 0.045, 0.16), (0, 0, pot_h + 0.05 + 0.07 * k),
              (0, -22, turn + 180 * k + 45 * (k // 2)),
              paint="green")
    f = Builder()  # a bloom that looks along +z
    if o.kind == "tulip":
        f.add(lathe([(0, -0.03), (head * 0.42, 0.06), (head * 0.56, head * 0.55), (head * 0.4, head * 0.85),
                     (0, head * 0.65)], 16))
        f.ring(ellipsoid(head * 0.3, head * 0.12, head * 0.62, n=12), 6, at=(head * 0.42, 0, head * 0.55),
               rotate=(0, 0, 90))
        tilt = tilt * 0.25
    elif o.kind == "rose":
        f.add(ellipsoid(head * 0.5, head * 0.5, head * 0.42), (0, 0, head * 0.3))
        for ring, (n, rad, lean) in enumerate([(5, 0.5, 48), (5, 0.34, 25), (3, 0.16, 8)]):
            f.ring(ellipsoid(head * 0.3, 0.035, head * 0.36, n=10), n, at=(0, head * rad, head * (0.36 + 0.14 * ring)),
                   rotate=(-lean, 0, 0), start=turn + 36 * ring)
        tilt = tilt * 0.5
    else:
        wide = 2.3 / petals
        f.ring(ellipsoid(head * 0.5, head * wide, 0.045, n=12), petals, at=(head * 0.62, 0, 0.02), rotate=(0, -12, 0),
               start=turn)
        f.add(ellipsoid(head * 0.34, head * 0.34, 0.1), (0, 0, 0.03),
              paint="soil" if o.kind == "sunflower" else "yellow")
    b.group(f, top, (tilt, 0, 0))
    if o.has("saucer"):
        b.add(lathe([(pot_r * 0.8, -0.05), (pot_r * 1.3, 0.02), (pot_r * 1.25, 0.05), (0, 0.03)], 20), paint="primary")
    if o.has("second bloom"):
        way = smooth_path([(0, 0, pot_h), (-np.sign(bend + 1e-9) * 0.2, 0, pot_h + stem * 0.3),
                           (-np.sign(bend + 1e-9) * 0.34, -0.05, pot_h + stem * 0.55)], 7)
        b.add(tube(way, 0.033 * o.thick, 8), paint="green")
        b.group(f, way[-1], (tilt, 0, 0), 0.65)


_GREENS = {"green": 6, "dark green": 3, "lime": 1}

CATEGORIES = {
    "tree": Category(
        tree, synonyms=("leafy tree",),
        kinds={"oak": ("oak tree", "round tree"), "poplar": ("poplar tree", "columnar tree"),
               "topiary": ("topiary tree", "ball-shaped tree")},
        parts={"fruit": "fruit", "roots": "visible roots", "grass base": "a patch of grass"},
        sizes=("tall", "short", "wide", "chunky", "slender", "tiny"), styles=("cartoon", "crooked"),
        colors={**_GREENS, "orange": 1.5, "yellow": 1, "pink": 1}, finishes={"painted": 3, "worn": 1}),
    "pine": Category(
        pine, synonyms=("pine tree", "fir tree", "conifer"),
        parts={"snow": "snow on the branches", "baubles": "baubles", "star": "a star on top", "pot": "a pot"},
        sizes=("tall", "short", "wide", "chunky", "slender", "tiny"), styles=("cartoon", "crooked"),
        colors=_GREENS, finishes={"painted": 3, "worn": 1}),
    "palm": Category(
        palm, synonyms=("palm tree", "coconut palm"), kinds={"single": (), "double": ("double palm tree",)},
        parts={"coconuts": "coconuts", "island": "a little sand island"},
        sizes=("tall", "short", "wide", "chunky", "tiny"), styles=("cartoon",), colors=_GREENS,
        finishes={"painted": 3, "glossy": 1}),
    "cactus": Category(
        cactus, kinds={"saguaro": ("saguaro cactus", "desert cactus"), "barrel": ("barrel cactus", "round cactus"),
                       "prickly pear": ("prickly pear cactus",)},
        parts={"flowers": "flowers", "pot": "a pot"}, sizes=("tall", "short", "wide", "chunky", "tiny"),
        styles=("cartoon", "crooked"), colors=_GREENS, finishes={"painted": 3, "striped": 1}),
    "mushroom": Category(
        mushroom, synonyms=("toadstool",), kinds={"round": (), "pointed": ("pointed mushroom",),
                                                   "flat": ("flat mushroom", "wide-capped mushroom")},
        parts={"spots": "white spots", "skirt": "a skirt on the stem", "baby mushrooms": "baby mushrooms"},
        sizes=("tall", "short", "wide", "chunky", "tiny"), styles=("cartoon", "crooked"),
        colors={"red": 4, "brown": 3, "orange": 1, "tan": 1}, finishes={"painted": 3, "glossy": 2}),
    "potted flower": Category(
        potted_flower, synonyms=("flower in a pot", "flower pot with a flower", "houseplant flower"),
        kinds={"daisy": ("potted daisy",), "tulip": ("potted tulip",), "rose": ("potted rose",),
               "sunflower": ("potted sunflower",)},
        parts={"saucer": "a saucer", "second bloom": "a second bloom", "extra leaves": "extra leaves"},
        sizes=("tall", "short", "wide", "chunky", "tiny"), styles=("cartoon", "crooked"),
        colors={"red": 3, "pink": 3, "yellow": 3, "purple": 1, "white": 1}, finishes={"painted": 3, "glossy": 1}),
}
