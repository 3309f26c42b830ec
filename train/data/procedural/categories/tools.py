"""Hand tools and arms: hammer, axe, sword, shield, key, wrench."""

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


def _mirror(half) -> np.ndarray:
    """A closed outline from its right half (x >= 0) listed from bottom to top."""
    p = np.asarray(half, dtype=float)
    left = p[::-1] * (-1, 1)
    return np.concatenate([p, left[left[:, 0] < -1e-9]])


def _haft(b: Builder, length: float, radius: float, paint: str, wrapped: bool, pommel: bool) -> None:
    """A handle standing on z=0 with an optional wrap and end knob."""
    b.add(lathe([(radius * 1.15, 0), (radius * 0.95, length * 0.3), (radius, length)], 12), paint=paint)
    if wrapped:
        for i in range(5):
            b.add(torus(radius * 0.95, radius * 0.42, n=14, m=6), (0, 0, length * (0.07 + 0.07 * i)), paint="dark")
    if pommel:
        b.add(sphere(radius * 1.75, 12), (0, 0, radius * 0.8), paint="accent")


def hammer(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, radius = r.uniform(0.95, 1.25), r.uniform(0.05, 0.065) * o.thick
    head, thick = r.uniform(0.5, 0.68), r.uniform(0.12, 0.16) * o.thick
    bevel, sides = r.uniform(0.1, 0.25), int(r.choice([8, 16]))
    _haft(b, length, radius, "secondary", o.has("grip wrap"), o.has("pommel"))
    z = length - thick * 0.2
    if o.kind == "mallet":
        b.add(cylinder(thick * 1.75, head * 1.15, 20), (0, 0, z), (0, 90, 0))
        if o.has("bands"):
            b.both(cylinder(thick * 1.84, 0.07), (head * 0.4, 0, z), (0, 90, 0), paint="metal")
    elif o.kind == "war":
        b.add(rounded_box(head * 1.2, thick * 2.4, thick * 2.4, thick * 2.4 * bevel, 1), (0, 0, z))
        if o.has("bands"):
            b.both(box(0.06, thick * 2.5, thick * 2.5), (head * 0.36, 0, z), paint="accent")
        b.add(cone(thick * 0.7, thick * 1.8, 8), (0, 0, z + thick * 1.1), paint="metal")
    elif o.kind == "sledge":
        b.add(cylinder(thick * 1.3, head, sides), (0, 0, z), (0, 90, 0))
        b.both(frustum(thick * 1.3, thick * 1.05, 0.08, sides), (head / 2 + 0.035, 0, z), (0, 90, 0))
        if o.has("bands"):
            b.both(cylinder(thick * 1.36, 0.055, sides), (head * 0.36, 0, z), (0, 90, 0), paint="dark")
    else:
        b.add(box(thick * 1.5, thick * 1.6, thick * 1.7, 0.02), (0, 0, z))
        b.add(rod((-0.02, 0, z), (-head * 0.5, 0, z), thick * 0.62), paint="primary")
        b.add(cylinder(thick * 1.05, thick * 0.9), (-head * 0.55, 0, z), (0, 90, 0))
        for y in (-1, 1):
            claw = smooth_path([(0, y * 0.03, z + 0.02), (head * 0.3, y * thick * 0.35, z + 0.05),
                                (head * 0.58, y * thick * 0.62, z - thick * 0.95)], 9)
            b.add(tube(claw, np.linspace(thick * 0.68, thick * 0.28, 9), 8))
        if o.has("bands"):
            b.add(cylinder(thick * 1.12, 0.06), (-head * 0.62, 0, z), (0, 90, 0), paint="accent")
        b.add(lathe([(radius * 1.35, 0), (radius * 1.2, length * 0.45), (radius * 0.9, length * 0.47)], 12))


def axe(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, radius = r.uniform(1.0, 1.3), r.uniform(0.045, 0.06) * o.thick
    reach, tall, hook = r.uniform(0.4, 0.52), r.uniform(0.27, 0.36), r.uniform(0.02, 0.14)
    thick, curve = r.uniform(0.09, 0.13) * o.thick, r.uniform(0.06, 0.12)
    _haft(b, length, radius, "wood" if not o.futuristic else "metal", o.has("grip wrap"), o.has("pommel"))
    z = length - tall * 0.55
    t = np.linspace(-1, 1, 8)
    edge = [(reach + curve * (1 - u * u), tall * u - (hook if u < -0.9 else 0)) for u in t]
    blade = [(-radius * 1.5, -tall * 0.42), (reach * 0.4, -tall * 0.4), *edge, (reach * 0.4, tall * 0.42),
             (-radius * 1.5, tall * 0.42)]
    rim = [(x * 1.0 - 0.075, zz * 0.97) for x, zz in edge][::-1]
    sides = (1, -1) if o.kind == "double" else (1,)
    for s in sides:
        b.add(extrude([(s * x, z + zz) for x, zz in blade], thick))
        b.add(extrude([(s * (x + 0.035), z + zz * 1.03) for x, zz in edge] + [(s * x, z + zz) for x, zz in rim],
                      thick * 0.55), paint="metal")
    b.add(rounded_box(radius * 3.4, thick * 1.45, tall * 1.1, 0.02), (0, 0, z))
    if o.kind != "double":
        b.add(box(radius * 3.4, thick * 1.2, tall * 0.7, 0.02), (-radius * 2.2, 0, z))
    if o.has("spike"):
        b.add(cone(radius * 1.15, 0.26, 8), (0, 0, length + 0.1), paint="metal")
    if o.has("emblem"):
        b.add(cylinder(0.085, thick * 1.35, 14), (reach * 0.55, 0, z), (90, 0, 0), paint="accent")


def sword(b: Builder, r: np.random.Generator, o: Options) -> None:
    blade, width = r.uniform(0.95, 1.3), r.uniform(0.085, 0.125) * o.thick
    grip, guard, droop = r.uniform(0.25, 0.36), r.uniform(0.26, 0.4), r.uniform(-0.08, 0.1)
    thick, jewel, point = 0.07 * o.thick, r.uniform(0.055, 0.075), r.uniform(0.15, 0.28)
    z = grip + 0.06
    if o.kind == "scimitar":
        u = np.linspace(0, 1, 10)
        bow, wide = 0.3 * u**2, width * (0.8 + 0.9 * u * (1 - u) * 2.2)
        wide[-1] = 0.012
        right = np.stack([bow + wide, z + u * blade], 1)
        left = np.stack([bow - wide * 0.8, z + u * blade], 1)[::-1]
        left[0, 1] += 0.02
        b.add(extrude(np.concatenate([right, left]), thick))
    else:
        w = width * (1.45 if o.kind == "broad" else 0.62 if o.kind == "rapier" else 1.0)
        swell = 1.25 if o.kind == "leaf" else 1.0
        half = [(w, z - 0.03), (w * (0.8 if swell > 1 else 1), z + blade * 0.2),
                (w * swell, z + blade * 0.6), (w * 0.9 * swell, z + blade * (1 - point)), (0, z + blade)]
        b.add(extrude(_mirror(half), thick))
        b.add(extrude(_mirror([(w * 0.3, z), (w * 0.3, z + blade * 0.65), (0, z + blade * 0.8)]), thick * 1.4))
    b.add(lathe([(0.05, 0), (0.06, grip * 0.5), (0.05, grip + 0.08)], 12), scale=(o.thick, o.thick, 1),
          paint="secondary")
    for i in range(4):
        b.add(torus(0.055 * o.thick, 0.018, n=12, m=6), (0, 0, grip * (0.18 + 0.22 * i)), paint="secondary")
    if o.kind == "rapier":
        b.add(lathe([(0.02, grip + 0.12), (0.16, grip + 0.02), (0.18, grip + 0.04), (0.05, grip + 0.15)], 18),
              paint="accent")
        b.add(tube(smooth_path([(0.14, 0, grip), (0.2, 0, grip * 0.5), (0.04, 0, 0)], 9), 0.032, 8), paint="accent")
    else:
        way = smooth_path([(-guard, 0, grip + 0.05 + droop), (0, 0, grip + 0.05), (guard, 0, grip + 0.05 + droop)], 11)
        b.add(tube(way, 0.05 * o.thick, 8), paint="accent")
        b.both(sphere(0.065 * o.thick, 10), (guard, 0, grip + 0.05 + droop), paint="accent")
    b.add(sphere(jewel * 1.2 * o.thick, 12), (0, 0, -0.01), paint="accent")
    if o.has("jewel"):
        b.add(cylinder(jewel, thick * 2.4, 10), (0, 0, grip + 0.06), (90, 0, 0), paint="red")
    if o.has("tassel"):
        b.add(tube(smooth_path([(0, 0, -0.05), (0.1, 0, -0.12), (0.12, 0, -0.3)], 7), [0.025] * 4 + [0.05] * 3, 8),
              paint="secondary")


def shield(b: Builder, r: np.random.Generator, o: Options) -> None:
    width, height, depth = r.uniform(0.78, 0.95), r.uniform(1.05, 1.2), r.uniform(0.08, 0.12) * o.thick
    studs, boss, dip = int(r.integers(6, 11)), r.uniform(0.12, 0.18), r.uniform(0.0, 0.09)
    crown = r.uniform(0.02, 0.08)
    if o.kind == "round":
        rad = width * 0.55
        outline = np.stack([rad * np.cos(np.linspace(0, 2 * np.pi, 25)[:-1]),
                            rad + rad * np.sin(np.linspace(0, 2 * np.pi, 25)[:-1])], 1)
        mid = rad
    elif o.kind == "tower":
        outline = _mirror([(0, 0), (width * 0.4, 0.03), (width * 0.42, height), (0, height + crown)])
        mid = height * 0.52
    else:
        u = np.linspace(0, 1, 8)
        side = [(width / 2 * (1 - (1 - a) ** 2.2) ** 0.75, height * 0.62 * a) for a in u]
        outline = _mirror([*side, (width / 2, height * 0.96 + dip), (width * 0.22, height * 0.93),
                           (0, height * 0.93 + crown)])
        mid = height * 0.55
    c = np.array([0, mid])
    outline = np.asarray(outline)
    keep = np.ones(len(outline), bool)
    keep[1:] = np.linalg.norm(np.diff(outline, axis=0), axis=1) > 1e-6
    outline = outline[keep]
    b.add(extrude(outline, depth))
    inner = c + (outline - c) * 0.86
    if o.has("rim"):  # a frame of bars along the edge
        loop = np.concatenate([outline, outline[:1]])
        way = np.stack([loop[:, 0], np.zeros(len(loop)), mid + (loop[:, 1] - mid) ], 1)
        b.add(tube(way, max(depth * 0.4, 0.04), 8), paint="metal")
    b.add(extrude(inner, depth * 0.5), (0, -depth * 0.55, 0))
    emblem = ("cross", "star", "stripe", "chevron")[int(studs) % 4]
    front = -depth * 0.85
    if o.has("emblem"):
        s = width * 0.3
        if emblem == "cross":
            b.add(box(s * 0.36, 0.05, s * 1.9), (0, front, mid), paint="accent")
            b.add(box(s * 1.9, 0.05, s * 0.36), (0, front, mid + s * 0.15), paint="accent")
        elif emblem == "star":
            t = np.radians(90 + 36 * np.arange(10))
            q = np.where(np.arange(10) % 2 == 0, s, s * 0.42)
            b.add(extrude(np.stack([q * np.cos(t), q * np.sin(t)], 1), 0.05), (0, front, mid), paint="accent")
        elif emblem == "stripe":
            b.add(box(s * 1.9, 0.05, s * 0.42), (0, front, mid), (0, -35, 0), paint="accent")
        else:
            p = [(-s, -s * 0.4), (0, s * 0.5), (s, -s * 0.4), (s, -s * 0.9), (0, 0), (-s, -s * 0.9)]
            b.add(extrude(p, 0.05), (0, front, mid + 0.1), paint="accent")
    if o.has("boss"):
        b.add(lathe([(boss * 1.25, 0), (boss * 1.2, 0.03), (boss * 0.8, 0.09), (0, 0.14)], 16),
              (0, -depth * 0.75, mid), (90, 0, 0), paint="metal")
    if o.has("studs"):
        ring = c + (outline - c) * 0.8
        step = np.linspace(0, len(ring), studs, endpoint=False).astype(int)
        for x, z in ring[step]:
            b.add(sphere(0.042, 8), (x, -depth * 0.8, z), paint="metal")
    grip = smooth_path([(-0.16, depth * 0.4, mid), (0, depth * 0.4 + 0.12, mid), (0.16, depth * 0.4, mid)], 8)
    b.add(tube(grip, 0.04, 8), paint="brown")


def key(b: Builder, r: np.random.Generator, o: Options) -> None:
    shaft, bow, teeth = r.uniform(0.6, 0.95), r.uniform(0.2, 0.28), int(r.integers(2, 4))
    rad, long = r.uniform(0.045, 0.06) * o.thick, r.uniform(0.14, 0.24)
    b.add(rod((0, 0, 0), (0, 0, shaft + 0.05), rad))
    z = shaft + bow * 0.9
    if o.kind == "clover":
        for a in (0, 120, 240):
            q = np.radians(90 + a)
            b.add(torus(bow * 0.5, rad * 1.15), (bow * 0.55 * np.cos(q), 0, z + bow * 0.55 * np.sin(q)), (90, 0, 0))
    elif o.kind == "heart":
        t = np.linspace(0, 2 * np.pi, 25)
        way = np.stack([bow * np.sin(t) ** 3 * 1.05, 0 * t,
                        z + bow / 16 * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], 1)
        b.add(tube(way, rad * 1.1, 8))
    else:
        b.add(torus(bow, rad * 1.2), (0, 0, z), (90, 0, 0))
    for i in range(teeth):
        b.add(box(long * (1 - 0.25 * (i % 2)), rad * 1.6, 0.085), (long * 0.5, 0, 0.07 + 0.15 * i))
    b.add(torus(rad * 1.1, rad * 0.5, n=16, m=6), (0, 0, shaft * 0.86), paint="primary")
    if o.has("collar"):
        b.add(cylinder(rad * 1.9, 0.07), (0, 0, shaft * 0.78), paint="accent")
    if o.has("gem"):
        b.add(sphere(bow * 0.45, 12), (0, 0, z - bow * 0.65), paint="red")


def wrench(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, width, jaw = r.uniform(0.8, 1.1), r.uniform(0.1, 0.14), r.uniform(0.2, 0.25)
    depth, tilt = r.uniform(0.08, 0.11) * o.thick, r.uniform(-18, 18)
    b.add(box(width, depth, length, 0.02), (0, 0, length / 2 + jaw * 0.8))

    def open_jaw() -> np.ndarray:
        t = np.radians(np.linspace(62, -242, 17))
        gap = jaw * 0.46
        arc = np.stack([jaw * np.cos(t), jaw * np.sin(t)], 1)
        return np.concatenate([arc, [(-gap, jaw * 0.75), (-gap, -jaw * 0.1), (-gap * 0.5, -jaw * 0.35),
                                     (gap * 0.5, -jaw * 0.35), (gap, -jaw * 0.1), (gap, jaw * 0.75)]])

    b.add(extrude(open_jaw(), depth * 1.4), (0, 0, length + jaw * 1.6), (0, tilt, 0))
    if o.kind == "ring":
        b.add(torus(jaw * 0.72, jaw * 0.3), (0, 0, jaw), (90, 0, 0))
    else:
        b.add(extrude(open_jaw(), depth * 1.4), (0, 0, jaw), (0, 180 + tilt, 0))
    if o.has("grip"):
        b.add(rounded_box(width * 1.35, depth * 1.6, length * 0.5, 0.03), (0, 0, length * 0.5 + jaw), paint="secondary")


_METALS = {"silver": 4, "grey": 3, "gold": 1, "black": 1}
_STEEL = {"brushed metal": 4, "worn": 2, "glossy": 1, "painted": 1}

CATEGORIES = {
    "hammer": Category(
        hammer, kinds={"claw": ("claw hammer",), "sledge": ("sledgehammer",), "mallet": ("mallet",),
                       "war": ("war hammer", "battle hammer")},
        parts={"grip wrap": "a wrapped grip", "pommel": "a round pommel", "bands": "bands around the head"},
        sizes=("long", "wide", "chunky", "slender"), styles=("rustic", "cartoon", "crooked"),
        colors={"grey": 4, "silver": 3, "red": 1, "brown": 1}, finishes=_STEEL, second="handle", weight=1.0),
    "axe": Category(
        axe, synonyms=("hatchet",), kinds={"single": ("axe", "felling axe"),
                                           "double": ("double-bladed axe", "battle axe")},
        parts={"grip wrap": "a wrapped grip", "pommel": "a round pommel", "spike": "a spike on top",
               "emblem": "a round emblem on the blade"},
        sizes=("tall", "wide", "chunky", "slender"), styles=("rustic", "cartoon", "crooked", "futuristic"),
        colors={"grey": 4, "silver": 2, "red": 3}, finishes=_STEEL),
    "sword": Category(
        sword, kinds={"long": ("longsword", "knight's sword"), "broad": ("broadsword",), "leaf": ("leaf-bladed sword",),
                      "rapier": ("rapier",), "scimitar": ("scimitar", "curved sword")},
        parts={"jewel": "a red jewel", "tassel": "a tassel"}, sizes=("tall", "short", "wide", "chunky", "slender"),
        styles=("rustic", "cartoon"), colors=_METALS, finishes=_STEEL, second="grip"),
    "shield": Category(
        shield, kinds={"heater": ("knight's shield", "heater shield"), "round": ("round shield", "viking shield"),
                       "tower": ("tower shield",)},
        parts={"rim": "a metal rim", "boss": "a metal boss", "studs": "studs", "emblem": "an emblem"},
        sizes=("tall", "wide", "chunky"), styles=("rustic", "cartoon", "crooked"),
        colors={"red": 2, "blue": 2, "silver": 2, "brown": 2}),
    "key": Category(
        key, kinds={"ring": ("key", "old key"), "clover": ("clover-bow key",), "heart": ("heart-shaped key",)},
        parts={"collar": "a collar", "gem": "a red gem"}, sizes=("tall", "short", "wide", "chunky"),
        styles=("rustic", "cartoon"), colors={"gold": 4, "silver": 3, "grey": 1}, finishes=_STEEL),
    "wrench": Category(
        wrench, synonyms=("spanner",), kinds={"double": (), "ring": ("combination wrench",)}, parts={"grip": "a grip"},
        sizes=("tall", "short", "wide", "chunky"), styles=("rustic", "cartoon"), colors=_METALS, finishes=_STEEL,
        second="grip"),
}
