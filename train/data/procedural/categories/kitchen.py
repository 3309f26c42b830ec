"""Vessels of the kitchen."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    box,
    capsule,
    cylinder,
    ellipsoid,
    frustum,
    hemisphere,
    lathe,
    smooth_path,
    sphere,
    torus,
    tube,
)


def _vessel(outer, wall: float, floor: float, n: int = 28):
    """A turned vessel: the outer profile [(radius, z)] from the bottom up, a wall and a floor."""
    inner = [(max(rad - wall, 0.05), max(z, floor)) for rad, z in outer[::-1] if z > floor * 0.6]
    return lathe([*outer, *inner, (0, floor)], n)


def mug(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h, wall = r.uniform(1.5, 1.9), r.uniform(3.2, 4.2), r.uniform(0.22, 0.32) * o.thick
    reach, round_handle, side = r.uniform(1.2, 1.6), r.random() < 0.6, int(r.choice([-1, 1]))
    thick = r.uniform(0.24, 0.34) * o.thick
    if o.kind == "tankard":
        outer = [(rad * 1.12, 0), (rad * 1.12, 0.3), (rad * 1.02, h * 0.6), (rad * 0.92, h * 1.15)]
        h *= 1.15
        for z in (0.5, h * 0.85):
            b.add(torus(rad * (1.08 if z < 1 else 0.97), 0.24), (0, 0, z), paint="secondary")
    elif o.kind == "cup":
        h *= 0.75
        outer = [(rad * 0.55, 0), (rad * 0.6, 0.25), (rad * 0.95, h * 0.35), (rad * 1.15, h * 0.7),
                 (rad * 1.2, h)]
        b.add(_vessel([(rad * 0.8, 0), (rad * 1.5, 0.25), (rad * 1.8, 0.55)], 0.3, 0.3, 32), paint="primary")
        outer = [(p, q + 0.25) for p, q in outer]
        h += 0.25
    elif o.kind == "travel":
        h *= 1.45
        outer = [(rad * 0.8, 0), (rad * 0.85, 0.2), (rad * 1.0, h)]
        b.stand(frustum(rad * 1.08, rad * 1.0, 0.7, 28), (0, 0, h - 0.2), paint="secondary")
        b.stand(frustum(rad * 0.8, rad * 0.7, 0.4, 24), (0, 0, h + 0.4), paint="secondary")
    else:
        outer = [(rad * 0.93, 0), (rad, 0.2), (rad, h * 0.5), (rad, h)]
    b.add(_vessel(outer, wall, 0.35), paint="primary")
    if o.has("coffee") and o.kind != "travel":
        b.add(cylinder(rad * (1.05 if o.kind == "cup" else 0.9) - wall * 0.5, 0.3, 26), (0, 0, h * 0.82),
              paint="soil")
    if o.has("band") and o.kind != "tankard":
        b.add(cylinder(rad * (1.06 if o.kind != "cup" else 0.99), 0.55, 28), (0, 0, h * 0.42),
              paint="secondary")
    if o.kind != "travel" or o.has("handle"):
        top, low, out = h * 0.8, h * 0.24, reach * side
        start = rad * 0.85 * side
        mid = [(start + out, 0, top - 0.1), (start + out, 0, low + 0.3)] if not round_handle else \
            [(start + out * 0.8, 0, top), (start + out * 1.1, 0, (top + low) / 2),
             (start + out * 0.7, 0, low)]
        b.add(tube(smooth_path([(start, 0, top), *mid, (start, 0, low)], 14), thick, 10), paint="primary")


def bowl(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h, wall = r.uniform(2.6, 3.2), r.uniform(1.6, 2.4), r.uniform(0.2, 0.3) * o.thick
    curve, foot = r.uniform(0.5, 0.8), r.uniform(0.35, 0.5)
    spots = r.uniform(-1, 1, (9, 2))
    if o.kind == "mixing":
        h *= 1.35
    if o.kind == "footed":
        b.stand(frustum(rad * 0.5, rad * 0.25, 1.3, 26), paint="secondary")
        z0 = 1.2
    else:
        b.stand(cylinder(rad * foot, 0.35, 26), paint="secondary")
        z0 = 0.2
    t = np.linspace(0.05, 1, 8)
    outer = [(rad * (foot + (1 - foot) * f**curve), z0 + h * (f**1.6)) for f in t]
    b.add(_vessel(outer, wall, z0 + 0.3, 32), paint="primary")
    if o.has("rim"):
        b.add(torus(rad - wall / 2, 0.22, n=32), (0, 0, z0 + h), paint="secondary")
    if o.has("fruit"):
        for k, (u, v) in enumerate(spots[:6]):
            q = 0.5 * rad * np.array([u, v]) / max(1.0, np.hypot(u, v))
            b.add(sphere(rad * 0.27, 12), (q[0], q[1], z0 + h * (0.72 if k < 5 else 0.95)),
                  paint=("red", "green", "orange", "yellow")[k % 4])
    if o.has("soup") and not o.has("fruit"):
        b.add(cylinder(rad * 0.86, 0.3, 30), (0, 0, z0 + h * 0.75), paint="orange")
    if o.has("handles"):
        b.both(torus(0.6, 0.2 * o.thick, 180, 16, 8), (rad * 0.93, 0, z0 + h * 0.82), (0, 0, -90),
               paint="primary")


def bottle(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h = r.uniform(1.2, 1.6), r.uniform(4.2, 5.4)
    neck, neck_h, cap = r.uniform(0.42, 0.55) * min(o.thick, 1.2), r.uniform(1.6, 2.6), r.uniform(0.6, 0.9)
    shoulder, band = r.uniform(0.6, 1.3), r.uniform(0.3, 0.45)
    if o.kind == "jug":
        rad, neck_h, shoulder = rad * 1.35, neck_h * 0.6, shoulder * 1.2
    elif o.kind == "water":
        neck, neck_h, shoulder = neck * 1.5, neck_h * 0.4, 0.8
    elif o.kind == "flask":
        b.add(lathe([(0.3, 0), (rad * 1.1, 0.1), (rad * 1.65, 1.0), (rad * 1.65, 1.7), (rad * 1.0, 3.0),
                     (neck, 3.7),
                     (neck, 5.0), (neck * 1.4, 5.1), (neck * 1.4, 5.4), (0, 5.4)], 28), paint="primary")
    z = h + shoulder
    if o.kind != "flask":
        body = [(rad * 0.92, 0), (rad, 0.25), (rad, h * 0.5), (rad, h), (rad * 0.86, h + shoulder * 0.45),
                (neck * 1.25, z), (neck, z + 0.4), (neck, z + neck_h), (0, z + neck_h)]
        b.add(lathe(body, 26), paint="primary")
        top = z + neck_h
    else:
        top = 5.4
    if o.has("cork"):
        b.stand(frustum(neck * 0.8, neck * 1.1, cap, 16), (0, 0, top - 0.1), paint="tan")
    else:
        b.stand(cylinder(neck * 1.35, cap, 18), (0, 0, top - cap * 0.5), paint="secondary")
    if o.has("label"):
        zz, rr = (h * 0.5, rad) if o.kind != "flask" else (1.35, rad * 1.63)
        b.add(cylinder(rr * 1.04, h * band if o.kind != "flask" else 0.9, 28), (0, 0, zz), paint="secondary")
    if o.has("handle") or o.kind == "jug":
        z1, z2 = (top - 0.5, h * 0.75) if o.kind != "flask" else (4.8, 2.6)
        b.add(tube(smooth_path([(neck * 0.7, 0, z1), (rad * 1.1, 0, z1 - 0.1), (rad * 1.35, 0, (z1 + z2) / 2),
                                (rad * 0.85, 0, z2)], 12), 0.24 * o.thick, 10), paint="primary")


def wine_glass(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, stem, cup = r.uniform(1.3, 1.7), r.uniform(2.2, 3.2), r.uniform(2.4, 3.2)
    foot, thin, rim = r.uniform(1.2, 1.5), r.uniform(0.22, 0.28) * o.thick, r.uniform(0.72, 0.88)
    if o.kind == "goblet":
        stem, foot, rim = stem * 0.7, foot * 1.05, 1.0
        b.add(ellipsoid(0.6, 0.6, 0.45, 14), (0, 0, stem * 0.6), paint="secondary")
    if o.kind == "flute":
        rad, cup, rim = rad * 0.62, cup * 1.5, 0.85
    if o.kind == "martini":
        b.add(_vessel([(thin, stem), (rad * 0.7, stem + 0.9), (rad * 1.45, stem + 2.0)], 0.2, stem + 0.35,
                      30))
    else:
        # a bowl that swells to its widest at 60% of the height and closes towards the rim
        outer = []
        for f in np.linspace(0, 1, 9):
            wide = np.sin(0.5 * np.pi * min(f / 0.6, 1.0) ** 0.6)
            close = 1 + (rim - 1) * max(f - 0.6, 0) / 0.4
            outer.append((max(thin, rad * wide * close), stem - 0.1 + cup * f))
        b.add(_vessel(outer, 0.2 * o.thick, stem + 0.35, 28), paint="primary")
    b.add(lathe([(foot, 0), (foot, 0.18), (foot * 0.5, 0.35), (thin * 1.2, 0.6), (thin, stem * 0.5),
                 (thin * 1.4, stem + 0.2), (0, stem + 0.2)], 28), paint="primary")
    if o.has("wine"):
        wide, z = (rad * 0.93 - 0.1, stem - 0.1 + cup * 0.6) if o.kind != "martini" else \
            (rad * 1.17 - 0.1, stem + 1.6)
        b.add(cylinder(wide, 0.3, 26), (0, 0, z), paint="maroon")
    if o.has("gold rim") and o.kind != "martini":
        b.add(torus(rad * rim - 0.1, 0.17, n=28), (0, 0, stem - 0.1 + cup), paint="gold")


def teapot(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, squash, lid = r.uniform(2.0, 2.4), r.uniform(0.72, 0.95), r.uniform(0.5, 0.65)
    spout, handle, side = r.uniform(0.9, 1.15), r.uniform(0.26, 0.36) * o.thick, int(r.choice([-1, 1]))
    knob = r.uniform(0.32, 0.45)
    h = rad * squash
    if o.kind == "kettle":
        profile = [(rad * 1.1, 0), (rad * 1.12, 0.3), (rad * 0.95, h * 0.9), (rad * 0.6, h * 1.6),
                   (0, h * 1.75)]
        b.add(lathe(profile, 28), paint="primary")
        top = h * 1.65
    elif o.kind == "tall":
        h *= 1.35
        b.add(lathe([(rad * 0.75, 0), (rad * 0.9, 0.4), (rad * 0.85, h), (rad * 0.55, h * 1.8),
                     (0, h * 1.85)], 26))
        top = h * 1.8
    else:
        b.add(ellipsoid(rad, rad, h, 26), (0, 0, h * 0.95), paint="primary")
        b.stand(cylinder(rad * 0.6, 0.5, 24), (0, 0, 0), paint="primary")
        top = h * 1.85
    b.add(hemisphere(rad * lid, 24, 0.55), (0, 0, top - 0.2), paint="secondary")
    b.add(sphere(knob, 14), (0, 0, top + 0.5), paint="secondary")
    s = side
    curve = [(s * rad * 0.6, 0, h * 0.55), (s * rad * 1.3, 0, h * 0.8), (s * rad * 1.5 * spout, 0, h * 1.35),
             (s * rad * 1.85 * spout, 0, h * 1.7)]
    b.add(tube(smooth_path(curve, 12), np.linspace(0.62, 0.3, 12), 12), paint="primary")
    if o.kind == "kettle" or o.has("top handle"):
        arc = [(-rad * 0.75, 0, top - 0.6), (-rad * 0.6, 0, top + 1.5), (rad * 0.6, 0, top + 1.5),
               (rad * 0.75, 0, top - 0.6)]
        b.add(tube(smooth_path(arc, 16), handle, 10), paint="secondary")
    else:
        arc = [(-s * rad * 0.7, 0, h * 1.45), (-s * rad * 1.6, 0, h * 1.5), (-s * rad * 1.65, 0, h * 0.7),
               (-s * rad * 0.75, 0, h * 0.45)]
        b.add(tube(smooth_path(arc, 16), handle, 10), paint="primary")
    if o.has("feet"):
        b.ring(sphere(0.35, 10), 3, at=(rad * 0.55, 0, 0), start=30, paint="secondary")


def vase(b: Builder, r: np.random.Generator, o: Options) -> None:
    h, rad, neck = r.uniform(5.0, 6.5), r.uniform(1.5, 2.2), r.uniform(0.5, 0.85)
    lip, foot, wall = r.uniform(0.8, 1.3), r.uniform(0.7, 1.0), r.uniform(0.22, 0.3) * o.thick
    where, sides = r.uniform(0.3, 0.6), int(r.choice([28, 28, 8, 6]))
    angles, colors = r.uniform(0, 360, 5), r.permutation(["red", "yellow", "pink", "white", "purple"])
    if o.kind == "cylinder":
        keys = [(0, rad * 0.7), (0.3, rad * 0.72), (0.7, rad * 0.75), (1, rad * 0.8)]
    elif o.kind == "round":
        h *= 0.8
        keys = [(0, foot * 0.9), (0.2, rad * 0.98), (0.45, rad * 1.25), (0.75, rad * 0.85), (0.9, neck),
                (1, neck * 1.25)]
    elif o.kind == "bottle":
        keys = [(0, foot), (0.18, rad), (0.35, rad * 0.85), (0.55, neck * 0.75), (0.9, neck * 0.65),
                (1, neck)]
    else:
        keys = [(0, foot), (where * 0.5, rad * 0.8), (where, rad), (0.82, neck), (0.9, neck), (1, lip)]
    xs, ys = zip(*keys, strict=True)
    path = smooth_path(np.stack([ys, xs, np.zeros(len(xs))], 1), 15)
    outer = [(float(max(p, 0.35)), float(q * h)) for p, q, _ in path]
    b.add(_vessel(outer, wall, 0.5, sides), paint="primary")
    if o.has("handles"):
        z = h * 0.78
        inner = float(np.interp(z, [q for _, q in outer], [p for p, _ in outer]))
        low = float(np.interp(h * 0.5, [q for _, q in outer], [p for p, _ in outer]))
        arc = [(inner * 0.9, 0, z + 0.5), (max(inner, low) + 0.9, 0, z + 0.3), (low * 0.95, 0, h * 0.48)]
        b.both(tube(smooth_path(arc, 12), 0.22 * o.thick, 8), paint="secondary")
    if o.has("band"):
        z = h * 0.42
        ring = float(np.interp(z, [q for _, q in outer], [p for p, _ in outer]))
        b.add(torus(ring, 0.22, n=28), (0, 0, z), paint="secondary")
    if o.has("flowers"):
        for k, a in enumerate(angles):
            q = np.array([np.cos(np.radians(a)), np.sin(np.radians(a))]) * (0.9 if k else 0.0)
            tip = (q[0], q[1], h + 1.6 + 0.4 * (k % 3))
            b.add(tube([(q[0] * 0.1, q[1] * 0.1, 0.6), (q[0] * 0.25, q[1] * 0.25, h), tip], 0.15, 6),
                  paint="leaf")
            b.add(ellipsoid(0.62, 0.62, 0.45, 12), tip, paint=str(colors[k]))
            b.add(sphere(0.26, 8), (tip[0], tip[1], tip[2] + 0.35), paint="gold")


def bucket(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h, taper = r.uniform(2.2, 2.7), r.uniform(3.6, 4.6), r.uniform(0.68, 0.82)
    wall, up, bands = r.uniform(0.2, 0.28) * o.thick, r.uniform(0.0, 1.0), int(r.integers(1, 3))
    sides = 28
    b.add(_vessel([(rad * taper, 0), (rad * (taper + 1) / 2, h / 2), (rad, h)], wall, 0.4, sides),
          paint="primary")
    b.add(torus(rad, 0.22 * o.thick, n=30), (0, 0, h), paint="primary")
    if o.kind == "wooden":
        b.ring(box(0.22, rad * 0.2, h * 0.97), 16, at=(rad * (1 + taper) / 2, 0, h / 2), rotate=(0, 8, 0))
        bands = 2
    for k in range(bands):
        f = (k + 1) / (bands + 1) if o.kind != "wooden" else (0.2, 0.8)[k]
        b.add(cylinder(rad * (taper + (1 - taper) * f) * 1.05 + (0.12 if o.kind == "wooden" else 0), 0.4, 28),
              (0, 0, h * f), paint="secondary")
    top = h + (rad * 0.95 if up > 0.35 else 0.15)
    arc = [(-rad, 0, h - 0.2), (-rad * 0.85, -rad * (0.3 if up <= 0.35 else 0), h + (top - h) * 0.65),
           (0, -rad * (1.02 if up <= 0.35 else 0), top),
           (rad * 0.85, -rad * (0.3 if up <= 0.35 else 0), h + (top - h) * 0.65), (rad, 0, h - 0.2)]
    b.add(tube(smooth_path(arc, 18), 0.2 * o.thick, 8), paint="secondary")
    if up > 0.35:
        b.add(capsule(0.36, 1.5, 12), (0, 0, top), (0, 90, 0), paint="accent")
    b.both(sphere(0.38, 12), (rad, 0, h - 0.3), paint="secondary")
    if o.has("water"):
        b.add(cylinder(rad * 0.93, 0.3, 28), (0, 0, h * 0.82), paint="light blue")
    if o.has("sand"):
        b.add(hemisphere(rad * 0.92, 24, h * 0.35), (0, 0, h * 0.85), paint="tan")


CATEGORIES = {
    "mug": Category(mug, synonyms=("cup", "coffee mug"), kinds={
        "": ("mug", "coffee mug"), "tankard": ("tankard", "beer mug"), "cup": ("teacup and saucer", "cup"),
        "travel": ("travel mug", "insulated mug")},
        parts={"coffee": "coffee inside", "band": "a coloured band", "handle": "a handle"},
        sizes=("tall", "short", "wide", "chunky"), styles=("rustic", "cartoon", "crooked"),
        finishes={"glossy": 3, "painted": 2, "striped": 1, "dotted": 1, "brushed metal": 1}),
    "bowl": Category(bowl, synonyms=("dish",), kinds={
        "": ("bowl", "round bowl"), "mixing": ("mixing bowl", "deep bowl"), "footed": ("footed bowl", "pedestal bowl")},
        parts={"rim": "a coloured rim", "fruit": "fruit in it", "soup": "soup in it",
               "handles": "two handles"},
        sizes=("tall", "short", "chunky"), styles=("rustic", "cartoon", "crooked"), second="foot",
        finishes={"glossy": 3, "painted": 2, "striped": 1, "wood": 1, "stone": 1}),
    "bottle": Category(bottle, kinds={
        "": ("bottle", "wine bottle"), "jug": ("jug bottle", "jug"), "water": ("water bottle", "drink bottle"),
        "flask": ("potion bottle", "flask bottle")},
        parts={"cork": "a cork", "label": "a label", "handle": "a handle"},
        sizes=("tall", "short", "wide", "slender", "chunky"), styles=("rustic", "cartoon", "crooked"),
        finishes={"glass-like": 4, "glossy": 2, "painted": 2}, colors={"green": 3, "brown": 1, "blue": 1}),
    "wine glass": Category(wine_glass, synonyms=("wineglass", "goblet"), kinds={
        "": ("wine glass", "stemmed glass"), "goblet": ("goblet", "chalice"),
        "flute": ("champagne flute", "flute glass"),
        "martini": ("martini glass", "cocktail glass")},
        parts={"wine": "red wine inside", "gold rim": "a golden rim"}, sizes=("tall", "wide", "short", "slender"),
        styles=("cartoon", "crooked"), finishes={"glass-like": 5, "glossy": 2, "brushed metal": 1},
        colors={"light blue": 2, "white": 2, "silver": 1, "gold": 1}),
    "teapot": Category(teapot, synonyms=("tea pot",), kinds={
        "": ("teapot", "round teapot"), "kettle": ("kettle", "tea kettle"), "tall": ("coffee pot", "high teapot")},
        parts={"top handle": "a handle over the top", "feet": "small feet"}, sizes=("tall", "wide", "short", "chunky"),
        styles=("rustic", "cartoon", "crooked"), second="lid",
        finishes={"glossy": 3, "painted": 2, "dotted": 1, "brushed metal": 1}),
    "vase": Category(vase, synonyms=("flower vase", "urn"), kinds={
        "": ("vase", "urn"), "cylinder": ("straight vase", "vase"), "round": ("round vase", "bulb vase"),
        "bottle": ("long-necked vase", "bottle vase")},
        parts={"handles": "two handles", "band": "a coloured band", "flowers": "flowers in it"},
        sizes=("tall", "short", "wide", "slender", "chunky"), styles=("rustic", "cartoon", "crooked"),
        finishes={"glossy": 3, "painted": 2, "stone": 1, "striped": 1, "glass-like": 1}),
    "bucket": Category(bucket, synonyms=("pail",), kinds={
        "": ("bucket", "pail"), "wooden": ("stave bucket", "well bucket")},
        parts={"water": "water in it", "sand": "sand in it"}, sizes=("tall", "wide", "short", "chunky"),
        styles=("rustic", "cartoon", "crooked"), second="handle",
        finishes={"painted": 3, "brushed metal": 2, "wood": 2, "glossy": 1}),
}
