"""Seats, tables and beds. Units are about decimetres; size words scale the finished object."""

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
    rod,
    rounded_box,
    smooth_path,
    torus,
    tube,
)


def _legs(b: Builder, o: Options, x: float, y: float, top: float, thick: float, kind: int, splay: float,
          paint: str = "secondary") -> None:
    """Four legs under a plate of half sizes x, y whose underside is at `top`: square, round or tapered."""
    if o.futuristic:  # one pedestal on a disc instead of legs
        b.stand(frustum(min(x, y) * 0.95, min(x, y) * 0.75, 0.3), (0, 0, 0), paint=paint)
        b.stand(cylinder(thick * 1.5, top), (0, 0, 0.02), paint=paint)
        b.add(torus(min(x, y) * 0.86, 0.12), (0, 0, 0.25), paint="glow")
        return
    foot, head = (x - thick + splay, y - thick + splay, 0), (x - thick, y - thick, top + 0.1)
    if kind == 0:
        leg = beam(foot, head, 1.7 * thick)
    else:
        leg = rod(foot, head, thick * (0.65 if kind == 2 else 1.0), thick * (1.15 if kind == 2 else 1.0))
    b.four(leg, paint=paint)


def _back(b: Builder, kind: str, x: float, y: float, z: float, top: float, t: float, n: int, lean: float,
          paint: str = "primary") -> None:
    """A chair back of half width x at depth y from z up to top: solid, slats, ladder or spindle."""
    high = y + lean
    if kind == "solid":
        b.add(rounded_box(2 * x, 2 * t, top - z + 0.2, t * 0.8), (0, (y + high) / 2, (z + top) / 2),
              rotate=(-np.degrees(np.arctan2(lean, top - z)), 0, 0), paint=paint)
        return
    b.both(beam((x - t, y, z - 0.2), (x - t, high, top), 2 * t), paint=paint)
    b.add(rounded_box(2 * x, 2.2 * t, 1.0, t * 0.6), (0, high, top - 0.3), paint=paint)
    if kind == "ladder":
        for k in range(n):
            f = (k + 0.6) / (n + 0.6)
            b.add(box(2 * x - t, 1.5 * t, 0.75), (0, y + lean * f, z + (top - z - 0.6) * f), paint=paint)
    else:
        for f in np.linspace(-1, 1, n + 3)[1:-1]:
            w = 1.7 * t if kind == "slats" else 1.1 * t
            b.add(beam((f * (x - t), y, z - 0.2), (f * (x - t), high, top - 0.2), w, 1.2 * t), paint=paint)


