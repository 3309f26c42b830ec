"""Electronics and clocks."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    beam,
    box,
    capsule,
    cylinder,
    extrude,
    hemisphere,
    prism,
    pyramid,
    rod,
    roof,
    rounded_box,
    smooth_path,
    sphere,
    torus,
    tube,
)


def _dial(b: Builder, at, rad: float, depth: float, paint: str, n: int = 22) -> None:
    """A disc that faces the front."""
    b.add(cylinder(rad, depth, n), at, (90, 0, 0), paint=paint)


def camera(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(2.6, 3.2), r.uniform(0.8, 1.1), r.uniform(3.2, 4.0)
    lens, reach, rings = r.uniform(1.0, 1.25), r.uniform(0.9, 1.7), int(r.integers(1, 4))
    soft, shift = r.uniform(0.15, 0.5), r.uniform(-0.5, 0.3)
    grip = r.random() < 0.5
    lens *= min(o.thick, 1.2)
    if o.kind == "video":
        b.add(rounded_box(2.6, 5.2, 3.0, soft), (0, 0, 1.5), paint="primary")
        b.add(cylinder(1.15, 2.0, 22), (0, -3.2, 1.6), (90, 0, 0), paint="primary")
        b.add(cylinder(0.85, 0.3, 20), (0, -4.15, 1.6), (90, 0, 0), paint="glass")
        b.add(rounded_box(0.4, 2.0, 1.5, 0.15), (1.6, -1.0, 1.7), (0, 0, 25), paint="secondary")
        b.add(box(1.0, 4.2, 0.5, 0.12), (0, 0.2, 4.2), paint="secondary")
        b.row(box(0.7, 0.6, 1.4), 2, (0, -1.4, 3.5), (0, 1.8, 3.5), paint="secondary")
        b.add(cylinder(0.4, 1.6, 12), (0.5, -2.4, 3.2), (90, 0, 0), paint="dark")
        z = 0
    else:
        if o.kind == "instant":
            h, x, y = h * 1.15, x * 0.9, y * 1.3
            b.add(extrude([(-y - 0.9, 0), (y, 0), (y, h), (-y, h), (-y - 0.2, h * 0.55),
                           (-y - 0.9, h * 0.38)], 2 * x, "x"))
            b.add(box(1.5 * x, 0.4, 0.3), (0, -y - 0.8, h * 0.13), paint="dark")
            b.add(box(0.3 * x, 2.2, h * 0.42), (0, -0.2, h * 0.16), paint="secondary")
            cz, front, reach = h * 0.6, y + 0.2, reach * 0.45
        else:
            b.add(rounded_box(2 * x, 2 * y, h, soft), (0, 0, h / 2), paint="primary")
            b.add(rounded_box(2 * x + 0.1, 2 * y + 0.1, h * 0.15, 0.12), (0, 0, h * 0.84), paint="secondary")
            cz, front = h * 0.46, y
        cx = shift if o.kind != "instant" else 0.0
        for k in range(rings + 1):
            f = k / (rings + 1)
            b.add(cylinder(lens * (1 - 0.12 * f), reach / (rings + 1) + 0.25, 26),
                  (cx, -front - reach * (f + 0.5 / (rings + 1)), cz), (90, 0, 0),
                  paint="dark" if k % 2 == 0 else "metal")
        b.add(hemisphere(lens * 0.66, 20, 0.3), (cx, -front - reach - 0.05, cz), (90, 0, 0), paint="glass")
        if o.kind == "slr":
            b.stand(extrude([(-1.2, 0), (1.2, 0), (0.75, 1.1), (-0.75, 1.1)], 2 * y * 0.9, "y"),
                    (cx, 0, h - 0.1),
                    paint="primary")
            b.add(box(0.9, 0.4, 0.6), (cx, -y * 0.9, h + 0.4), paint="glass")
        else:
            b.add(box(1.0, 0.4, 0.65), (x * 0.55, -front - 0.02 if o.kind != "instant" else -y, h * 0.84),
                  paint="glass")
        b.stand(cylinder(0.42, 0.45, 16), (-x * 0.65, 0, h - 0.05), paint="accent")
        b.stand(cylinder(0.55, 0.4, 18), (x * 0.62, 0, h - 0.05), paint="metal")
        if grip:
            b.add(rounded_box(0.9, 0.7, h * 0.8, 0.3), (-x + 0.5, -y - 0.1, h * 0.42), paint="primary")
        z = h
    if o.has("flash") and o.kind != "video":
        b.stand(box(0.5, 0.5, 0.5), (cx, 0, z + (0.9 if o.kind == "slr" else -0.05)), paint="dark")
        b.stand(rounded_box(1.7, 0.9, 1.2, 0.15), (cx, 0, z + (1.3 if o.kind == "slr" else 0.35)),
                paint="dark")
        b.stand(box(1.3, 0.3, 0.8), (cx, -0.4, z + (1.5 if o.kind == "slr" else 0.55)), paint="light")
    if o.has("strap") and o.kind != "video":
        arc = [(-x, 0, h * 0.8), (-x * 1.25, 0.6, h * 1.25), (0, 1.0, h * 1.75), (x * 1.25, 0.6, h * 1.25),
               (x, 0, h * 0.8)]
        b.add(tube(smooth_path(arc, 20), 0.22, 8), paint="secondary")
    if o.has("tripod"):
        b.add(rod((0, 0, 0.2), (0, 0, -1.0), 0.5), paint="primary")
        b.ring(rod((0, 0, -0.7), (2.2, 0, -5.2), 0.27, 0.2), 3, start=90, paint="primary")


def radio(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(3.0, 3.8), r.uniform(1.1, 1.5), r.uniform(3.4, 4.2)
    soft, knobs, mirror = r.uniform(0.2, 0.5), int(r.integers(2, 4)), float(r.choice([-1, 1]))
    slats, tilt, size = int(r.integers(5, 8)), r.uniform(20, 50), r.uniform(0.36, 0.5)
    if o.kind == "boombox":
        x *= 1.25
        b.add(rounded_box(2 * x, 2 * y, h, soft), (0, 0, h / 2), paint="primary")
        b.both(cylinder(h * 0.34, 0.4, 26), (x * 0.62, -y, h * 0.42), (90, 0, 0), paint="dark")
        b.both(torus(h * 0.34, 0.18, n=26, m=8), (x * 0.62, -y - 0.1, h * 0.42), (90, 0, 0),
               paint="secondary")
        b.both(hemisphere(h * 0.15, 16, 0.3), (x * 0.62, -y - 0.15, h * 0.42), (90, 0, 0), paint="metal")
        b.add(box(x * 0.42, 0.4, h * 0.34), (0, -y, h * 0.42), paint="screen")
        b.row(box(0.5, 0.4, 0.4), 5, (-x * 0.5, -y, h * 0.88), (x * 0.5, -y, h * 0.88), paint="secondary")
    elif o.kind == "cathedral":
        x, h = x * 0.72, h * 1.35
        t = np.linspace(0, np.pi, 14)
        outline = [(x, 0), *[(x * np.cos(a), h * 0.55 + h * 0.45 * np.sin(a)) for a in t], (-x, 0)]
        b.add(extrude(outline, 2 * y, "y"), paint="primary")
        inner = [(0.62 * p, 0.72 * (q - h * 0.5) + h * 0.6) for p, q in outline[1:-1]]
        b.add(extrude(inner, 0.4, "y"), (0, -y, 0), paint="tan")
        b.row(box(0.3, 0.4, h * 0.5), 3, (-x * 0.35, -y - 0.12, h * 0.7), (x * 0.35, -y - 0.12, h * 0.7),
              paint="primary")
        b.row(cylinder(size, 0.6, 16), 3, (-x * 0.55, -y - 0.1, h * 0.2), (x * 0.55, -y - 0.1, h * 0.2),
              (90, 0, 0),
              paint="secondary")
        b.stand(box(2 * x + 0.5, 2 * y + 0.5, 0.5), (0, 0, -0.1), paint="primary")
    else:
        b.add(rounded_box(2 * x, 2 * y, h, soft, 4), (0, 0, h / 2), paint="primary")
        b.add(rounded_box(x * 1.0, 0.4, h * 0.68, 0.15), (-mirror * x * 0.42, -y, h * 0.5), paint="dark")
        b.row(box(x * 0.96, 0.3, 0.22), slats, (-mirror * x * 0.42, -y - 0.16, h * 0.22),
              (-mirror * x * 0.42, -y - 0.16, h * 0.78), paint="secondary")
        b.add(box(x * 0.72, 0.4, h * 0.26), (mirror * x * 0.52, -y, h * 0.7), paint="cream")
        b.add(box(0.2, 0.5, h * 0.24), (mirror * x * 0.45, -y - 0.02, h * 0.7), paint="red")
        b.row(cylinder(size, 0.7, 18), knobs, (mirror * x * (0.52 - 0.26), -y - 0.1, h * 0.3),
              (mirror * x * (0.52 + 0.26), -y - 0.1, h * 0.3), (90, 0, 0), paint="secondary")
    if o.has("handle") or o.kind == "boombox":
        b.both(box(0.4, 0.6, 1.1), (x * 0.7, 0, h + 0.4), paint="secondary")
        b.add(capsule(0.28 * o.thick, 1.4 * x + 0.6, 12), (0, 0, h + 0.9), (0, 90, 0), paint="secondary")
    if o.has("antenna"):
        b.add(rod((x * 0.7, y * 0.5, h - 0.2), (x * 0.7 + 1.9 * np.sin(np.radians(tilt)) * 1.6, y * 0.5,
                                                h + 3.2), 0.16),
              paint="metal")
        b.add(sphere(0.26, 10), (x * 0.7 + 1.9 * np.sin(np.radians(tilt)) * 1.6, y * 0.5, h + 3.2),
              paint="metal")


def television(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(3.2, 4.2), r.uniform(1.5, 2.1), r.uniform(4.2, 5.2)
    soft, splay, knobs = r.uniform(0.25, 0.6), r.uniform(0.3, 0.8), int(r.integers(2, 4))
    lean, foot = r.uniform(0.9, 1.8), r.uniform(0.9, 1.6)
    if o.kind == "flat":
        x, h = x * 1.3, h * 1.0
        b.add(rounded_box(2 * x, 0.8 * o.thick, h, 0.2), (0, 0, h / 2 + foot), paint="primary")
        b.add(box(2 * x - 1.5, 0.3, h - 1.4), (0, -0.36 * o.thick, h / 2 + foot + 0.05), paint="screen")
        b.add(rounded_box(2 * x * 0.6, 0.8, h * 0.6, 0.3), (0, 0.45, h / 2 + foot), paint="primary")
        b.add(box(1.1, 0.5, foot + 0.6), (0, 0.2, foot / 2 + 0.2), paint="secondary")
        b.stand(rounded_box(x * 1.1, 2.2, 0.35, 0.15), (0, 0.1, 0), paint="secondary")
        top = foot + h
    else:
        leg = foot if o.kind == "console" else 0.4
        z = leg + h / 2
        b.add(rounded_box(2 * x, 2 * y, h, soft, 3), (0, 0, z), paint="primary")
        b.add(pyramid(1.6 * x, 0.8 * h, 1.4, 0.7), (0, y + 0.5, z), (-90, 0, 0), paint="primary")
        sw, sx = 1.36 * x, -0.24 * x
        b.add(rounded_box(sw + 0.3, 0.5, h * 0.8 + 0.1, 0.3), (sx, -y, z), paint="secondary")
        b.add(rounded_box(sw - 0.2, 0.5, h * 0.68, 0.24, 3), (sx, -y - 0.14, z), paint="screen")
        b.row(cylinder(0.36, 0.5, 16), knobs, (x * 0.72, -y - 0.1, z + h * 0.12),
              (x * 0.72, -y - 0.1, z + h * 0.34),
              (90, 0, 0), paint="secondary")
        b.row(box(x * 0.34, 0.3, 0.22), 4, (x * 0.72, -y - 0.03, z - h * 0.36),
              (x * 0.72, -y - 0.03, z - h * 0.1),
              paint="dark")
        if o.kind == "console":
            b.four(rod((x - 0.6 + splay, y - 0.4 + splay * 0.5, 0), (x - 0.7, y - 0.6, leg + 0.3),
                       0.24 * o.thick,
                       0.34 * o.thick), paint="secondary")
        else:
            b.four(box(0.7, 0.7, 0.6), (x - 0.7, y - 0.6, 0.3), paint="dark")
        top = leg + h
    if o.has("antenna"):
        b.stand(hemisphere(0.7, 16, 0.5), (0, 0.2, top - 0.1), paint="dark")
        for s in (-1, 1):
            b.add(rod((0, 0.2, top), (s * lean * 1.3, 0.2, top + 2.8), 0.17), paint="metal")
            b.add(sphere(0.25, 10), (s * lean * 1.3, 0.2, top + 2.8), paint="metal")


def laptop(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, t = r.uniform(3.2, 3.9), r.uniform(2.2, 2.6), r.uniform(0.26, 0.38) * o.thick
    tilt, soft, keys, rows = r.uniform(8, 28), r.uniform(0.15, 0.3), int(r.integers(8, 11)), int(r.integers(3, 5))
    logo = int(r.integers(3))
    if o.kind == "rugged":
        t, soft = t * 1.7, 0.3
    b.add(rounded_box(2 * x, 2 * y, t, min(soft, t * 0.45)), (0, 0, t / 2), paint="primary")
    b.add(box(1.84 * x, 1.05 * y, 0.14), (0, 0.32 * y, t), paint="primary")
    for i in range(rows):
        b.row(box(1.3 * x / keys, 0.6 * y / rows, 0.18), keys, (-0.8 * x, (-0.08 + 0.8 * i / (rows - 1)) * y, t + 0.09),
              (0.8 * x, (-0.08 + 0.8 * i / (rows - 1)) * y, t + 0.09), paint="dark")
    b.add(box(0.7 * x, 0.5 * y, 0.14), (0, -0.62 * y, t), paint="secondary")
    lid, h = Builder(), 2 * y * 0.98
    lid.add(rounded_box(2 * x, t * 0.95, h, min(soft, t * 0.45)), (0, 0, h / 2), paint="primary")
    lid.add(box(2 * x - 0.9, 0.2, h - 1.0), (0, -t * 0.45, h / 2 + 0.05), paint="screen")
    if o.has("logo"):
        lid.add((cylinder(0.75, 0.25, 24), box(1.2, 1.2, 0.25), prism(3, 0.95, 0.25))[logo],
                (0, t * 0.48, h / 2),
                (90, 0, 0), paint="accent")
    if o.has("windows on screen"):
        lid.add(box(x * 0.8, 0.2, h * 0.4), (-x * 0.35, -t * 0.5, h * 0.6), paint="light blue")
        lid.add(box(x * 0.7, 0.2, h * 0.3), (x * 0.45, -t * 0.52, h * 0.36), paint="cream")
    if o.kind == "rugged":
        lid.four(box(0.7, t * 1.5, 0.7), (x - 0.2, 0, 0), paint="dark")
        b.add(tube([(-x * 0.5, -y, t / 2), (-x * 0.5, -y - 0.8, t / 2), (x * 0.5, -y - 0.8, t / 2),
                    (x * 0.5, -y, t / 2)], 0.24, 8), paint="dark")
    b.group(lid, (0, y - t * 0.3, t * 0.6), (-tilt, 0, 0))
    b.add(cylinder(t * 0.55, 1.7 * x, 14), (0, y - t * 0.2, t * 0.75), (0, 90, 0), paint="dark")
    if o.has("stickers"):
        b.add(box(0.9, 0.9, 0.12), (-0.7 * x, -0.62 * y, t), (0, 0, 20), paint="yellow")
        b.add(cylinder(0.45, 0.12, 18), (0.72 * x, -0.6 * y, t), paint="red")


def clock(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, depth, marks = r.uniform(2.3, 2.8), r.uniform(0.9, 1.5) * o.thick, int(r.choice([4, 12]))
    hour, minute, square = r.uniform(0, 360), r.uniform(0, 360), r.random() < 0.4
    tall, numerals = r.uniform(7.5, 9.5), r.uniform(0.16, 0.26)
    wide = r.uniform(0.8, 1.0)

    def face(z: float, y: float, size: float) -> None:
        b.add(cylinder(size, 0.3, 30), (0, y, z), (90, 0, 0), paint="light")
        p = Builder()
        p.ring(box(size * 0.18, numerals + 0.05, 0.25), marks, at=(size * 0.82, 0, 0), paint="dark")
        p.add(box(size * 0.58, 0.2 * size, 0.25), (size * 0.25, 0, 0.06), paint="dark")
        p.parts[-1] = (p.parts[-1][0] @ np.array([[np.cos(hour), np.sin(hour), 0], [-np.sin(hour), np.cos(hour), 0],
                                                  [0, 0, 1]]), *p.parts[-1][1:])
        hand = Builder()
        hand.add(box(size * 0.8, 0.13 * size, 0.25), (size * 0.32, 0, 0.12), paint="secondary")
        p.group(hand, rotate=(0, 0, minute))
        p.add(cylinder(size * 0.1, 0.5, 12), paint="secondary")
        b.group(p, (0, y - 0.15, z), (90, 0, 0))

    if o.kind == "alarm":
        z = rad + 0.8
        b.add(cylinder(rad, depth * 1.6, 32), (0, 0, z), (90, 0, 0), paint="primary")
        b.add(torus(rad - 0.05, 0.3, n=32, m=10), (0, -depth * 0.8, z), (90, 0, 0), paint="primary")
        face(z, -depth * 0.8 - 0.05, rad * 0.86)
        b.both(rod((rad * 0.9, 0, 0), (rad * 0.5, 0, z - rad * 0.6), 0.3 * o.thick), paint="secondary")
        for s in (-1, 1):
            b.add(hemisphere(1.05, 18, 0.8), (s * rad * 0.62, 0, z + rad * 0.84), (0, s * 32, 0),
                  paint="primary")
        b.add(box(0.35, 0.35, 1.0), (0, 0, z + rad + 0.3), paint="secondary")
        b.add(sphere(0.35, 10), (0, 0, z + rad + 0.8), paint="secondary")
    elif o.kind == "grandfather":
        w = rad * 0.62 * wide
        b.add(box(2.5 * w, 2.0, 1.6), (0, 0, 0.8), paint="primary")
        b.add(box(1.9 * w, 1.7, tall), (0, 0, 1.5 + tall / 2), paint="primary")
        b.add(box(2.7 * w, 2.1, 2.7 * w), (0, 0, 1.5 + tall * 0.92 + w), paint="primary")
        top = 1.5 + tall * 0.92 + 2.3 * w
        b.stand(roof(2.9 * w, 2.1, 1.3), (0, 0, top), paint="primary")
        face(1.5 + tall * 0.92 + w, -1.05, w * 1.1)
        b.add(box(1.2 * w, 0.3, tall * 0.62), (0, -0.85, 1.6 + tall * 0.4), paint="glass")
        b.add(box(0.25, 0.3, tall * 0.36), (0, -0.95, 1.6 + tall * 0.5), paint="gold")
        b.add(cylinder(w * 0.42, 0.3, 20), (0, -0.98, 1.6 + tall * 0.3), (90, 0, 0), paint="gold")
    elif o.kind == "cuckoo":
        w = rad * 1.0
        b.add(box(2 * w, 2.0, 2.4 * w), (0, 0, 1.2 * w), paint="primary")
        b.stand(roof(2 * w, 2.2, 1.1 * w, 0.5), (0, 0, 2.35 * w), paint="primary")
        face(1.0 * w, -1.0, w * 0.72)
        b.add(box(0.8, 0.4, 1.0), (0, -1.0, 2.2 * w), paint="dark")
        b.add(sphere(0.4, 12), (0, -1.4, 2.2 * w), paint="yellow")
        b.both(rod((0.55 * w, -0.3, 0.1), (0.55 * w, -0.3, -2.4), 0.14), paint="metal")
        b.both(capsule(0.36, 1.3, 12), (0.55 * w, -0.3, -2.6), paint="gold")
    else:
        z = rad + 0.1
        if square:
            b.add(rounded_box(2 * rad, depth, 2 * rad, 0.35), (0, 0, z), paint="primary")
        else:
            b.add(cylinder(rad * 1.04, depth, 34), (0, 0, z), (90, 0, 0), paint="primary")
            b.add(torus(rad, 0.34 * o.thick, n=34, m=10), (0, -depth / 2, z), (90, 0, 0), paint="primary")
        face(z, -depth / 2 - 0.08, rad * 0.76)
        b.both(rounded_box(0.9, depth + 0.6, 0.6, 0.2), (rad * 0.55, 0, rad * 0.16 if not square else 0.05),
               paint="primary")
    if o.has("handle") and o.kind in ("alarm", ""):
        b.add(torus(rad * 0.5, 0.2 * o.thick, 180, 22, 8), (0, 0, z + rad * 0.95), (90, 0, 0),
              paint="secondary")


def arcade_cabinet(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(1.9, 2.4), r.uniform(1.8, 2.3), r.uniform(8.0, 9.4)
    panel, slope, crown = r.uniform(0.38, 0.44), r.uniform(0.5, 1.0), r.uniform(0.84, 0.88)
    buttons = int(r.integers(3, 6))
    t, cols = 0.32 * o.thick, r.permutation(["red", "yellow", "blue", "green", "orange", "pink"])
    if o.kind == "tabletop":
        h, panel, crown = h * 0.55, 0.2, 0.82
    zp = h * panel
    side = [(-y, 0), (y, 0), (y, h), (-y * 0.75, h), (-y * 0.95, h * crown), (-y * 0.15, h * (crown - 0.04)),
            (-y * 0.15 - 0.25, zp + slope + 0.35), (-y - 0.75, zp + 0.25), (-y - 0.75, zp - 0.45), (-y, zp - 0.75)]
    b.both(extrude(side, t, "x"), (x, 0, 0), paint="primary")
    b.add(box(2 * x, 1.9 * y * 0.92, h - 0.2), (0, y * 0.46 - 0.35 + 0.3 * y, h / 2), scale=(1, 0.58, 1),
          paint="primary")
    b.add(box(2 * x, 0.9 * y, zp - 0.5), (0, -y * 0.5, (zp - 0.5) / 2 + 0.02), paint="primary")
    b.add(extrude([(-y - 0.6, zp - 0.5), (y * 0.3, zp - 0.5), (y * 0.3, zp + slope),
                   (-y * 0.1, zp + slope * 0.8),
                   (-y - 0.6, zp + 0.12)], 2 * x, "x"), paint="secondary")
    low, high = zp + slope * 0.9, h * (crown - 0.05)
    b.add(beam((0, -y * 0.12, low), (0, y * 0.12, high), 1.75 * x, 0.35), paint="screen")
    for k in range(3):
        b.add(box(0.5, 0.4, 0.4),
              (x * (k - 1) * 0.45, -y * 0.05 - 0.1, low + (high - low) * (0.35 + 0.17 * (k % 2))),
              paint=str(cols[k]))
    b.add(extrude([(-y * 0.8, h * crown), (y * 0.5, h * crown), (y * 0.5, h - 0.15), (-y * 0.65, h - 0.15)],
                  2 * x, "x"),
          paint="secondary")
    b.add(box(1.6 * x, 0.3, h * (1 - crown) * 0.55), (0, -y * 0.72, h * (1 + crown) / 2), (-12, 0, 0),
          paint="yellow" if not o.futuristic else "glow")
    tilt = np.arctan2(slope * 0.68, y * 0.9)
    for k in range(buttons):
        b.add(cylinder(0.26, 0.4, 14), (x * (0.05 + 0.75 * k / max(buttons - 1, 1)), -y * 0.72,
                                        zp + 0.12 + 0.28 * y * np.tan(tilt)),
              (np.degrees(tilt), 0, 0), paint=str(cols[k % 6]))
    b.add(rod((-x * 0.5, -y * 0.7, zp), (-x * 0.5, -y * 0.8, zp + 1.1), 0.17 * o.thick), paint="dark")
    b.add(sphere(0.36, 14), (-x * 0.5, -y * 0.8, zp + 1.2), paint="red")
    if o.kind != "tabletop":
        b.add(box(x * 1.1, 0.3, zp * 0.42), (0, -y * 0.95, zp * 0.4), paint="dark")
        b.both(box(0.3, 0.3, 0.5), (x * 0.25, -y * 1.0, zp * 0.45), paint="red")
    if o.has("side stripe"):
        b.both(box(0.25, y * 1.5, 0.9), (x + t * 0.5, y * 0.1, h * 0.66), (24, 0, 0), paint="secondary")
        b.both(box(0.25, y * 1.5, 0.5), (x + t * 0.5, y * 0.1, h * 0.52), (24, 0, 0), paint="secondary")
    if o.has("stool"):
        b.stand(cylinder(1.1, 0.5, 22), (0, -y - 3.0, 3.0), paint="secondary")
        b.stand(cylinder(0.28, 3.0, 12), (0, -y - 3.0, 0.1), paint="metal")
        b.stand(cylinder(1.0, 0.3, 22), (0, -y - 3.0, 0), paint="dark")
        b.add(box(0.5, 3.0, 0.28), (0, -y - 1.6, 0.14), paint="dark")


_STYLES = ("futuristic", "cartoon", "crooked")
_FINISH = {"glossy": 4, "painted": 4, "two-tone": 1, "worn": 1, "brushed metal": 2, "wood": 1}

CATEGORIES = {
    "camera": Category(camera, synonyms=("photo camera",), kinds={
        "compact": ("camera", "compact camera", "photo camera"), "slr": ("reflex camera", "SLR camera"),
        "instant": ("instant camera", "polaroid camera"), "video": ("video camera", "camcorder camera")},
        parts={"flash": "a flash on top", "strap": "a strap", "tripod": "a tripod"},
        sizes=("tall", "wide", "chunky"), styles=("cartoon", "crooked"), second="trim",
        finishes={**_FINISH, "leather": 2}, colors={"black": 2, "silver": 1}),
    "radio": Category(radio, synonyms=("radio set",), kinds={
        "": ("radio", "transistor radio"), "boombox": ("boombox radio", "boombox"),
        "cathedral": ("cathedral radio", "antique radio")},
        parts={"handle": "a carrying handle", "antenna": "an antenna"}, sizes=("tall", "wide", "chunky"),
        styles=("rustic", "cartoon", "crooked"), second="knobs", finishes={**_FINISH, "wood": 3}, colors={"brown": 2}),
    "television": Category(television, synonyms=("TV", "TV set"), kinds={
        "retro": ("television", "retro TV", "old TV set"), "console": ("television on legs", "vintage TV"),
        "flat": ("flat-screen TV", "flat television")},
        parts={"antenna": "an antenna"}, sizes=("tall", "wide", "short", "chunky"),
        styles=("rustic", "cartoon", "crooked"), second="trim", finishes={**_FINISH, "wood": 3},
        colors={"brown": 2, "black": 1}),
    "laptop": Category(laptop, synonyms=("notebook computer", "laptop computer"), kinds={
        "": ("laptop", "laptop computer"), "rugged": ("rugged laptop", "toughened laptop")},
        parts={"logo": "a logo on the lid", "windows on screen": "windows on the screen",
               "stickers": "stickers"},
        sizes=("wide", "narrow", "chunky"), styles=("cartoon",), second="trackpad", finishes=_FINISH,
        colors={"silver": 3, "black": 1, "grey": 1}),
    "clock": Category(clock, synonyms=("timepiece",), kinds={
        "": ("clock", "wall clock"), "alarm": ("alarm clock",), "grandfather": ("grandfather clock", "longcase clock"),
        "cuckoo": ("cuckoo clock",)},
        parts={"handle": "a handle"}, sizes=("tall", "wide", "chunky"), styles=("rustic", "cartoon", "crooked"),
        second="hands", finishes={**_FINISH, "wood": 3}, colors={"brown": 2, "gold": 1}),
    "arcade cabinet": Category(arcade_cabinet, synonyms=("arcade machine", "video game cabinet"), kinds={
        "": ("arcade cabinet", "arcade machine"), "tabletop": ("tabletop arcade cabinet", "bartop arcade machine")},
        parts={"side stripe": "side stripes", "stool": "a stool in front"}, sizes=("tall", "wide", "narrow", "chunky"),
        styles=_STYLES, second="panel", finishes=_FINISH),
}
