"""Houses, towers and tents; the door is towards -y."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    beam,
    box,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    frustum,
    hemisphere,
    lathe,
    rod,
    roof,
    sphere,
    torus,
    tube,
)


def _window(b: Builder, x: float, y: float, z: float, w: float, h: float, paint: str = "glass") -> None:
    """A framed window in a wall that faces the front."""
    b.add(box(w + 0.3, 0.3, h + 0.3), (x, y, z), paint="light")
    b.add(box(w, 0.4, h), (x, y - 0.03, z), paint=paint)


def _door(b: Builder, x: float, y: float, z: float, w: float, h: float, round_top: bool,
          paint: str = "secondary") -> None:
    if round_top:
        t = np.linspace(0, np.pi, 9)
        top = [(w / 2 * np.cos(a), h - w / 2 + w / 2 * np.sin(a)) for a in t]
        b.add(extrude([(w / 2, 0), *top, (-w / 2, 0)], 0.5, "y"), (x, y, z), paint=paint)
    else:
        b.add(box(w, 0.5, h), (x, y, z + h / 2), paint=paint)
    b.add(sphere(0.16, 8), (x + w * 0.3, y - 0.3, z + h * 0.45), paint="gold")


def house(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(2.8, 3.8) * o.width, r.uniform(2.4, 3.2) * o.length, r.uniform(3.6, 4.6) * o.height
    pitch, over, side = r.uniform(1.1, 1.8) * o.height**0.5, r.uniform(0.2, 0.4), int(r.choice([-1, 1]))
    door_x, turned, round_door = r.uniform(-0.2, 0.2), r.random() < 0.5, r.random() < 0.3
    wing = r.uniform(0.6, 0.8)
    stories = 2 if o.kind in ("two-storey",) else 1
    wall = h * (1 if stories == 1 else 1.75)
    if o.kind == "cabin":
        logs = 7
        for k in range(logs):
            z = wall * (k + 0.5) / logs
            b.both(cylinder(wall / logs * 0.58, 2 * y + 0.9, 12), (x, 0, z), (90, 0, 0), paint="primary")
            for s in (-1, 1):
                b.add(cylinder(wall / logs * 0.58, 2 * x + 0.9, 12), (0, s * y, z), (0, 90, 0),
                      paint="primary")
        b.stand(box(2 * x, 2 * y, wall), paint="primary")
        face = y + wall / logs * 0.5
    else:
        b.stand(box(2 * x, 2 * y, wall), paint="primary")
        face = y
    if o.futuristic:
        b.stand(ellipsoid(x * 1.25, y * 1.25, pitch * 0.9, 24), (0, 0, wall - pitch * 0.7), paint="secondary")
        b.add(torus(1, 0.07, n=28), (0, 0, wall), scale=(x * 1.25, y * 1.25, 3), paint="glow")
    elif turned:
        b.add(roof(2 * y, 2 * x, pitch, over), (0, 0, wall - 0.15), (0, 0, 90), paint="secondary")
        gable = extrude([(-y * 0.98, 0), (y * 0.98, 0), (0, pitch * 0.96)], 2 * x, "x")
        b.add(gable, (0, 0, wall - 0.1), (0, 0, 0), (1.0, 0.9, 0.9), paint="primary")
    else:
        b.add(roof(2 * x, 2 * y, pitch, over), (0, 0, wall - 0.15), paint="secondary")
        b.add(roof(1.8 * x, 2 * y, pitch * 0.86), (0, 0, wall - 0.1), scale=(1, 1 + 2 * over / (2 * y) + 0.03, 1))
    _door(b, door_x * x, -face, 0, min(1.3, x * 0.5), min(2.2, h * 0.72), round_door)
    for k in range(stories):
        z = h * 0.58 + k * h * 0.85
        for s in (-1, 1):
            _window(b, s * x * 0.64, -face, z, x * 0.3, h * 0.24)
            b.both(box(0.3, y * 0.42, h * 0.3), (face - y + x, s * y * 0.45, z), paint="glass")
        if k:
            _window(b, 0, -face, z, x * 0.32, h * 0.28)
    if o.has("chimney"):
        b.stand(box(0.9 * o.thick, 0.9, pitch + 1.2), (side * x * 0.5, y * 0.4, wall - 0.2), paint="primary")
        b.stand(box(1.1 * o.thick, 1.1, 0.35), (side * x * 0.5, y * 0.4, wall + pitch + 0.8), paint="dark")
    if o.has("porch"):
        b.stand(box(2 * x, 1.7, 0.3), (0, -face - 0.8, 0), paint="wood")
        b.both(box(0.3, 0.3, h * 0.85), (x * 0.9, -face - 1.4, h * 0.42), paint="primary")
        b.add(box(2 * x + 0.3, 2.0, 0.3), (0, -face - 0.85, h * 0.88), (10, 0, 0), paint="secondary")
    if o.has("garage"):
        gx = side * (x + x * wing * 0.9)
        b.stand(box(2 * x * wing, 1.7 * y, h * 0.82), (gx, y * 0.1, 0), paint="primary")
        b.add(box(1.2 * x * wing, 0.4, h * 0.5), (gx, y * 0.1 - 0.85 * y, h * 0.25), paint="light")
        b.stand(box(2 * x * wing + 0.3, 1.7 * y + 0.3, 0.35), (gx, y * 0.1, h * 0.8), paint="primary")


def castle_tower(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h = r.uniform(1.8, 2.4), r.uniform(6.0, 8.5)
    flare, merlons, taper = r.uniform(1.12, 1.28), int(r.integers(7, 11)), r.uniform(0.86, 1.0)
    roof_h, round_door, slits = r.uniform(2.6, 4.0), r.random() < 0.8, int(r.integers(1, 4))
    square = o.kind == "square"
    n = 4 if square else 26
    k2 = np.sqrt(2) if square else 1.0

    def drum(low: float, high: float, z0: float, z1: float, paint: str = "primary") -> None:
        s = frustum(low * k2, high * k2, z1 - z0, n)
        b.add(s, (0, 0, (z0 + z1) / 2), (0, 0, 45 if square else 0), paint=paint)

    drum(rad * 1.18, rad * 1.05, 0, 0.9)
    drum(rad, rad * taper, 0.4, h)
    top = rad * taper * flare
    drum(rad * taper * 0.95, top, h - 0.6, h + 0.1)
    drum(top, top, h, h + 0.7)
    if square:
        for s in (-1, 1):
            for f in (-0.84, -0.28, 0.28, 0.84):
                b.add(box(0.36 * top, 0.45, 0.95), (f * top, s * (top - 0.2), h + 1.0), paint="primary")
                b.add(box(0.45, 0.36 * top, 0.95), (s * (top - 0.2), f * top, h + 1.0), paint="primary")
    else:
        b.ring(box(0.5, top * 3.2 / merlons, 0.95), merlons, at=(top - 0.25, 0, h + 1.0), paint="primary")
    if o.kind == "pointed" or o.has("pointed roof"):
        b.stand(cylinder(rad * 0.8, 1.4, 24), (0, 0, h), paint="primary")
        b.stand(cone(rad * 1.05, roof_h, 26), (0, 0, h + 1.2), paint="secondary")
        peak = h + 1.2 + roof_h
    else:
        peak = h + 0.6
    _door(b, 0, -rad * 0.985, 0.2, 1.3, 2.2, round_door, "wood")
    for k in range(slits):
        z = h * (0.5 + 0.17 * k)
        b.add(box(0.42, 0.5, 1.0), (0, -rad * (1 - (1 - taper) * z / h) + 0.12, z), paint="dark")
        b.both(box(0.5, 0.42, 1.0), (rad * (1 - (1 - taper) * z / h) - 0.12, 0, z - 0.6), paint="dark")
    if o.has("flag"):
        b.add(rod((0, 0, peak - 0.3), (0, 0, peak + 2.4), 0.17 * o.thick), paint="wood")
        b.add(extrude([(0, peak + 2.3), (0, peak + 1.2), (1.9, peak + 1.75)], 0.28, "y"), paint="secondary")
    if o.has("side turret"):
        a = rad * 1.0
        b.add(lathe([(0.15, h * 0.4), (0.85, h * 0.52), (0.85, h * 0.82), (0, h * 0.82)], 18), (a, 0, 0),
              paint="primary")
        b.stand(cone(1.1, 1.7, 18), (a, 0, h * 0.81), paint="secondary")
    if o.has("banner"):
        b.add(box(1.0, 0.3, 2.4), (0, -rad * taper * 1.03, h * 0.72), paint="secondary")
    if o.has("ivy"):
        for k in range(8):
            a = -2.2 + 0.25 * (k % 3)
            b.add(ellipsoid(0.55, 0.55, 0.5, 10), (rad * np.cos(a), rad * np.sin(a), 0.5 + k * 0.55),
                  paint="leaf")


def windmill(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h, taper = r.uniform(1.9, 2.4), r.uniform(5.6, 7.0) * o.height, r.uniform(0.58, 0.7)
    blades, angle, span = int(r.choice([4, 4, 4, 5, 6])), r.uniform(0, 90), r.uniform(3.4, 4.2)
    n, gallery, cap = int(r.choice([8, 8, 26])), r.random() < 0.5, r.random() < 0.5
    rad *= o.width
    if o.kind == "wind pump":
        for s in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            b.add(rod((s[0] * rad * 0.8, s[1] * rad * 0.8, 0), (s[0] * 0.3, s[1] * 0.3, h), 0.24 * o.thick),
                  paint="primary")
        for f in (0.15, 0.45, 0.72):
            w = rad * 0.8 * (1 - f) + 0.3 * f
            for s in (-1, 1):
                b.add(beam((-w, s * w, h * f), (w, s * w, h * f), 0.3), paint="primary")
                b.add(beam((s * w, -w, h * f), (s * w, w, h * f), 0.3), paint="primary")
        b.add(box(0.3, 2.6, 0.3), (0, 1.2, h), paint="primary")
        b.add(box(0.3, 1.3, 1.5), (0, 2.8, h), paint="primary")
        p = Builder()
        p.ring(extrude([(0.5, -0.2), (span * 0.62, -0.55), (span * 0.62, 0.55), (0.5, 0.2)], 0.26, "z"), 10,
               rotate=(0, 0, 0), start=angle, paint="primary")
        p.add(cylinder(0.5, 0.7, 18), paint="secondary")
        p.add(torus(span * 0.36, 0.16, n=28, m=6), paint="secondary")
        b.group(p, (0, -0.6, h), (90, 0, 0))
        b.add(box(0.8, 1.2, 0.8), (0, 0, h), paint="secondary")
        return
    b.add(lathe([(rad, 0), (rad * (1 + taper) / 2, h / 2), (rad * taper, h), (0, h)], n), paint="primary")
    top = rad * taper
    if cap:
        b.add(hemisphere(top * 1.12, 22, top * 0.95), (0, 0, h - 0.1), paint="secondary")
    else:
        b.add(cone(top * 1.2, 1.7, n if n > 8 else 8), (0, 0, h + 0.75), paint="secondary")
    if gallery:
        f = 0.4
        g = rad * (1 - (1 - taper) * f)
        b.add(cylinder(g * 1.3, 0.3, 24), (0, 0, h * f), paint="wood")
    _door(b, 0, -rad * 0.95, 0, 1.1, 1.9, True)
    for z in (0.55, 0.75):
        _window(b, 0, -rad * (1 - (1 - taper) * z) * 0.98, h * z, 0.5, 0.7)
    hub = h - 0.1
    b.add(cylinder(0.3, top + 1.0, 14), (0, -top * 0.75, hub + 0.2), (90, 0, 0), paint="dark")
    p = Builder()
    for k in range(blades):
        q = Builder()
        q.add(box(span, 0.3 * o.thick, 0.3), (span / 2, 0, 0), paint="wood")
        if o.has("lattice sails"):
            q.row(box(0.28, 1.1, 0.24), 5, (span * 0.3, 0.55, 0), (span * 0.97, 0.55, 0), paint="primary")
            q.add(box(span * 0.72, 0.28, 0.24), (span * 0.64, 1.05, 0), paint="primary")
        else:
            q.add(box(span * 0.74, 1.1, 0.26), (span * 0.63, 0.5, 0), (6, 0, 0), paint="primary")
        p.group(q, rotate=(0, 0, angle + 360 * k / blades))
    p.add(sphere(0.5, 14), paint="secondary")
    b.group(p, (0, -top - 0.75, hub + 0.2), (90, 0, 0))
    if o.has("fence"):
        b.ring(box(0.3, 0.3, 1.0), 12, at=(rad * 1.6, 0, 0.5), start=20, paint="wood")
        b.add(torus(rad * 1.6, 0.18, n=28, m=6), (0, 0, 0.7), paint="wood")
        b.stand(cylinder(rad * 1.7, 0.25, 28), (0, 0, -0.15), paint="leaf")


def lighthouse(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h, taper = r.uniform(1.7, 2.1), r.uniform(8.0, 10.0), r.uniform(0.55, 0.68)
    bands, n, cap = int(r.integers(2, 4)), int(r.choice([26, 26, 8])), r.uniform(1.1, 1.6)
    rock = r.uniform(-0.3, 0.3, (6, 2))
    n = 8 if o.kind == "octagonal" else 26 if o.kind else n
    b.add(lathe([(rad * 1.05, 0), (rad, 0.6), (rad * (1 + taper) / 2, h / 2), (rad * taper, h), (0, h)], n),
          paint="primary")

    def width(z: float) -> float:
        return rad * (1 - (1 - taper) * z / h)

    for k in range(bands if o.has("bands") else 0):
        z0 = h * (k + 0.45) / bands
        z1 = z0 + h * 0.22 / bands
        b.add(frustum(width(z0) * 1.04, width(z1) * 1.04, z1 - z0, n), (0, 0, (z0 + z1) / 2),
              paint="secondary")
    top = rad * taper
    b.add(cylinder(top * 1.4, 0.4, 24), (0, 0, h), paint="primary")
    b.ring(box(0.22, 0.22, 0.9), 10, at=(top * 1.38, 0, h + 0.5), paint="dark")
    b.add(torus(top * 1.38, 0.16, n=24, m=6), (0, 0, h + 0.95), paint="dark")
    b.stand(cylinder(top * 0.8, 1.7, 20), (0, 0, h + 0.1), paint="yellow" if o.has("lit lamp") else "glass")
    b.ring(box(0.2, 0.2, 1.7), 6, at=(top * 0.82, 0, h + 1.0), paint="dark")
    if o.kind == "domed":
        b.add(hemisphere(top * 1.08, 20), (0, 0, h + 1.7), paint="secondary")
    else:
        b.stand(cone(top * 1.15, cap, 20), (0, 0, h + 1.7), paint="secondary")
    b.stand(sphere(0.3, 10), (0, 0, h + 1.7 + (cap if o.kind != "domed" else top * 1.05) - 0.15),
            paint="metal")
    _door(b, 0, -rad * 0.98, 0.1, 1.1, 2.0, True)
    for z in (0.42, 0.68):
        _window(b, 0, -width(h * z) * 0.97, h * z, 0.45, 0.8)
    if o.has("rocks"):
        for k, (u, v) in enumerate(rock):
            a = k * 1.05
            b.add(ellipsoid(0.8 + u, 0.75 + v, 0.6 + u, 8), (rad * 1.1 * np.cos(a), rad * 1.1 * np.sin(a),
                                                             0.1), paint="grey")
    if o.has("keeper's house"):
        b.stand(box(2.6, 2.4, 1.9), (rad + 1.0, 0.2, 0), paint="primary")
        b.add(roof(2.6, 2.4, 1.2, 0.15), (rad + 1.0, 0.2, 1.8), paint="primary")


def tent(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(2.6, 3.4), r.uniform(2.8, 3.8), r.uniform(3.2, 4.2)
    sides, gap, poles = int(r.integers(8, 12)), r.uniform(0.5, 0.8), r.uniform(0.5, 0.9)
    t = 0.18 * o.thick
    if o.kind == "tipi":
        h *= 1.35
        b.stand(cone(x, h, 14), paint="primary")
        b.ring(rod((0.55, 0, h * 0.83), (-0.45, 0.1, h * 1.16), t * 0.9), 6, paint="wood")
        b.add(cylinder(1, 0.5, 24), (0, 0, h * 0.3), scale=(x * 0.745, x * 0.745, 1), paint="secondary")
        b.add(extrude([(-gap, 0), (gap, 0), (0, h * 0.5)], 0.5, "y"), (0, -x * 0.86, 0),
              (-np.degrees(np.arctan2(x * 0.8, h)), 0, 0),
              paint="dark")
    elif o.kind == "dome":
        b.add(hemisphere(1, 28), scale=(x * 1.05, y * 0.85, h * 0.75), paint="primary")
        for a in (35, 145):
            q = [(x * 1.07 * np.cos(f) * np.cos(np.radians(a)), y * 0.87 * np.cos(f) * np.sin(np.radians(a)),
                  h * 0.77 * np.sin(f)) for f in np.linspace(0, np.pi, 15)]
            b.add(tube(q, t, 8), paint="secondary")
        b.add(hemisphere(1, 18), (0, -y * 0.62, 0), scale=(x * 0.5, y * 0.36, h * 0.5), paint="secondary")
        b.add(hemisphere(1, 16), (0, -y * 0.78, 0), scale=(x * 0.36, y * 0.26, h * 0.4), paint="dark")
    elif o.kind == "circus":
        n, side_h = sides, h * 0.45
        b.stand(cylinder(x, side_h, n), paint="primary")
        b.stand(frustum(x * 1.12, x * 0.42, h * 0.4, n), (0, 0, side_h - 0.05), paint="primary")
        b.stand(frustum(x * 0.42, 0.08, h * 0.55, n), (0, 0, side_h + h * 0.34), paint="primary")
        b.ring(extrude([(-0.5, 0), (0.5, 0), (0, -0.8)], 0.26, "y"), n, at=(0, -x * 1.06, side_h + 0.02),
               paint="secondary")
        b.ring(box(0.5, 0.3, side_h), n // 2, at=(0, -x * 0.97, side_h / 2), start=25, paint="secondary")
        b.add(extrude([(-0.75, 0), (0.75, 0), (0, side_h * 0.95)], 0.6, "y"), (0, -x * 0.95, 0), paint="dark")
        h = side_h + h * 0.89
    else:
        b.add(roof(2 * x, 2 * y, h), paint="primary")
        b.add(extrude([(-gap - 0.2, 0), (gap + 0.2, 0), (0, h * 0.82)], 0.3, "y"), (0, -y, 0), paint="dark")
        for s in (-1, 1):
            b.add(extrude([(s * (gap + 0.1), 0), (s * (gap + 1.0), 0), (0, h * 0.86)], 0.3, "y"),
                  (0, -y - 0.15, 0),
                  paint="secondary")
        b.add(beam((0, -y - 0.3, h - 0.08), (0, y + 0.3, h - 0.08), 0.34), paint="secondary")
        for s in (-1, 1):
            b.add(rod((0, s * (y + 0.1), 0), (0, s * (y + 0.1), h + 0.3), t), paint="wood")
        for s in (-1, 1):
            b.both(rod((x * 0.9, s * y * 0.8, 0.3), (x + poles, s * y * 0.95, 0), t * 0.8), paint="secondary")
    if o.has("flag"):
        top = h * (1.0 if o.kind != "dome" else 0.75) + (0.3 if o.kind == "tipi" else 0)
        b.add(rod((0, 0, top - 0.4), (0, 0, top + 1.7), t), paint="wood")
        b.add(extrude([(0, top + 1.7), (0, top + 0.8), (1.4, top + 1.25)], 0.26, "y"), paint="accent")
    if o.has("campfire"):
        fy = -y - 2.2
        b.stand(cylinder(1.1, 0.25, 16), (0, fy, 0), paint="grey")
        b.add(box(0.8, 2.4, 0.2), (0, fy + 1.3, 0.1), paint="soil")
        for a in (30, 90, 150):
            b.add(cylinder(0.2, 1.7, 10), (0, fy, 0.35), (90, 0, a), paint="wood")
        b.stand(cone(0.5, 1.3, 12), (0, fy, 0.3), paint="flame")


_FINISH = {"painted": 4, "stone": 3, "wood": 2, "worn": 2, "two-tone": 1, "striped": 1}

CATEGORIES = {
    "house": Category(house, synonyms=("home", "cottage"), kinds={
        "": ("house", "cottage"), "two-storey": ("two-storey house", "family house"),
        "cabin": ("log cabin house", "log house")},
        parts={"chimney": "a chimney", "porch": "a porch", "garage": "a garage"},
        sizes=("tall", "wide", "narrow", "long", "chunky"), styles=("rustic", "futuristic", "cartoon", "crooked"),
        stretch=False, second="roof", finishes=_FINISH),
    "castle tower": Category(castle_tower, synonyms=("tower", "castle keep"), kinds={
        "": ("castle tower", "round castle tower"), "square": ("square castle tower", "castle keep"),
        "pointed": ("wizard tower", "castle tower with a pointed roof")},
        parts={"flag": "a flag", "side turret": "a side turret", "banner": "a banner", "ivy": "ivy",
               "pointed roof": "a pointed roof"},
        sizes=("tall", "wide", "short", "slender"), styles=("rustic", "cartoon", "crooked"),
        second={"pointed": "roof", "": "decoration", "square": "decoration"},
        finishes={"stone": 6, "painted": 2, "worn": 1}, colors={"grey": 3, "tan": 1, "silver": 1}),
    "windmill": Category(windmill, synonyms=("mill",), kinds={
        "": ("windmill", "dutch windmill"), "wind pump": ("wind pump windmill", "farm windmill")},
        parts={"lattice sails": "lattice sails", "fence": "a fence"}, sizes=("tall", "wide", "narrow"),
        styles=("rustic", "cartoon", "crooked"), stretch=False,
        second={"": "cap", "wind pump": "hub"}, finishes=_FINISH, colors={"white": 2, "brown": 1}),
    "lighthouse": Category(lighthouse, synonyms=("light tower",), kinds={
        "": ("lighthouse", "light tower"), "octagonal": ("octagonal lighthouse", "lighthouse"),
        "domed": ("domed lighthouse", "lighthouse")},
        parts={"bands": "coloured bands", "lit lamp": "a lit lamp", "rocks": "rocks around it",
               "keeper's house": "a keeper's house"},
        sizes=("tall", "short", "wide", "slender"), styles=("rustic", "cartoon", "crooked"), second="top",
        finishes=_FINISH, colors={"white": 4, "red": 2}),
    "tent": Category(tent, synonyms=("camping tent",), kinds={
        "ridge": ("tent", "camping tent", "ridge tent"), "tipi": ("tipi tent", "teepee tent"),
        "dome": ("dome tent", "igloo tent"), "circus": ("circus tent", "big top tent")},
        parts={"flag": "a flag on top", "campfire": "a campfire in front"}, sizes=("tall", "wide", "short", "long"),
        styles=("rustic", "cartoon", "crooked"), second="trim",
        finishes={"painted": 4, "striped": 3, "two-tone": 1, "plaid": 1, "worn": 1}),
}