def chair(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, seat = r.uniform(2.0, 2.5), r.uniform(1.9, 2.3), r.uniform(4.0, 4.8)
    top, t, leg = seat + r.uniform(4.2, 5.6), r.uniform(0.20, 0.27), r.uniform(0.24, 0.34) * o.thick
    back, leg_kind = str(r.choice(["solid", "slats", "ladder", "spindle"])), int(r.integers(3))
    n, lean, splay, round_seat = int(r.integers(2, 4)), r.uniform(0.2, 0.8), r.choice([0, 0.3]), r.random() < 0.25
    t *= o.thick
    if o.has("high back"):
        top += 3.2
    if o.kind == "office":
        b.stand(cylinder(0.42 * o.thick, seat - 0.6), (0, 0, 0.5), paint="metal")
        b.ring(beam((0, 0, 0.9), (2.3, 0, 0.55), 0.5, 0.45), 5, start=18, paint="secondary")
        b.ring(ellipsoid(0.38, 0.38, 0.42, 10), 5, at=(2.25, 0, 0.42), start=18, paint="dark")
        b.add(rounded_box(2 * x, 2 * y, 0.9, 0.4), (0, 0, seat), paint="primary")
        b.add(beam((0, y - 0.3, seat), (0, y + 0.35, seat + 2), 0.9, 0.4), paint="secondary")
        b.add(rounded_box(2 * x - 0.2, 0.8, top - seat - 1, 0.38), (0, y + 0.2, (seat + top) / 2 + 0.7),
              rotate=(-6, 0, 0), paint="primary")
    else:
        _legs(b, o, x, y, seat - 0.2, leg, leg_kind, splay)
        if round_seat:
            b.add(cylinder(1, 0.55, 24), (0, 0, seat), scale=(x * 1.05, y * 1.05, o.thick), paint="primary")
        else:
            b.add(rounded_box(2 * x, 2 * y, 0.6 * o.thick, 0.15), (0, 0, seat), paint="primary")
        if o.kind == "rocking" and not o.futuristic:
            arc = [(x - 0.3, f, 0.9 * (abs(f) / 3.2) ** 2 - 0.1) for f in np.linspace(-3.2, 3.4, 9)]
            b.both(tube(arc, 0.28 * o.thick, 8), paint="secondary")
        _back(b, "solid" if o.futuristic else back, x, y - t, seat, top, t, n, lean)
    if o.has("armrests"):
        b.both(box(0.5, 2 * y - 0.1, 0.36, 0.1), (x - 0.05, 0.1, seat + 2.1), paint="primary")
        b.both(beam((x - 0.05, -y + 0.5, seat - 0.2), (x - 0.05, -y + 0.5, seat + 2.1), 0.36),
               paint="secondary")
        b.both(beam((x - 0.05, y - 0.3, seat - 0.2), (x - 0.05, y - 0.3, seat + 2.1), 0.36),
               paint="secondary")
    if o.has("cushion"):
        b.add(rounded_box(2 * x - 0.7, 2 * y - 0.9, 0.7, 0.33), (0, -0.15, seat + 0.5), paint="accent")


def armchair(b: Builder, r: np.random.Generator, o: Options) -> None:
    _upholstered(b, r, o, r.uniform(3.6, 4.4), 1)


def sofa(b: Builder, r: np.random.Generator, o: Options) -> None:
    _upholstered(b, r, o, r.uniform(8.2, 11.0), int(r.integers(2, 4)))


def _upholstered(b: Builder, r: np.random.Generator, o: Options, inner: float, seats: int) -> None:
    depth, seat, arm = r.uniform(4.2, 5.0), r.uniform(1.7, 2.2), r.uniform(0.9, 1.4) * o.thick
    back, arm_h, foot, soft = r.uniform(4.6, 6.2), r.uniform(3.2, 3.9), r.uniform(0.5, 1.0), r.uniform(0.25, 0.5)
    rolled, tufts = r.random() < 0.35, int(r.integers(3, 6))
    if o.has("high back"):
        back += 2.5
    if o.kind in ("wingback",):
        back += 1.6
    width = inner + 2 * arm
    b.add(rounded_box(width - 0.2, depth, seat + 0.3, 0.25), (0, 0, foot + seat / 2), paint="primary")
    b.add(rounded_box(width - 0.1, 1.4, back, soft), (0, depth / 2 - 0.4, foot + back / 2), (-5, 0, 0))
    if o.kind != "armless":
        if rolled or o.kind == "chesterfield":
            b.both(rounded_box(arm, depth, arm_h - 0.3, 0.2), ((width - arm) / 2, 0, foot + arm_h / 2))
            b.both(cylinder(arm * 0.68, depth + 0.2), ((width - arm) / 2 + 0.1, -0.1, foot + arm_h),
                   (90, 0, 0))
        else:
            b.both(rounded_box(arm, depth + 0.2, arm_h, soft), ((width - arm) / 2, -0.1, foot + arm_h / 2))
    if o.kind == "wingback":
        b.both(rounded_box(0.8, 2.0, back - arm_h, 0.35), ((width - 0.9) / 2, depth / 2 - 1.4,
                                                           foot + (arm_h + back) / 2))
    if o.kind == "chesterfield":
        for row in (0.62, 0.82):
            b.row(ellipsoid(0.2, 0.18, 0.2, 8), tufts * seats,
                  (-inner / 2 + 0.5, depth / 2 - 1.12, foot + back * row),
                  (inner / 2 - 0.5, depth / 2 - 1.12, foot + back * row), paint="secondary")
    w = inner / seats if o.kind != "armless" else width / seats
    for k in range(seats):
        x = (k - (seats - 1) / 2) * w
        b.add(rounded_box(w - 0.08, depth - 0.9, 1.1, 0.4), (x, -0.45, foot + seat + 0.5), paint="primary")
    if o.has("pillows"):
        pillow = rounded_box(1.9, 0.8, 1.9, 0.38)
        b.both(pillow, (inner / 2 - 1.0, 0.75, foot + seat + 2.0), (-18, 12, 0), paint="accent")
    if o.futuristic:
        b.add(box(width - 0.5, depth - 0.4, foot + 0.2), (0, 0, foot / 2), paint="glow")
    else:
        b.four(frustum(0.28, 0.42, foot + 0.3, 12), ((width / 2) - 0.6, depth / 2 - 0.6, foot / 2 + 0.1),
               paint="secondary")


def stool(b: Builder, r: np.random.Generator, o: Options) -> None:
    legs, height = int(r.integers(3, 5)), r.uniform(4.4, 6.5)
    x, leg, splay = r.uniform(1.9, 2.4), r.uniform(0.26, 0.34) * o.thick, r.uniform(0.1, 0.7)
    square, thick = r.random() < 0.25, r.uniform(0.7, 1.3)
    if o.kind == "bar":
        height += 3.2
    if o.kind == "drum":
        b.stand(rounded_box(2 * x, 2 * x, height * 0.75, 0.5) if square else
                frustum(x, x * 0.96, height * 0.75, 28), paint="primary")
        b.stand(rounded_box(2.1 * x, 2.1 * x, 0.6, 0.2) if square else cylinder(x * 1.06, 0.6, 28),
                (0, 0, height * 0.18), paint="secondary")
        top = height * 0.75
    else:
        top = height
        if square and legs == 4:
            b.stand(rounded_box(2 * x, 2 * x, thick, 0.2), (0, 0, height - thick), paint="primary")
        else:
            b.stand(cylinder(x, thick, 26), (0, 0, height - thick), paint="primary")
        if o.futuristic:
            b.stand(frustum(x * 0.9, x * 0.6, 0.35, 24), paint="primary")
            b.stand(frustum(0.7, 0.45, height - 0.5, 16), (0, 0, 0.1), paint="secondary")
            b.add(torus(x * 0.96, 0.13), (0, 0, height - thick), paint="glow")
        else:
            reach = x * 0.8 * (1.25 if square and legs == 4 else 1.0)
            b.ring(rod((reach + splay, 0, 0), (reach - 0.1, 0, height - thick / 2), leg), legs,
                   start=45 if legs == 4 else 90, paint="primary")
    if o.has("footrest") and o.kind != "drum":
        b.add(torus(x * 0.8 + splay * 0.6, leg * 0.8, n=28), (0, 0, height * 0.32), paint="secondary")
    if o.has("cushion"):
        b.stand(ellipsoid(x * 0.8, x * 0.8, 0.6), (0, 0, top - 0.35), paint="accent")


def bench(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, seat = r.uniform(5.0, 7.0), r.uniform(1.5, 2.0), r.uniform(3.2, 4.0)
    planks, t, kind = int(r.integers(2, 5)), r.uniform(0.3, 0.45), int(r.integers(3))
    leg = r.uniform(0.35, 0.5) * o.thick
    w = 2 * y / planks
    for k in range(planks):
        b.add(box(2 * x, w - 0.14 + 0.06, 2 * t, 0.08), (0, -y + w * (k + 0.5), seat), paint="primary")
    b.both(box(0.7, 2 * y, 0.6), (x - 1.2, 0, seat - t - 0.1), paint="secondary")
    if o.kind == "park" or kind == 0:
        side = [(x - 1.2, -y - 0.2, 0), (x - 1.2, -y + 0.6, seat * 0.5), (x - 1.2, -y + 0.4, seat - 0.2)]
        b.both(tube(smooth_path(side, 8), leg), paint="secondary")
        b.both(tube(smooth_path([(p[0], -p[1], p[2]) for p in side], 8), leg), paint="secondary")
    elif kind == 1:
        b.both(box(1.0 * o.thick, 2 * y - 0.2, seat - 0.2), (x - 1.2, 0, seat / 2 - 0.1), paint="secondary")
    else:
        b.four(beam((x - 0.7, y - 0.2, 0), (x - 1.2, y - 0.5, seat), leg * 1.5), paint="secondary")
    if o.kind == "park" or o.has("backrest"):
        for z in (1.4, 2.7, 4.0)[: 3 if planks > 2 else 2]:
            b.add(box(2 * x, 2 * t, 1.0, 0.08), (0, y + 0.2 + z * 0.16, seat + z), (-9, 0, 0),
                  paint="primary")
        b.both(beam((x - 1.2, y - 0.2, seat - 0.5), (x - 1.2, y + 0.95, seat + 4.2), 0.6, 0.5),
               paint="secondary")
    if o.has("armrests"):
        b.both(box(0.7, 2 * y + 0.2, 0.4, 0.1), (x - 0.6, 0, seat + 1.9), paint="secondary")
        b.both(beam((x - 0.6, -y + 0.4, seat - 0.2), (x - 0.6, -y + 0.4, seat + 1.9), 0.5), paint="secondary")
        b.both(beam((x - 0.6, y - 0.2, seat - 0.2), (x - 0.6, y - 0.2, seat + 1.9), 0.5), paint="secondary")


def table(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(4.0, 6.0), r.uniform(2.6, 3.6), r.uniform(4.6, 6.2)
    t, leg, kind, splay = r.uniform(0.5, 0.8), r.uniform(0.32, 0.5) * o.thick, int(r.integers(3)), r.choice([0, .4])
    apron = r.random() < 0.5
    if o.kind == "coffee":
        h *= 0.55
    if o.kind == "round":
        x = y = (x + y) / 2
        b.stand(cylinder(x, t, 36), (0, 0, h - t), paint="primary")
        b.stand(frustum(leg * 1.9, leg * 1.4, h - 0.2, 16), paint="primary")
        b.stand(frustum(x * 0.6, x * 0.25, 0.7, 28), paint="primary")
    else:
        b.stand(rounded_box(2 * x, 2 * y, t, 0.2), (0, 0, h - t), paint="primary")
        _legs(b, o, x, y, h - t, leg, kind, splay, paint="primary" if o.kind != "coffee" else "secondary")
        if apron and not o.futuristic:
            b.both(box(0.4, 2 * y - 1, 0.9), (x - 0.6, 0, h - t - 0.35), paint="primary")
            b.add(box(2 * x - 1, 0.4, 0.9), (0, y - 0.6, h - t - 0.35), paint="primary")
            b.add(box(2 * x - 1, 0.4, 0.9), (0, -y + 0.6, h - t - 0.35), paint="primary")
    if o.has("vase"):
        b.stand(ellipsoid(0.55, 0.55, 0.8), (0, 0, h - 0.1), paint="accent")
        b.stand(cylinder(0.3, 0.6, 12), (0, 0, h + 1.2), paint="accent")
        b.ring(ellipsoid(0.35, 0.35, 0.35, 10), 4, at=(0.35, 0, h + 2.0), paint="leaf")
    if o.has("lower shelf") and o.kind != "round":
        b.add(box(2 * x - leg * 2, 2 * y - leg * 2, 0.4), (0, 0, h * 0.3), paint="primary")


def desk(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, h = r.uniform(5.0, 6.5), r.uniform(2.4, 3.0), r.uniform(5.4, 6.2)
    drawers, side, leg = int(r.integers(2, 5)), int(r.choice([-1, 1])), r.uniform(0.32, 0.45) * o.thick
    hutch = r.uniform(2.6, 3.8)
    b.stand(rounded_box(2 * x, 2 * y, 0.7, 0.15), (0, 0, h - 0.7), paint="primary")
    sides = (-1, 1) if o.kind == "executive" else (side,)
    for s in sides:
        b.stand(box(3.2, 2 * y - 0.4, h - 0.5), (s * (x - 1.8), 0.1, 0), paint="primary")
        d = (h - 1.2) / drawers
        for k in range(drawers):
            b.add(box(2.8, 0.4, d - 0.25), (s * (x - 1.8), -y + 0.25, 0.3 + d * (k + 0.5)), paint="primary")
            b.add(capsule(0.17, 1.2, 10), (s * (x - 1.8), -y - 0.05, 0.3 + d * (k + 0.5)), (0, 90, 0),
                  paint="secondary")
    if len(sides) == 1:
        for yy in (-1, 1):
            b.add(beam((-side * (x - 0.5), yy * (y - 0.5), 0), (-side * (x - 0.5), yy * (y - 0.5), h - 0.4),
                       leg * 1.7),
                  paint="secondary")
    b.add(box(2 * x - 1, 0.3, h * 0.5), (0, y - 0.5, h * 0.7), paint="primary")
    if o.has("shelf on top"):
        b.both(box(0.4, 1.6, hutch), (x - 0.4, y - 0.9, h + hutch / 2 - 0.05), paint="primary")
        b.add(box(2 * x - 0.4, 1.6, 0.4), (0, y - 0.9, h + hutch - 0.2), paint="primary")
        b.add(box(2 * x - 0.6, 0.3, hutch), (0, y - 0.25, h + hutch / 2 - 0.1), paint="primary")
    if o.has("monitor"):
        b.stand(cylinder(0.8, 0.2), (0, 0.3, h - 0.05), paint="dark")
        b.stand(box(0.4, 0.3, 1.4), (0, 0.4, h), paint="dark")
        b.stand(rounded_box(3.8, 0.4, 2.3, 0.15), (0, 0.1, h + 0.7), paint="dark")
        b.stand(box(3.4, 0.2, 1.9), (0, -0.05, h + 0.9), paint="screen")
    if o.futuristic:
        b.add(box(2 * x + 0.05, 0.3, 0.3), (0, -y, h - 0.35), paint="glow")


def bed(b: Builder, r: np.random.Generator, o: Options) -> None:
    x, y, base = r.uniform(3.4, 5.0), r.uniform(5.4, 6.4), r.uniform(1.4, 2.0)
    head, foot_h, leg = r.uniform(4.4, 6.0), r.uniform(0, 1.6), r.uniform(0.36, 0.5) * o.thick
    style, two, fold = int(r.integers(3)), r.random() < 0.6, r.uniform(0.45, 0.75)
    b.add(box(2 * x, 2 * y, 0.9), (0, 0, base), paint="secondary")
    b.four(box(2 * leg, 2 * leg, base + 0.4), (x - leg, y - leg, base / 2 + 0.2), paint="secondary")
    b.add(rounded_box(2 * x - 0.3, 2 * y - 0.3, 1.5, 0.5), (0, 0, base + 1.0), paint="light")
    length = 2 * y * (0.62 + 0.2 * fold)
    b.add(rounded_box(2 * x + 0.1, length, 1.75, 0.5), (0, -y + length / 2 - 0.05, base + 1.0),
          paint="primary")
    if style == 0 or o.futuristic:
        b.stand(rounded_box(2 * x + 0.3, 0.7 * o.thick, head, 0.3), (0, y, 0), paint="primary")
    elif style == 1:
        b.stand(box(2 * x + 0.2, 0.6 * o.thick, head - 1.2), (0, y, 0), paint="primary")
        b.add(cylinder(1, 0.6 * o.thick, 32), (0, y, head - 1.3), (90, 0, 0), (x + 0.1, 1.6, 1),
              paint="primary")
    else:
        b.both(cylinder(leg, head + 0.6), (x - 0.1, y, head / 2), paint="secondary")
        b.both(ellipsoid(leg * 1.4, leg * 1.4, leg * 1.4, 12), (x - 0.1, y, head + 0.5), paint="secondary")
        b.stand(box(2 * x, 0.5 * o.thick, head - 1.6), (0, y, 1.2), paint="primary")
    b.stand(box(2 * x + 0.2, 0.6, base + 0.9 + foot_h), (0, -y, 0), paint="primary")
    for px in ((-x / 2, x / 2) if two else (0,)):
        b.add(rounded_box((x if two else 2 * x) - 0.7, 1.9, 0.9, 0.42), (px, y - 1.5, base + 2.0), (10, 0, 0),
              paint="accent" if two else "light")
    if o.kind == "bunk":
        up = base + 6.0
        b.four(box(2 * leg, 2 * leg, up + 2), (x, y, up / 2 + 1), paint="secondary")
        b.add(box(2 * x, 2 * y, 0.9), (0, 0, up), paint="secondary")
        b.add(rounded_box(2 * x - 0.1, 2 * y - 0.1, 1.6, 0.5), (0, 0, up + 0.9), paint="primary")
        b.row(box(1.8, 0.4, 0.4), 4, (x - 0.9, -y - 0.3, base + 1.6), (x - 0.9, -y - 0.3, up),
              paint="secondary")
        b.add(box(0.4, 0.4, up + 1), (x - 1.9, -y - 0.3, up / 2 + 0.5), paint="secondary")
    if o.has("canopy") and o.kind != "bunk":
        b.four(cylinder(leg * 0.8, 10), (x, y, 5), paint="secondary")
        b.add(box(2 * x + 0.8, 2 * y + 0.8, 0.6), (0, 0, 10), paint="primary")


CATEGORIES = {
    "chair": Category(chair, kinds={
        "dining": ("dining chair", "chair"), "kitchen": ("kitchen chair", "chair"),
        "office": ("office chair", "swivel chair", "desk chair"), "rocking": ("rocking chair", "rocker")},
        parts={"armrests": "armrests", "cushion": "a cushion", "high back": "a high back"},
        sizes=("tall", "wide", "narrow", "chunky", "slender"),
        styles=("rustic", "futuristic", "cartoon", "crooked"),
        finishes={"wood": 3, "painted": 2, "leather": 1, "glossy": 1}, colors={"brown": 3, "tan": 1, "white": 1},
        second="legs"),
    "armchair": Category(armchair, synonyms=("easy chair", "upholstered chair"), kinds={
        "": ("armchair", "easy chair"), "wingback": ("wingback armchair", "armchair"), "club": ("club armchair",)},
        parts={"pillows": "pillows", "high back": "a high back"}, sizes=("tall", "wide", "narrow", "chunky"),
        styles=("rustic", "futuristic", "cartoon", "crooked"), second="feet",
        finishes={"leather": 4, "plaid": 1, "striped": 1, "painted": 2}),
    "stool": Category(stool, kinds={
        "": ("stool",), "bar": ("bar stool", "high stool"), "milking": ("milking stool", "little stool"),
        "drum": ("drum stool", "pouf stool")},
        parts={"footrest": "a footrest ring", "cushion": "a cushion"},
        sizes=("tall", "short", "wide", "chunky", "slender"), styles=("rustic", "futuristic", "cartoon", "crooked"),
        finishes={"wood": 3, "painted": 2, "leather": 1}, colors={"brown": 2, "tan": 1},
        second={"drum": "band", "": "ring", "bar": "ring", "milking": "ring"}),
    "bench": Category(bench, synonyms=("long seat",), kinds={
        "": ("bench",), "park": ("park bench", "garden bench"), "plain": ("plain bench", "bench")},
        parts={"backrest": "a backrest", "armrests": "armrests"}, sizes=("tall", "wide", "short", "chunky"),
        styles=("rustic", "cartoon", "crooked"), finishes={"wood": 3, "stone": 1, "painted": 2},
        colors={"brown": 3, "grey": 1, "green": 1}, second="legs"),
    "sofa": Category(sofa, synonyms=("couch", "settee"), kinds={
        "": ("sofa", "couch"), "chesterfield": ("chesterfield sofa", "sofa"), "armless": ("armless sofa", "couch")},
        parts={"pillows": "pillows", "high back": "a high back"}, sizes=("tall", "wide", "short", "narrow", "chunky"),
        styles=("rustic", "futuristic", "cartoon", "crooked"), second="feet",
        finishes={"leather": 4, "plaid": 1, "striped": 1, "painted": 2}),
    "table": Category(table, kinds={
        "dining": ("table", "dining table"), "coffee": ("coffee table", "low table"),
        "round": ("round table", "pedestal table")},
        parts={"vase": "a vase of flowers on top", "lower shelf": "a lower shelf"},
        sizes=("tall", "wide", "short", "chunky", "slender"), styles=("rustic", "futuristic", "cartoon", "crooked"),
        finishes={"wood": 4, "painted": 2, "stone": 1, "glass-like": 1}, colors={"brown": 3, "tan": 1, "white": 1}),
    "desk": Category(desk, synonyms=("writing desk", "work desk"), kinds={
        "": ("desk", "writing desk"), "executive": ("executive desk", "office desk")},
        parts={"shelf on top": "a shelf on top", "monitor": "a monitor"}, sizes=("tall", "wide", "short", "chunky"),
        styles=("rustic", "futuristic", "cartoon", "crooked"), finishes={"wood": 4, "painted": 2, "glossy": 1},
        colors={"brown": 3, "tan": 1, "white": 1}, second="handles"),
    "bed": Category(bed, kinds={"": ("bed", "double bed"), "single": ("bed", "single bed"),
                                "bunk": ("bunk bed", "two-storey bed")},
        parts={"canopy": "a canopy"}, sizes=("tall", "wide", "narrow", "long", "chunky"),
        styles=("rustic", "futuristic", "cartoon", "crooked"), second="frame",
        finishes={"painted": 3, "plaid": 1, "striped": 1, "dotted": 1, "wood": 1}),
}
