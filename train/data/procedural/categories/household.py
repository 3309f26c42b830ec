"""Shelves, cabinets, fridges and lamps."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    beam,
    box,
    capsule,
    cylinder,
    ellipsoid,
    frustum,
    lathe,
    rod,
    rounded_box,
    sphere,
    torus,
)

BOOKS = ("red", "blue", "green", "yellow", "purple", "orange", "teal", "cream", "maroon", "navy")


def bookshelf(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(2.6, 4.0), r.uniform(1.1, 1.4), r.uniform(7.5, 10.0)
    shelves, t = int(r.integers(3, 6)), r.uniform(0.34, 0.45) * o.thick
    colors, widths, heights = r.permutation(BOOKS), r.uniform(0.35, 0.6, 200), r.uniform(0.6, 0.88, 200)
    fill, crown = r.uniform(0.5, 1.0, 8), r.random() < 0.5
    if o.kind == "low":
        h, shelves = h * 0.55, 2
    if o.kind == "ladder":
        for k in range(shelves + 1):
            f = k / shelves
            b.add(box(2 * x, 2 * y * (1.5 - 0.8 * f), t), (0, y * 0.8 * f, 0.5 + (h - 1) * f),
                  paint="primary")
        b.both(beam((x, -y * 1.6, 0), (x, y * 0.9, h), 0.5 * o.thick, 0.45), paint="primary")
        b.both(beam((x, y * 1.4, 0), (x, y * 1.4, h), 0.5 * o.thick, 0.45), paint="primary")
        depth, front = y * 0.8, 0.2
    else:
        b.both(box(t, 2 * y, h), (x, 0, h / 2), paint="primary")
        for k in range(shelves + 1):
            b.add(box(2 * x, 2 * y - 0.05, t), (0, 0, 0.3 + (h - 0.5) * k / shelves), paint="primary")
        b.add(box(2 * x, 0.3, h - 0.2), (0, y - 0.15, h / 2), paint="primary")
        if crown:
            b.stand(box(2 * x + 0.9, 2 * y + 0.4, 0.5), (0, 0, h - 0.2), paint="primary")
            b.stand(box(2 * x + 0.7, 2 * y + 0.3, 0.6), (0, 0, 0), paint="primary")
        depth, front = y * 1.1, 0.1
    gap, i = (h - 0.5) / shelves - t, 0
    for k in range(shelves if o.has("books") else 0):
        left, z = -x + t, 0.3 + (h - 0.5) * k / shelves + t / 2 - 0.03
        shift = y * 0.8 * k / shelves if o.kind == "ladder" else 0.0
        while left + widths[i % 200] < -x + t + (2 * x - 2 * t) * fill[k]:
            tall = gap * heights[i % 200]
            b.add(box(widths[i % 200] - 0.02, depth, tall), (left + widths[i % 200] / 2, front + shift, z + tall / 2),
                  paint=str(colors[i % len(colors)]))
            left, i = left + widths[i % 200], i + 1
    if o.has("doors") and o.kind != "ladder":
        for s in (-1, 1):
            b.add(box(x - 0.12, 0.3, gap + t), (s * x / 2, -y, 0.4 + gap / 2), paint="primary")
            b.add(sphere(0.22, 10), (s * 0.35, -y - 0.2, 0.4 + gap / 2), paint="secondary")


def cabinet(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(2.6, 3.6), r.uniform(1.5, 2.1), r.uniform(5.5, 7.5)
    foot, doors, drawers, panel = r.uniform(0.4, 0.9), int(r.integers(1, 3)), int(r.integers(3, 6)), r.random() < 0.6
    round_foot, top, split = r.random() < 0.5, r.uniform(0.1, 0.4), r.uniform(0.2, 0.32)
    if o.kind == "wardrobe":
        h, x = h * 1.5, x * 1.05
    b.add(box(2 * x, 2 * y, h), (0, 0, foot + h / 2), paint="primary")
    b.stand(box(2 * x + 2 * top, 2 * y + 2 * top, 0.45), (0, 0, foot + h - 0.1), paint="primary")
    b.add(box(2 * x + top, 2 * y + top, 0.4), (0, 0, foot + 0.2), paint="primary")
    b.four(sphere(0.5 * o.thick, 12) if round_foot else box(0.7 * o.thick, 0.7, 2 * foot + 0.2),
           (x - 0.5, y - 0.5, foot / 2 + 0.05), paint="secondary")
    if o.kind == "chest of drawers":
        d = (h - 0.5) / drawers
        for k in range(drawers):
            z = foot + 0.3 + d * (k + 0.5)
            b.add(box(2 * x - 0.4, 0.45, d - 0.28, 0.06), (0, -y, z), paint="primary")
            b.both(ellipsoid(0.28, 0.25, 0.28, 12), (x * 0.5, -y - 0.35, z), paint="secondary")
    else:
        low = foot + 0.3 + (split * h if o.kind != "wardrobe" else 0.12 * h)
        high = foot + h - 0.3
        for s in (-1, 1) if doors == 2 or o.kind == "wardrobe" else (0,):
            wide, cx = (x - 0.22, s * x / 2) if s else (2 * x - 0.4, 0)
            b.add(box(wide, 0.4, high - low), (cx, -y, (low + high) / 2), paint="primary")
            if o.has("glass doors"):
                b.add(box(wide - 0.7, 0.3, high - low - 0.7), (cx, -y - 0.1, (low + high) / 2), paint="glass")
            elif panel:
                b.add(box(wide - 0.8, 0.3, high - low - 0.9, 0.12), (cx, -y - 0.2, (low + high) / 2),
                      paint="primary")
            hx = s * 0.42 if s else x - 0.6
            b.add(capsule(0.2, 1.2, 10), (hx, -y - 0.35, (low + high) / 2), paint="secondary")
        for s in (-1, 1):
            b.add(box(x - 0.22, 0.4, low - foot - 0.5), (s * x / 2, -y, (low + foot + 0.1) / 2),
                  paint="primary")
            b.add(capsule(0.18, 0.9, 10), (s * x / 2, -y - 0.3, (low + foot + 0.1) / 2), (0, 90, 0),
                  paint="secondary")
    if o.has("mirror"):
        b.add(cylinder(x * 0.62, 0.4, 30), (0, y * 0.6, foot + h + x * 0.58), (90, 0, 0), paint="secondary")
        b.add(cylinder(x * 0.52, 0.4, 30), (0, y * 0.6 - 0.1, foot + h + x * 0.58), (90, 0, 0), paint="glass")


def fridge(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(2.2, 2.7), r.uniform(1.9, 2.3), r.uniform(7.0, 8.5)
    soft, split, side = r.uniform(0.2, 0.35), r.uniform(0.6, 0.72), int(r.choice([-1, 1]))
    spots = r.uniform(-0.8, 0.8, (4, 2))
    colors = r.permutation(["red", "yellow", "blue", "green", "orange"])
    if o.kind == "retro":
        soft, h = 0.95, h * 0.9
    if o.kind == "mini":
        h *= 0.55
    b.four(cylinder(0.35, 0.6, 12), (x - 0.6, y - 0.6, 0.3), paint="dark")
    b.add(rounded_box(2 * x, 2 * y, h, soft, 4), (0, 0, 0.4 + h / 2), paint="primary")
    if o.kind == "double":
        panels = [(s * (x / 2 + 0.02), 0.4 + h / 2, x - 0.15, h - 0.3, -s) for s in (-1, 1)]
    elif o.kind == "mini":
        panels = [(0, 0.4 + h / 2, 2 * x - 0.15, h - 0.3, side)]
    else:
        z = 0.4 + h * split
        panels = [(0, (z + 0.5) / 2, 2 * x - 0.1, z - 0.7, side),
                  (0, (z + 0.4 + h) / 2, 2 * x - 0.1, h + 0.3 - z, side)]
    for cx, cz, w, tall, s in panels:
        b.add(rounded_box(w, 0.8, tall, min(soft, 0.38), 2), (cx, -y, cz), paint="primary")
        hx = cx + s * (w / 2 - 0.45)
        bar = min(tall * 0.5, 2.6)
        b.add(capsule(0.2 * o.thick, bar, 10), (hx, -y - 0.7, cz), paint="secondary")
        for e in (-1, 1):
            b.add(box(0.26, 0.6, 0.26), (hx, -y - 0.45, cz + e * (bar / 2 - 0.25)), paint="secondary")
    cx, cz, w, tall, s = panels[-1 if o.kind != "mini" else 0]
    if o.has("magnets"):
        for (u, v), c in zip(spots, colors, strict=False):
            b.add(box(0.55, 0.3, 0.55), (cx - s * 0.2 + u * w * 0.32, -y - 0.42, cz + v * tall * 0.38),
                  paint=str(c))
    if o.has("water dispenser"):
        cx, cz, w, tall, s = panels[0]
        b.add(box(min(1.3, w * 0.6), 0.3, 1.7), (cx - s * 0.15 * w, -y - 0.33, max(cz, 0.4 + h * 0.45)),
              paint="dark")
        b.add(box(min(0.9, w * 0.4), 0.3, 0.5), (cx - s * 0.15 * w, -y - 0.42, max(cz, 0.4 + h * 0.45) + 0.5),
              paint="glow")


def lamp(b: Builder, r: np.random.Generator, o: Options) -> None:
    h, rad, top = r.uniform(4.5, 6.0), r.uniform(2.0, 2.7), r.uniform(0.45, 0.8)
    shade_h, pole, base = r.uniform(2.2, 3.2), r.uniform(0.2, 0.3) * o.thick, r.uniform(1.2, 1.6)
    belly, dome, tilt = r.uniform(0.7, 1.3), r.random() < 0.25, r.uniform(20, 45)
    if o.kind == "desk":
        b.stand(frustum(base * 1.1, base * 0.95, 0.6, 24), paint="primary")
        elbow, tip = np.array([0, 1.6, h * 0.5]), np.array([0, -0.9, h * 0.95])
        b.add(rod((0, 0, 0.4), elbow, pole * 1.2), paint="secondary")
        b.add(rod(elbow, tip, pole * 1.2), paint="secondary")
        b.add(sphere(pole * 2.0, 12), tuple(elbow), paint="primary")
        shade = lathe([(rad * 0.92, 0), (rad, 0.0), (rad * 0.55, 1.5), (0.5, 2.0), (0.45, 2.5), (0, 2.5)], 26)
        b.add(shade, tuple(tip + (0, -0.6, -1.4)), (-tilt, 0, 0), paint="primary")
        b.add(sphere(0.8, 14), tuple(tip + (0, -0.8, -1.4)), paint="glow" if o.futuristic else "cream")
        return
    z = h
    if o.kind == "floor":
        z = h * 1.9
        b.stand(frustum(base * 1.25, base, 0.5, 28), paint="secondary")
        b.add(rod((0, 0, 0.3), (0, 0, z + 1), pole * 1.2), paint="secondary")
        if o.has("tripod"):
            b.ring(rod((base * 1.8, 0, 0), (0, 0, z * 0.7), pole), 3, start=90, paint="primary")
    else:
        profile = [(base, 0), (base, 0.35), (base * 0.5, 0.7), (belly, h * 0.25), (belly * 1.05, h * 0.4),
                   (pole * 1.6, h * 0.75), (pole, h + 1), (0, h + 1)]
        b.add(lathe(profile, 24), paint="secondary")
    if o.futuristic:
        b.add(sphere(rad * 0.95, 22), (0, 0, z + rad * 0.7), paint="primary")
        b.add(torus(rad * 1.15, 0.24), (0, 0, z + rad * 0.7), paint="glow")
    elif dome:
        b.add(lathe([(rad * 0.9, 0), (rad, 0), *[(rad * np.cos(a), rad * np.sin(a)) for a in (0.3, 0.6, 0.9, 1.2)],
                     (0, rad)], 26), (0, 0, z), paint="primary")
        b.add(sphere(0.9, 14), (0, 0, z + 0.2), paint="cream")
    else:
        b.stand(frustum(rad, rad * top, shade_h, 26), (0, 0, z), paint="primary")
        b.add(sphere(0.3, 10), (0, 0, z + shade_h + 0.15), paint="secondary")
    if o.has("pull chain"):
        b.both(rod((rad * 0.55, 0, z + 0.3), (rad * 0.55, 0, z - 1.3), 0.15), paint="metal")
        b.both(sphere(0.3, 10), (rad * 0.55, 0, z - 1.4), paint="accent")


CATEGORIES = {
    "bookshelf": Category(bookshelf, synonyms=("bookcase", "shelf"), kinds={
        "": ("bookshelf", "bookcase"), "low": ("low bookshelf", "low bookcase"), "ladder": ("ladder shelf",)},
        parts={"books": "books", "doors": "small doors at the bottom"}, sizes=("tall", "wide", "narrow", "chunky"),
        styles=("rustic", "cartoon", "crooked"), finishes={"wood": 4, "painted": 2},
        colors={"brown": 3, "tan": 1, "white": 1}),
    "cabinet": Category(cabinet, synonyms=("cupboard",), kinds={
        "": ("cabinet", "cupboard"), "wardrobe": ("wardrobe", "closet"),
        "chest of drawers": ("chest of drawers", "dresser")},
        parts={"glass doors": "glass doors", "mirror": "a round mirror"}, sizes=("tall", "wide", "narrow", "short"),
        styles=("rustic", "cartoon", "crooked"), finishes={"wood": 4, "painted": 2, "glossy": 1},
        colors={"brown": 3, "tan": 1, "white": 1}, second="handles"),
    "fridge": Category(fridge, synonyms=("refrigerator",), kinds={
        "": ("fridge", "refrigerator"), "retro": ("retro fridge", "vintage refrigerator"),
        "double": ("double door fridge", "side-by-side refrigerator"), "mini": ("mini fridge",)},
        parts={"magnets": "magnets on the door", "water dispenser": "a water dispenser"},
        sizes=("tall", "wide", "narrow", "short"), styles=("cartoon", "crooked"), second="handles",
        finishes={"glossy": 3, "painted": 2, "brushed metal": 3}, colors={"white": 3, "silver": 2, "mint": 1}),
    "lamp": Category(lamp, synonyms=("light",), kinds={
        "table": ("table lamp", "lamp"), "floor": ("floor lamp", "standing lamp"),
        "desk": ("desk lamp", "reading lamp")},
        parts={"pull chain": "pull chains", "tripod": "tripod legs"}, sizes=("tall", "wide", "short", "chunky"),
        styles=("futuristic", "cartoon", "crooked"), second="base"),
}
