"""Aircraft, rockets and ships, front towards -y (rockets point up)."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import (
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    frustum,
    lathe,
    loft,
    rod,
    rounded_box,
    sphere,
    torus,
)


def _hull(stations, n: int = 14):
    """A body along y from stations (y, half width, half height, centre z)."""
    t = 2 * np.pi * np.arange(n) / n
    rings = np.array([[(w * np.sin(a), y, z + h * np.cos(a)) for a in t] for y, w, h, z in stations])
    return loft(rings)


def _wing(span: float, root: float, tip: float, sweep: float, thick: float):
    """A right wing in the xy plane from x=0 to span; chords root and tip; the tip moved back by sweep."""
    def section(x: float, chord: float, dy: float) -> list:
        front, back = dy - chord / 2, dy + chord / 2
        return [(x, front, 0), (x, front + chord * 0.3, thick / 2), (x, back, thick * 0.12),
                (x, back, -thick * 0.12),
                (x, front + chord * 0.3, -thick / 2)]

    return loft(np.array([section(0, root, 0), section(span, tip, sweep)]))


def _propeller(b: Builder, at, rad: float, blades: int, o: Options, angle: float) -> None:
    """A spinner with blades turning about the y axis."""
    p = Builder()
    p.add(ellipsoid(rad * 0.2, rad * 0.2, rad * 0.32, 12), paint="accent")
    p.ring(box(rad, 0.16 * rad, 0.12 * rad), blades, at=(rad / 2, 0, 0), rotate=(20, 0, 0), start=angle,
           paint="dark")
    b.group(p, at, (90, 0, 0))


def airplane(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, rad, span = r.uniform(5.0, 6.0) * o.length, r.uniform(0.75, 0.95) * o.thick, r.uniform(4.6, 6.0) * o.width
    chord, sweep, blades, angle = r.uniform(1.7, 2.3), r.uniform(0.0, 0.6), int(r.integers(2, 5)), r.uniform(0, 90)
    fin, tail, wing_z = r.uniform(1.8, 2.3) * o.height, r.uniform(0.36, 0.44), float(r.choice([-0.35, 0.0, 0.6]))
    t = 0.36 * min(o.thick, 1.3)
    z = rad + 1.3
    jet = o.kind in ("jet", "airliner", "fighter")
    if o.kind == "airliner":
        rad, wing_z, sweep, half = rad * 1.1, -0.35, 2.2, half * 1.12
    elif o.kind == "fighter":
        rad, sweep, chord, span, wing_z = rad * 0.85, 2.2, chord * 2.0, span * 0.66, 0.0
    elif o.kind == "biplane":
        half, sweep, chord = half * 0.82, 0.0, chord * 1.05
    nose = 0.35 if jet else 0.72
    b.add(_hull([(-half, rad * nose * 0.5, rad * nose * 0.5, z - 0.05),
                 (-half * 0.93, rad * nose, rad * nose, z),
                 (-half * 0.7, rad * 0.95, rad * 0.95, z), (-half * 0.3, rad, rad, z),
                 (half * 0.25, rad * 0.95, rad, z),
                 (half * 0.7, rad * 0.6, rad * 0.65, z + rad * 0.25), (half, rad * 0.22, rad * 0.3,
                                                                       z + rad * 0.5)], 18))
    wy = -half * 0.12 if o.kind != "fighter" else half * 0.2
    wing = _wing(span, chord, chord * (0.62 if not o.kind == "fighter" else 0.25), sweep, t)
    levels = (-0.75, 1.5) if o.kind == "biplane" else (wing_z,)
    for level in levels:
        b.both(wing, (0, wy, z + level * rad), (0, -3, 0), paint="primary")
    if o.kind == "biplane":
        b.four(rod((span * 0.62, 0.35, z - 0.75 * rad), (span * 0.62, 0.35, z + 1.6 * rad + 0.1), 0.15),
               (0, wy, 0), paint="secondary")
        b.four(rod((rad * 0.5, 0.4, z + 0.6 * rad), (rad * 0.6, 0.4, z + 1.5 * rad), 0.15), (0, wy, 0),
               paint="secondary")
    if o.kind == "fighter":
        b.both(extrude([(half * 0.5, z + rad * 0.4), (half * 0.95, z + rad * 0.4),
                        (half * 1.05, z + fin + rad),
                        (half * 0.85, z + fin + rad)], 0.32, "x"), (rad * 0.75, 0, 0), (0, 14, 0), paint="secondary")
        b.add(cylinder(rad * 0.62, 1.2, 18), (0, half * 0.98, z + rad * 0.25), (90, 0, 0), paint="dark")
    else:
        b.add(extrude([(half * 0.58, z + rad * 0.5), (half * 1.0, z + rad * 0.5),
                       (half * 1.06, z + fin + rad),
                       (half * 0.86, z + fin + rad)], 0.34, "x"), paint="secondary")
    low = half * 0.84
    b.both(_wing(span * tail, chord * 0.62, chord * 0.42, sweep * 0.4, t * 0.9), (0, low, z + rad * 0.45),
           paint="primary")
    if o.kind == "airliner":
        for k in range(7):
            b.both(box(0.25, 0.42, 0.36), (rad * 0.94, -half * 0.55 + k * half * 0.16, z + rad * 0.3),
                   paint="dark")
        b.add(box(rad * 1.2, 0.5, 0.36), (0, -half * 0.84, z + rad * 0.55), (35, 0, 0), paint="glass")
    else:
        b.add(ellipsoid(rad * 0.62, half * 0.2, rad * 0.66, 16),
              (0, -half * 0.28 if not jet else -half * 0.45, z + rad * 0.82), paint="glass")
    if jet and o.kind != "fighter":
        b.both(capsule(0.55, 2.0, 16), (span * 0.36, wy - 0.5 + sweep * 0.3, z + wing_z * rad - 0.62),
               (90, 0, 0),
               paint="primary")
        b.both(cylinder(0.42, 0.3, 16), (span * 0.36, wy - 1.45 + sweep * 0.3, z + wing_z * rad - 0.62),
               (90, 0, 0),
               paint="dark")
    elif not jet:
        b.add(cylinder(rad * 0.8, 0.5, 18), (0, -half * 0.96, z), (90, 0, 0), paint="secondary")
        _propeller(b, (0, -half - 0.3, z), rad * 1.9, blades, o, angle)
        if o.has("wing engines"):
            b.both(capsule(0.5, 2.0, 14), (span * 0.42, wy - 0.7, z + levels[0] * rad), (90, 0, 0),
                   paint="primary")
            for s in (-1, 1):
                _propeller(b, (s * span * 0.42, wy - 1.8, z + levels[0] * rad), rad * 1.3, blades, o, angle)
    if o.has("landing gear"):
        b.both(rod((0.5, -half * 0.3, z - 0.5), (1.1, -half * 0.32, 0.45), 0.17), paint="metal")
        b.both(cylinder(0.5, 0.36, 16), (1.15, -half * 0.32, 0.5), (0, 90, 0), paint="rubber")
        b.add(rod((0, half * 0.6, z), (0, half * 0.66, 0.4), 0.15), paint="metal")
        b.add(cylinder(0.35, 0.3, 14), (0, half * 0.66, 0.35), (0, 90, 0), paint="rubber")
    if o.has("floats"):
        b.both(capsule(0.5, half * 0.95, 14), (1.5, -half * 0.15, 0.4), (90, 0, 0), paint="primary")
        b.both(rod((0.4, -half * 0.3, z - 0.3), (1.5, -half * 0.32, 0.5), 0.16), paint="metal")
        b.both(rod((0.4, half * 0.05, z - 0.3), (1.5, half * 0.05, 0.5), 0.16), paint="metal")


def helicopter(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, body, tail = r.uniform(1.5, 1.8) * o.width**0.5, r.uniform(2.3, 2.8), r.uniform(4.2, 5.4) * o.length
    blades, angle, rotor = int(r.integers(2, 6)), r.uniform(10, 60), r.uniform(4.2, 5.2) * o.width
    fin, t = r.uniform(1.1, 1.5), 0.22 * o.thick
    h = rad * o.height
    z = h + 1.1
    if o.kind == "transport":
        b.add(rounded_box(2 * rad, 2 * body + 2.4, 2 * h, 0.7), (0, 0.6, z), paint="primary")
        b.add(rounded_box(1.8 * rad, 1.0, h * 0.9, 0.3), (0, -body - 0.3, z + h * 0.3), paint="glass")
        y_tail = body + 1.4
    else:
        b.add(ellipsoid(rad, body, h, 22), (0, 0, z), paint="primary")
        b.add(ellipsoid(rad * 0.8, body * 0.5, h * 0.62, 20), (0, -body * 0.56, z + h * 0.22), paint="glass")
        b.add(ellipsoid(rad * 0.98, body * 0.9, h * 0.62, 20), (0, -body * 0.12, z - h * 0.36),
              paint="primary")
        y_tail = body * 0.6
    end = y_tail + tail
    b.add(_hull([(y_tail - 1.0, rad * 0.5, h * 0.5, z + h * 0.2),
                 (end, 0.3 * o.thick, 0.34 * o.thick, z + h * 0.5)], 14))
    b.add(extrude([(end - 0.9, z + h * 0.4), (end + 0.1, z + h * 0.4), (end + 0.5, z + h * 0.5 + fin),
                   (end - 0.2, z + h * 0.5 + fin)], 0.32, "x"), paint="secondary")
    b.both(_wing(1.3, 0.9, 0.6, 0.1, 0.3), (0, end - 1.3, z + h * 0.45), paint="secondary")
    b.add(cylinder(0.85, 0.2, 20), (0.35, end + 0.1, z + h * 0.6), (0, 90, 0), paint="dark")
    heads = ((0, -body + 0.2), (0, y_tail - 0.6)) if o.kind == "transport" else ((0, 0.1),)
    for k, (_, y) in enumerate(heads):
        b.stand(frustum(0.55, 0.3, 0.9 + 0.5 * k, 14), (0, y, z + h * 0.9), paint="metal")
        hub = z + h * 0.9 + 0.8 + 0.5 * k
        p = Builder()
        p.ring(box(rotor * (0.66 if len(heads) == 2 else 1.0), 0.5 * o.thick, t), blades,
               at=(rotor * (0.33 if len(heads) == 2 else 0.5), 0, 0), start=angle + 33 * k, paint="primary")
        p.add(sphere(0.42, 12), paint="metal")
        b.group(p, (0, y, hub))
    if o.has("floats"):
        b.both(capsule(0.5, body * 2.2, 14), (rad * 0.95, 0, 0.45), (90, 0, 0), paint="secondary")
    else:
        b.both(capsule(0.2 * o.thick, body * 2.1, 10), (rad * 0.9, 0, 0.25), (90, 0, 0), paint="dark")
    for y in (-body * 0.45, body * 0.45):
        b.both(rod((rad * 0.4, y, z - h * 0.75), (rad * 0.9, y, 0.25), 0.18), paint="dark")
    if o.has("rocket pods"):
        b.both(box(1.6, 0.6, 0.26), (rad + 0.2, 0.3, z - 0.2), paint="metal")
        b.both(capsule(0.4, 1.9, 14), (rad + 0.8, 0.2, z - 0.35), (90, 0, 0), paint="dark")


def rocket(b: Builder, r: np.random.Generator, o: Options) -> None:
    rad, h, nose = r.uniform(1.3, 1.7), r.uniform(6.0, 8.0), r.uniform(2.2, 3.4)
    fins, reach, fin_h = int(r.integers(3, 5)), r.uniform(1.2, 1.8), r.uniform(2.2, 3.2)
    belly, window_z, bands = r.uniform(1.05, 1.3), r.uniform(0.6, 0.75), int(r.integers(1, 3))
    t = 0.38 * o.thick
    z = 1.0
    if o.kind == "cartoon":
        belly *= 1.25
    if o.kind == "staged":
        b.add(lathe([(rad, z), (rad, z + h * 0.5), (rad * 0.75, z + h * 0.57), (rad * 0.75, z + h),
                     (0, z + h)], 26))
        tip_rad = rad * 0.75
        b.add(cylinder(rad * 1.04, 0.4, 26), (0, 0, z + h * 0.48), paint="secondary")
    else:
        t6 = np.linspace(0, 1, 8)
        prof = [(rad * (0.72 + (belly - 0.72) * np.sin(np.pi * min(f * 0.75 + 0.12, 1.0))),
                 z + h * f) for f in t6]
        b.add(lathe([*prof, (0, z + h)], 26), paint="primary")
        tip_rad = prof[-1][0]
    a = np.linspace(0, 1, 6)
    b.add(lathe([(tip_rad * np.sqrt(1 - f * f) if f < 1 else 0, z + h - 0.05 + nose * f) for f in a], 26),
          paint="primary")
    b.add(sphere(tip_rad * 0.36, 12), (0, 0, z + h + nose * 0.93), paint="secondary")
    fin = extrude([(rad * 0.5, z + 0.2), (rad + reach, 0.0), (rad + reach, 0.9), (rad * 0.85, z + fin_h)], t,
                  "y")
    b.ring(fin, fins, start=45 if fins == 4 else 30, paint="secondary")
    b.stand(frustum(rad * 0.75, rad * 0.45, 1.0, 20), (0, 0, z - 0.85), paint="dark")
    for k in range(bands if o.kind != "staged" else 1):
        zz = z + h * (0.36 + 0.12 * k)
        if o.kind != "staged":
            b.add(cylinder(rad * belly * 1.03, 0.35, 26), (0, 0, zz), paint="secondary")
    if o.has("windows"):
        for k in (0, 1):
            zz = z + h * (window_z - 0.2 * k)
            at = rad * belly * 0.93
            if o.kind == "staged":
                at = rad * (0.74 if zz > z + h * 0.57 else 1.0)
            b.add(cylinder(0.62, 0.5, 20), (0, -at, zz), (90, 0, 0), paint="metal")
            b.add(cylinder(0.44, 0.6, 18), (0, -at, zz), (90, 0, 0), paint="glass")
    if o.has("flames"):
        b.add(cone(rad * 0.55, 1.6, 18), (0, 0, -0.5), (180, 0, 0), paint="flame")
        b.add(cone(rad * 0.32, 2.2, 14), (0, 0, -0.7), (180, 0, 0), paint="yellow")
    if o.has("side boosters"):
        b.both(cylinder(rad * 0.4, h * 0.55, 18), (rad * 1.25, 0, z + h * 0.28), paint="primary")
        b.both(cone(rad * 0.4, 1.1, 18), (rad * 1.25, 0, z + h * 0.55 + 0.5), paint="secondary")


def _ship_hull(half: float, x: float, z0: float, z1: float, bow: float, blunt: float = 0.85):
    """A hull with a pointed bow at -y, flat deck at z1."""
    y = np.array([-1.0, -0.75, -0.45, 0.0, 0.6, 1.0]) * half
    w = np.array([0.06, 0.5, 0.85, 1.0, 0.97, blunt]) * x
    rise = np.array([bow, bow * 0.5, 0.15 * bow, 0, 0, 0.05 * bow])
    keel = np.array([0.55, 0.16, 0.03, 0, 0, 0.05]) * (z1 - z0)
    rings = []
    for a, b, c, k in zip(y, w, rise, keel, strict=True):
        rings.append([(-b, a, z1 + c), (b, a, z1 + c), (b * 0.95, a, z0 + k + (z1 - z0) * 0.5),
                      (b * 0.5, a, z0 + k), (-b * 0.5, a, z0 + k), (-b * 0.95, a, z0 + k + (z1 - z0) * 0.5)])
    return loft(np.array(rings)[:, ::-1][:, ::-1])


def boat(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, x, deck = r.uniform(4.6, 5.6) * o.length, r.uniform(1.6, 2.0) * o.width, r.uniform(1.6, 2.1) * o.height
    bow, mast, cabin = r.uniform(0.5, 1.0), r.uniform(6.5, 8.0) * o.height, r.uniform(1.4, 1.9) * o.height
    sail, funnels = r.uniform(0.7, 0.95), int(r.integers(1, 3))
    t = 0.2 * o.thick
    b.add(_ship_hull(half, x, 0, deck, bow), paint="primary")
    b.add(_ship_hull(half * 0.84, x * 0.72, deck - 0.3, deck + 0.12, bow * 0.7), (0, 0.2, 0),
          paint="dark" if o.kind == "rowboat" else "wood")
    if o.kind == "sailboat":
        b.add(cylinder(t, mast, 12), (0, -half * 0.12, deck + mast / 2 - 0.2), paint="wood")
        y0 = -half * 0.12
        main = [(y0 + 0.1, deck + 1.0), (half * sail, deck + 1.1), (y0 + 0.1, deck + mast * 0.97)]
        b.add(extrude(main, 0.3, "x"), paint="primary")
        jib = [(y0 - 0.25, deck + 1.2), (-half * 0.92, deck + bow + 0.5), (y0 - 0.25, deck + mast * 0.85)]
        b.add(extrude(jib, 0.3, "x"), paint="light" if o.has("white sails") else "secondary")
        b.add(rod((0, y0, deck + 0.9), (0, half * sail, deck + 0.95), t), paint="wood")
    elif o.kind == "rowboat":
        b.row(box(1.7 * x, 0.8, 0.3), 3, (0, -half * 0.45, deck + 0.15), (0, half * 0.6, deck + 0.15),
              paint="primary")
        b.both(rod((x * 0.4, 0.1, deck + 0.8), (x * 2.3, 0.5, deck - 0.9), 0.19), paint="wood")
        b.both(ellipsoid(0.22, 0.4, 0.8, 12), (x * 2.3, 0.5, deck - 1.0), (0, -50, 0), paint="secondary")
    elif o.kind == "steamship":
        b.stand(box(1.4 * x, half * 1.1, cabin), (0, half * 0.15, deck), paint="primary")
        b.stand(box(1.1 * x, half * 0.7, cabin * 0.8), (0, half * 0.1, deck + cabin - 0.05), paint="light")
        for k in range(5):
            b.both(box(0.25, 0.5, 0.5), (0.7 * x, -half * 0.25 + k * half * 0.2, deck + cabin * 0.55),
                   paint="dark")
        for k in range(funnels):
            y = half * (0.0 + 0.3 * k)
            b.stand(frustum(0.62, 0.52, 2.2 * o.height, 18), (0, y, deck + cabin * 1.7), paint="primary")
            b.stand(cylinder(0.6, 0.5, 18), (0, y, deck + cabin * 1.7 + 1.8 * o.height), paint="dark")
    else:
        b.stand(rounded_box(1.4 * x, half * 0.62, cabin, 0.25), (0, half * 0.1, deck - 0.05), paint="primary")
        b.add(box(1.2 * x, 0.4, cabin * 0.5), (0, half * 0.1 - half * 0.3, deck + cabin * 0.55),
              paint="glass")
        b.both(box(0.3, half * 0.4, cabin * 0.42), (0.68 * x, half * 0.1, deck + cabin * 0.55), paint="glass")
        b.stand(box(1.6 * x, half * 0.74, 0.3), (0, half * 0.1, deck + cabin - 0.1), paint="secondary")
        b.stand(rounded_box(0.8, 0.9, 1.4, 0.25), (0, half + 0.1, deck - 0.8), paint="dark")
    if o.has("flag"):
        b.add(rod((0, half * 0.93, deck), (0, half * 0.98, deck + 2.4), 0.16), paint="metal")
        b.add(box(0.26, 1.3, 0.9), (0, half * 0.98 + 0.6, deck + 2.0), paint="accent")
    if o.has("life rings"):
        b.both(torus(0.5, 0.2, n=16, m=8), (x * 0.97, half * 0.45, deck - 0.5), (0, 90, 0), paint="orange")


def submarine(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, rad, tower = r.uniform(4.6, 5.8) * o.length, r.uniform(1.4, 1.8), r.uniform(1.5, 2.0) * o.height
    ports, scope, fin, blades = int(r.integers(3, 5)), r.uniform(1.2, 1.8), r.uniform(1.2, 1.6), int(r.integers(3, 5))
    x, h = rad * o.width**0.7, rad * o.height**0.5
    z = h + 0.5
    if o.kind == "round":
        half *= 0.68
    if o.kind == "military":
        half, x, h = half * 1.2, x * 0.85, h * 0.85
    f = np.linspace(-1, 1, 13)
    shape = np.sqrt(np.clip(1 - np.abs(f) ** (2.6 if o.kind != "round" else 2.0), 0.015, 1))
    shape = np.where(f > 0.3, shape * (1 - 0.35 * (f - 0.3)), shape)
    b.add(_hull([(half * a, x * s, h * s, z) for a, s in zip(f, shape, strict=True)], 22), paint="primary")
    b.add(extrude([(-half * 0.3, z + h * 0.6), (half * 0.12, z + h * 0.6), (half * 0.06, z + h + tower),
                   (-half * 0.2,
                    z + h + tower)], x * (0.8 if o.kind != "military" else 0.5), "x"), paint="primary")
    b.add(rounded_box(x * 0.95, half * 0.34, 0.4, 0.15), (0, -half * 0.07, z + h + tower), paint="secondary")
    b.add(rod((0, -half * 0.1, z + h + tower - 0.2), (0, -half * 0.1, z + h + tower + scope), 0.2 * o.thick),
          paint="metal")
    b.add(rod((0, -half * 0.1 + 0.1, z + h + tower + scope - 0.1),
              (0, -half * 0.1 - 0.8, z + h + tower + scope - 0.1),
              0.22 * o.thick), paint="metal")
    if o.has("portholes"):
        for k in range(ports):
            y = -half * 0.5 + k * half * 0.33
            b.both(cylinder(0.42, 0.36, 16), (x * 0.95, y, z + h * 0.15), (0, 90, 0), paint="secondary")
            b.both(cylinder(0.28, 0.46, 14), (x * 0.95, y, z + h * 0.15), (0, 90, 0), paint="glass")
    if o.has("front window"):
        b.add(ellipsoid(x * 0.6, half * 0.22, h * 0.6, 18), (0, -half * 0.84, z + h * 0.12), paint="glass")
    for a in (0, 90, 180, 270):
        p = Builder()
        p.add(_wing(fin + 0.3, 1.3, 0.8, 0.4, 0.32), (0.1, 0, 0), paint="secondary")
        b.group(p, (0, half * 0.86, z), (0, a, 0))
    p = Builder()
    p.ring(box(1.1, 0.5, 0.24), blades, at=(0.55, 0, 0), rotate=(25, 0, 0), start=20, paint="metal")
    p.add(sphere(0.35, 12), paint="metal")
    b.group(p, (0, half * 1.02, z), (90, 0, 0))
    if o.has("side fins"):
        b.both(_wing(1.7, 1.2, 0.8, 0.3, 0.34), (x * 0.75, -half * 0.35, z), paint="secondary")


_FINISH = {"glossy": 4, "painted": 4, "two-tone": 1, "worn": 1, "brushed metal": 2, "striped": 1}

CATEGORIES = {
    "airplane": Category(airplane, synonyms=("plane", "aeroplane", "aircraft"), kinds={
        "propeller": ("airplane", "propeller plane", "plane"),
        "airliner": ("airliner", "jet airplane", "passenger plane"),
        "biplane": ("biplane", "double-winged plane"), "fighter": ("fighter jet", "jet plane")},
        parts={"landing gear": "landing gear", "floats": "floats", "wing engines": "engines on the wings"},
        sizes=("wide", "long", "chunky",
               "tiny"), styles=("cartoon",), stretch=False, second="tail fin", finishes=_FINISH),
    "helicopter": Category(helicopter, synonyms=("chopper",), kinds={
        "": ("helicopter", "chopper"), "transport": ("transport helicopter", "tandem helicopter")},
        parts={"floats": "floats", "rocket pods": "rocket pods"}, sizes=("tall", "wide", "long", "chunky", "tiny"),
        styles=("cartoon",), stretch=False, second="tail fin", finishes=_FINISH),
    "rocket": Category(rocket, synonyms=("rocket ship", "spaceship"), kinds={
        "": ("rocket", "space rocket"), "staged": ("two-stage rocket", "space launcher rocket"),
        "cartoon": ("rocket ship", "retro rocket")},
        parts={"windows": "round windows", "flames": "flames", "side boosters": "side boosters"},
        sizes=("tall", "short", "wide", "slender", "chunky"), styles=("cartoon", "crooked"), second="fins",
        finishes=_FINISH),
    "boat": Category(boat, synonyms=("ship",), kinds={
        "sailboat": ("sailboat", "sailing boat"), "rowboat": ("rowboat", "rowing boat"),
        "steamship": ("steamship", "ocean liner boat"), "motorboat": ("motorboat", "fishing boat", "boat")},
        parts={"flag": "a flag", "life rings": "life rings", "white sails": "a white front sail"},
        sizes=("tall", "wide", "long", "tiny"), styles=("cartoon",), stretch=False, second="trim",
        finishes={**_FINISH, "wood": 3}),
    "submarine": Category(submarine, synonyms=("sub", "u-boat"), kinds={
        "": ("submarine", "sub"), "round": ("round submarine", "little submarine"),
        "military": ("navy submarine", "attack submarine")},
        parts={"portholes": "portholes", "front window": "a big front window", "side fins": "side fins"},
        sizes=("tall", "wide", "long", "chunky", "tiny"), styles=("cartoon",), stretch=False, second="fins",
        finishes=_FINISH, colors={"yellow": 3, "grey": 2, "navy": 1}),
}
