"""Road and rail vehicles, front towards -y. They stretch their own bodies, so that wheels stay round."""

import numpy as np

from train.data.procedural.builder import Builder
from train.data.procedural.category import Category, Options
from train.data.procedural.shapes import box, capsule, cylinder, ellipsoid, extrude, frustum, rounded_box


def _wheels(b: Builder, x: float, ys, rad: float, width: float, o: Options, hub: str = "secondary") -> None:
    """A pair of wheels at each y, standing on the ground, outer faces at +-x."""
    for y in ys:
        if o.futuristic:  # hover pads
            b.both(capsule(rad * 0.75, rad * 2.4, 14), (x - width * 0.7, y, rad * 0.9), (90, 0, 0),
                   (0.7, 1, 0.8),
                   paint="dark")
            b.both(cylinder(rad * 0.5, 0.25, 16), (x - width * 0.7, y, rad * 0.3), paint="glow")
        else:
            b.both(cylinder(rad, width, 22), (x - width / 2, y, rad), (0, 90, 0), paint="rubber")
            b.both(cylinder(rad * 0.55, 0.2, 16), (x, y, rad), (0, 90, 0), paint=hub)


def _lights(b: Builder, x: float, y: float, z: float, size: float, tail: float, glow: bool = False) -> None:
    """Head lamps on the front at -y and tail lamps at y=tail."""
    b.both(cylinder(size, 0.4, 14), (x, -y, z), (90, 0, 0), paint="glow" if glow else "cream")
    b.both(box(size * 1.8, 0.3, size * 1.2), (x, tail, z), paint="red")


def _body(profile, width: float, taper: float = 1.0, low: float = 0.0, high: float = 1.0):
    """A side view (y, z) given `width`, narrowing towards the top by `taper` between heights low and high."""
    s = extrude(profile, width, axis="x")
    v = s.vertices.copy()
    t = np.clip((v[:, 2] - low) / (high - low), 0, 1)
    v[:, 0] *= 1 - (1 - taper) * t
    return s._replace(vertices=v)


def car(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, x, wheel = r.uniform(4.6, 5.4) * o.length, r.uniform(2.0, 2.4) * o.width, r.uniform(0.9, 1.05)
    wheel *= min(o.thick, 1.35)
    belt, roof = r.uniform(2.1, 2.4), r.uniform(3.6, 4.1)
    hood, trunk, nose, rake = r.uniform(0.30, 0.38), r.uniform(0.66, 0.74), r.uniform(0.7, 0.9), r.uniform(0.08, 0.14)
    stripe = r.uniform(0.5, 0.8)
    g = wheel * 0.62
    if o.kind == "sports":
        belt, roof, hood, rake, nose = belt * 0.85, roof * 0.8, 0.42, 0.2, 0.55
    elif o.kind == "hatchback":
        half, trunk, roof = half * 0.82, 0.93, roof * 1.05
    elif o.kind == "jeep":
        half, belt, roof, hood, trunk, rake, nose = half * 0.85, belt * 1.12, roof * 1.12, 0.36, 0.95, 0.03, 1.0
    belt, roof = belt * o.height, roof * o.height

    def at(f: float) -> float:
        return -half + 2 * half * f

    b.add(_body([(at(0), g), (at(0), g + (belt - g) * nose * 0.75), (at(0.05), belt * (0.55 + 0.45 * nose)),
                 (at(hood), belt), (at(min(trunk + 0.1, 0.97)), belt), (at(0.98), belt * 0.94), (at(1), belt * 0.6),
                 (at(1), g)], 2 * x, 0.9, belt * 0.6, belt), paint="primary")
    open_top = o.kind == "convertible"
    if not open_top:
        cabin = [(at(hood - 0.02), belt - 0.1), (at(hood + rake), roof), (at(trunk - rake * 0.6), roof),
                 (at(min(trunk + 0.06, 0.96)), belt - 0.1)]
        b.add(_body(cabin, 1.76 * x, 0.82, belt, roof), paint="glass" if not o.futuristic else "dark")
        b.add(_body([(at(hood + rake - 0.015), roof - 0.22), (at(hood + rake), roof + 0.12),
                     (at(trunk - rake * 0.6), roof + 0.12), (at(trunk - rake * 0.6 + 0.015), roof - 0.22)],
                    1.52 * x), paint="primary")
        for f in (hood + 0.02, (hood + trunk) / 2 + 0.02, trunk - 0.02):
            lean = (rake * 0.75 if f < 0.5 else -rake * 0.35) if f != (hood + trunk) / 2 + 0.02 else 0
            post = [(at(f - 0.02), belt - 0.15), (at(f + 0.025), belt - 0.15), (at(f + lean + 0.025), roof),
                    (at(f + lean - 0.02), roof)]
            b.add(_body(post, 1.8 * x, 0.84, belt, roof), paint="primary")
    else:
        b.add(box(1.35 * x, half * 0.66, 0.3), (0, at(0.6), belt - 0.05), paint="dark")
        b.add(_body([(at(hood), belt - 0.1), (at(hood + 0.07), belt + 1.0), (at(hood + 0.10), belt + 1.0),
                     (at(hood + 0.05), belt - 0.1)], 1.7 * x, 0.9, belt, belt + 1), paint="glass")
        for f in (0.55, 0.72):
            b.both(rounded_box(0.65 * x, 0.45, 0.9, 0.2), (0.4 * x, at(f), belt + 0.3), (-10, 0, 0),
                   paint="secondary")
    _wheels(b, x + 0.12, (at(0.19), at(0.80)), wheel, 0.75, o)
    _lights(b, x * 0.68, half, (g + belt) / 2 + 0.15, 0.36, half, o.futuristic)
    b.add(rounded_box(2 * x + 0.1, 0.5, 0.45, 0.2), (0, -half, g + 0.25), paint="metal")
    b.add(rounded_box(2 * x + 0.1, 0.5, 0.45, 0.2), (0, half, g + 0.25), paint="metal")
    if o.kind == "jeep":
        b.add(cylinder(wheel * 0.9, 0.6, 20), (0, half + 0.25, belt * 0.75), (90, 0, 0), paint="rubber")
    if o.has("spoiler"):
        b.both(box(0.3, 0.5, 1.0), (x * 0.6, at(0.95), belt + 0.4), paint="primary")
        b.add(box(2 * x, 0.9, 0.3), (0, at(0.96), belt + 0.95), paint="primary")
    if o.has("roof rack") and not open_top:
        b.both(box(0.3, half * 0.6, 0.3), (x * 0.6, at((hood + trunk) / 2 + 0.05), roof + 0.35), paint="dark")
        b.add(box(1.3 * x, half * 0.45, 0.8, 0.15), (0, at((hood + trunk) / 2 + 0.05), roof + 0.7),
              paint="tan")
    if o.has("racing stripe"):
        b.add(_body([(at(0.02), belt * 0.5), (at(0.05), belt * (0.55 + 0.45 * nose) + 0.06),
                     (at(hood), belt + 0.08),
                     (at(hood + 0.02), belt)], stripe * x), paint="secondary")
        if not open_top:
            b.add(box(stripe * x, (trunk - hood - rake * 1.5) * 2 * half, 0.2),
                  (0, at((hood + rake + trunk - rake * 0.6) / 2), roof + 0.14), paint="secondary")


def van(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, x, wheel = r.uniform(4.4, 5.2) * o.length, r.uniform(2.1, 2.4) * o.width, r.uniform(0.85, 1.0)
    top, belt, nose = r.uniform(4.6, 5.4) * o.height, r.uniform(2.5, 2.8) * o.height, r.uniform(0.05, 0.16)
    windows, soft = int(r.integers(2, 4)), r.uniform(0.04, 0.08)
    g = wheel * 0.6
    if o.kind == "delivery":
        nose = 0.2
    y0 = -half + nose * 2 * half
    b.add(_body([(-half, g), (-half, belt * 0.85), (-half + 0.3, belt), (y0 + 0.3, top - 0.5),
                 (y0 + 0.9, top),
                 (half - soft * half, top), (half, top - 0.6), (half, g)], 2 * x, 0.93, belt, top), paint="primary")
    b.add(_body([(-half + 0.22, belt + 0.15), (y0 + 0.2, top - 0.55), (y0 + 0.5, top - 0.55),
                 (-half + 1.2, belt + 0.15)],
                1.75 * x, 0.94, belt, top), paint="glass")
    depth = top - belt - 0.6
    b.both(box(0.3, 1.5, depth), (x * 0.95, y0 + 1.4, belt + 0.1 + depth / 2), paint="glass")
    if o.kind == "camper":
        for k in range(windows):
            b.both(box(0.3, 1.1, depth * 0.85), (x * 0.95, y0 + 3.1 + k * 1.7, belt + 0.1 + depth / 2),
                   paint="glass")
        b.both(box(0.25, 2 * half - 0.6, belt * 0.2), (x * 0.98, 0.1, belt * 0.72), paint="secondary")
    else:
        b.both(box(0.22, 0.22, top - g - 1), (x * 0.97, 0.2, (top + g) / 2), paint="secondary")
        if o.kind == "delivery":
            b.both(box(0.3, half * 0.8, 0.7), (x * 0.97, half * 0.45, belt + 0.3), paint="secondary")
    b.both(box(1.3 * x * 0.6, 0.3, depth * 0.8), (x * 0.42, half - 0.1, belt + depth * 0.45), paint="glass")
    _wheels(b, x + 0.1, (-half * 0.62, half * 0.6), wheel, 0.75, o)
    _lights(b, x * 0.68, half, belt * 0.6, 0.36, half, o.futuristic)
    b.add(rounded_box(2 * x + 0.1, 0.5, 0.5, 0.2), (0, -half, g + 0.25), paint="metal")
    b.add(rounded_box(2 * x + 0.1, 0.5, 0.5, 0.2), (0, half, g + 0.25), paint="metal")
    if o.has("surfboard"):
        b.add(ellipsoid(0.9, half * 0.8, 0.22, 18), (0, 0.4, top + 0.55), paint="accent")
        b.row(box(1.6 * x, 0.3, 0.6), 2, (0, -half * 0.1, top + 0.15), (0, half * 0.6, top + 0.15),
              paint="dark")
    if o.has("roof box"):
        b.add(rounded_box(1.2 * x, half * 0.8, 0.9, 0.3), (0, half * 0.2, top + 0.4), paint="secondary")


def truck(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, x, wheel = r.uniform(5.4, 6.6) * o.length, r.uniform(2.1, 2.5) * o.width, r.uniform(1.0, 1.2)
    cab, top, load = r.uniform(0.28, 0.34), r.uniform(4.3, 5.0) * o.height, r.uniform(4.6, 5.8) * o.height
    rear, slope = int(r.integers(1, 3)), r.uniform(0.3, 0.9)
    g, front = wheel * 0.9, -half
    y1 = -half + cab * 2 * half
    b.add(box(1.2 * x, 2 * half - 0.4, 0.6), (0, 0.1, g + 0.3), paint="dark")
    hood = 1.9 if o.kind == "pickup" else 0.0
    if o.kind == "pickup":
        y1 += 0.6
    b.add(_body([(front + hood, g), (front + hood + 0.02, top * 0.55), (front + hood + slope, top),
                 (y1, top), (y1, g)], 2 * x, 0.92, top * 0.5, top), paint="primary")
    if hood:
        b.add(rounded_box(2 * x * 0.98, hood + 0.4, top * 0.34, 0.25),
              (0, front + hood / 2 + 0.1, g + top * 0.17))
    b.add(_body([(front + hood - 0.05, top * 0.6), (front + hood + slope * 0.75, top * 0.9),
                 (front + hood + slope * 0.75 + 0.5, top * 0.9), (front + hood + 0.5,
                                                                  top * 0.6)], 1.7 * x), paint="glass")
    b.both(box(0.3, (y1 - front - hood) * 0.5, top * 0.28), (x * 0.94, (y1 + front + hood + slope) / 2, top * 0.74),
           paint="glass")
    y2, length = y1 + 0.35, half - y1 - 0.35
    mid = y2 + length / 2
    if o.kind == "box":
        b.add(box(2 * x + 0.3, length, load, 0.12), (0, mid, g + 0.5 + load / 2), paint="primary")
        b.both(box(0.3, length * 0.96, 0.7), (x + 0.1, mid, g + load * 0.55), paint="secondary")
        b.both(box(0.2 + x * 0.9, 0.3, load * 0.8), (x * 0.47, half, g + 0.5 + load / 2), paint="secondary")
    elif o.kind == "dump":
        tub = [(y2 - 0.7, g + load * 0.85), (y2 + 0.4, g + 0.6), (half, g + 0.8),
               (half + 0.3, g + load * 0.62)]
        b.add(_body(tub, 2 * x + 0.2, 1.08, g, g + load), paint="primary")
        b.add(ellipsoid(x * 0.9, length * 0.42, 0.9, 16), (0, mid + 0.1, g + load * 0.72), paint="soil")
        b.both(box(0.3, 0.4, load * 0.5), (x + 0.1, mid, g + load * 0.45), paint="secondary")
        b.both(box(0.3, 0.4, load * 0.42), (x + 0.1, mid + length * 0.3, g + load * 0.4), paint="secondary")
    elif o.kind == "tanker":
        rad = min(x, load * 0.5)
        b.add(capsule(rad, length + 0.4, 22), (0, mid, g + 0.4 + rad), (90, 0, 0), paint="primary")
        b.row(cylinder(rad * 1.04, 0.28, 26), 2, (0, mid - length * 0.25, g + 0.4 + rad),
              (0, mid + length * 0.25, g + 0.4 + rad), (90, 0, 0), paint="secondary")
        b.stand(cylinder(0.6, 0.5, 16), (0, mid, g + 2 * rad + 0.3), paint="secondary")
    else:  # pickup and flatbed logs
        b.add(box(2 * x, length + 0.4, 0.6), (0, mid - 0.1, g + 0.4), paint="primary")
        wall = load * (0.34 if o.kind == "pickup" else 0.22)
        b.both(box(0.35, length + 0.4, wall), (x - 0.17, mid - 0.1, g + 0.4 + wall / 2), paint="primary")
        b.add(box(2 * x, 0.35, wall), (0, half - 0.1, g + 0.4 + wall / 2), paint="primary")
        if o.has("cargo"):
            if o.kind == "pickup":
                b.add(box(x, length * 0.4, 1.3, 0.1), (-x * 0.35, mid, g + 1.3), paint="tan")
                b.add(box(0.8 * x, length * 0.3, 1.0, 0.1), (x * 0.4, mid + 0.8, g + 1.15), paint="wood")
    _wheels(b, x + 0.1, (-half * 0.68, *[half * 0.72 - k * wheel * 2.1 for k in range(rear)]), wheel, 0.9, o)
    _lights(b, x * 0.7, half, g + 0.8, 0.38, half, o.futuristic)
    b.add(rounded_box(2 * x + 0.1, 0.5, 0.6, 0.2), (0, -half, g + 0.1), paint="metal")
    b.add(box(1.1 * x, 0.3, 0.8), (0, -half - 0.02, g + 0.95), paint="dark")
    if o.has("exhaust stacks"):
        b.both(cylinder(0.25 * o.thick, top * 0.75, 12), (x + 0.05, y1 + 0.15, g + top * 0.55), paint="metal")
    if o.has("roof lights"):
        b.row(rounded_box(0.7, 0.5, 0.5, 0.15), 4, (-x * 0.7, y1 - 0.8, top + 0.1),
              (x * 0.7, y1 - 0.8, top + 0.1),
              paint="yellow")


def bus(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, x, wheel = r.uniform(6.0, 7.4) * o.length, r.uniform(2.0, 2.3) * o.width, r.uniform(0.85, 1.0)
    top, g, windows = r.uniform(4.3, 4.9) * o.height, 0.55, int(r.integers(4, 7))
    soft, nose, stripe = r.uniform(0.25, 0.6), r.uniform(1.6, 2.0), r.random() < 0.6
    decks = 2 if o.kind == "double-decker" else 1
    if decks == 2:
        half *= 0.86
    deck = top - g
    y0 = -half + (nose if o.kind == "school" else 0)
    if o.kind == "school":
        b.add(rounded_box(1.8 * x, nose + 0.6, deck * 0.48, 0.3),
              (0, -half + nose / 2 + 0.2, g + deck * 0.27))
        b.add(box(1.0 * x, 0.3, deck * 0.26), (0, -half - 0.05, g + deck * 0.25), paint="dark")
    body = deck * (1 if decks == 1 else 1.85)
    b.add(rounded_box(2 * x, half - y0, body, soft, 3), (0, (half + y0) / 2, g + body / 2), paint="primary")
    length = half - y0
    for k in range(decks):
        z = g + deck * (0.66 + 0.86 * k)
        step = (length - 0.9) / windows
        for i in range(windows):
            b.both(box(0.3, step * 0.74, deck * 0.3), (x - 0.06, y0 + 0.5 + step * (i + 0.5), z),
                   paint="glass")
        b.add(box(1.7 * x, 0.4, deck * 0.4), (0, y0 + 0.05, z), paint="glass")
        b.add(box(1.5 * x, 0.4, deck * 0.32), (0, half - 0.05, z), paint="glass")
    if stripe:
        b.both(box(0.25, length - 1.0, 0.42), (x, (half + y0) / 2, g + deck * 0.34), paint="secondary")
    b.add(box(0.25, 1.1, deck * 0.62), (-x, y0 + 1.2, g + deck * 0.42), paint="secondary")
    b.add(box(1.3 * x, 0.4, 0.55), (0, y0 - 0.02, g + body - 0.5), paint="secondary")
    _wheels(b, x + 0.1, (y0 + 1.3 if o.kind == "school" else -half * 0.62, half * 0.6), wheel, 0.7, o)
    _lights(b, x * 0.7, half, g + 0.8, 0.34, half, o.futuristic)
    b.add(rounded_box(2 * x + 0.05, 0.5, 0.5, 0.2), (0, -half, g + 0.15), paint="metal")
    if o.has("luggage"):
        b.row(box(1.0 * x, 1.3, 0.8, 0.1), 3, (0, y0 + 1.8, g + body + 0.3), (0, half - 1.8, g + body + 0.3),
              paint="tan")
    if o.has("stop sign"):
        b.add(cylinder(0.6, 0.25, 8), (x + 0.55, y0 + 1.0, g + deck * 0.45), (90, 0, 0), paint="red")
        b.add(box(0.8, 0.2, 0.2), (x + 0.1, y0 + 1.0, g + deck * 0.45), paint="metal")


def train_carriage(b: Builder, r: np.random.Generator, o: Options) -> None:
    half, x, wheel = r.uniform(5.4, 6.6) * o.length, r.uniform(1.9, 2.3) * o.width, r.uniform(0.7, 0.85)
    body, windows, curve = r.uniform(3.4, 4.0) * o.height, int(r.integers(4, 7)), r.uniform(0.6, 1.0)
    band, planks = r.uniform(0.3, 0.5), int(r.integers(5, 8))
    g = wheel * 1.3
    b.add(box(1.7 * x, 2 * half + 0.5, 0.6), (0, 0, g), paint="dark")
    b.add(cylinder(0.35, 2 * half + 1.6, 12), (0, 0, g), (90, 0, 0), paint="metal")
    for s in (-1, 1):
        for e in (-1, 1):
            y = s * half * 0.62 + e * wheel * 1.2
            b.both(cylinder(wheel, 0.5, 20), (x * 0.78, y, wheel), (0, 90, 0), paint="dark")
            b.both(cylinder(wheel * 0.5, 0.2, 14), (x * 0.78 + 0.26, y, wheel), (0, 90, 0), paint="metal")
        b.both(box(0.3, wheel * 3.4, 0.5), (x * 0.78 + 0.2, s * half * 0.62, wheel * 1.25), paint="secondary")
    z = g + 0.2
    if o.kind == "tank":
        b.add(capsule(x, 2 * half, 24), (0, 0, z + x), (90, 0, 0), paint="primary")
        b.stand(cylinder(0.8, 0.9, 18), (0, 0, z + 2 * x - 0.2), paint="secondary")
        b.row(cylinder(x * 1.04, 0.35, 26), 2, (0, -half * 0.55, z + x), (0, half * 0.55, z + x), (90, 0, 0),
              paint="secondary")
        return
    if o.kind == "coal":
        side = [(-half, z), (half, z), (half + 0.3, z + body * 0.75), (-half - 0.3, z + body * 0.75)]
        b.add(_body(side, 2 * x, 1.12, z, z + body), paint="primary")
        b.row(box(2.35 * x, 0.35, body * 0.72), planks, (0, -half + 0.3, z + body * 0.37),
              (0, half - 0.3, z + body * 0.37),
              paint="primary")
        b.add(ellipsoid(x * 0.98, half * 0.94, 0.9, 18), (0, 0, z + body * 0.72), paint="black")
        return
    b.add(rounded_box(2 * x, 2 * half, body, 0.15), (0, 0, z + body / 2), paint="primary")
    b.add(cylinder(1, 2 * half + 0.5, 26), (0, 0, z + body - 0.15), (90, 0, 0), (x * 1.08, curve, 1),
          paint="primary")
    if o.kind == "freight":
        b.both(box(0.3, half * 0.7, body * 0.85), (x, 0, z + body / 2), paint="primary")
        b.both(box(0.3, half * 0.8, 0.3), (x + 0.08, 0, z + body * 0.9), paint="secondary")
        b.both(box(0.3, 0.35, body * 0.8), (x + 0.1, half * 0.36, z + body / 2), paint="secondary")
        for s in (-1, 1):
            b.row(box(2 * x + 0.3, 0.3, body * 0.95), 3, (0, s * half * 0.5, z + body / 2),
                  (0, s * half * 0.95, z + body / 2), paint="primary")
    else:
        step = (2 * half - 2.2) / windows
        for i in range(windows):
            y = -half + 1.1 + step * (i + 0.5)
            b.both(box(0.3, step * 0.6, body * 0.32), (x - 0.02, y, z + body * 0.62), paint="glass")
        b.both(box(0.25, 2 * half - 0.3, band), (x, 0, z + body * 0.25), paint="secondary")
        for s in (-1, 1):
            b.add(box(x * 0.6, 0.3, body * 0.7), (0, s * half, z + body * 0.42), paint="secondary")
            b.both(box(x * 0.4, 0.3, body * 0.3), (x * 0.68, s * half, z + body * 0.62), paint="glass")
    if o.has("chimney"):
        b.stand(frustum(0.4, 0.5, 1.3, 14), (0, -half * 0.5, z + body + curve - 0.6), paint="dark")
    if o.has("roof vents"):
        b.row(rounded_box(0.9, 1.0, 0.6, 0.2), 3, (0, -half * 0.1, z + body + curve - 0.1),
              (0, half * 0.75, z + body + curve - 0.1), paint="metal")


_STYLES = ("futuristic", "cartoon")
_FINISH = {"glossy": 4, "painted": 4, "two-tone": 1, "worn": 1, "brushed metal": 1, "striped": 1}

CATEGORIES = {
    "car": Category(car, synonyms=("automobile", "motorcar"), kinds={
        "sedan": ("car", "sedan", "family car"), "sports": ("sports car", "race car"),
        "hatchback": ("hatchback car", "compact car"), "jeep": ("jeep", "off-road car"),
        "convertible": ("convertible car", "cabriolet car")},
        parts={"spoiler": "a rear spoiler", "roof rack": "a loaded roof rack",
               "racing stripe": "a racing stripe"},
        sizes=("tall", "wide", "long", "chunky", "tiny"), styles=_STYLES, stretch=False, second="wheel hubs",
        finishes=_FINISH),
    "van": Category(van, synonyms=("minivan",), kinds={
        "": ("van", "minivan"), "camper": ("camper van", "hippie van"), "delivery": ("delivery van", "cargo van")},
        parts={"surfboard": "a surfboard on the roof", "roof box": "a roof box"},
        sizes=("tall", "wide", "long", "chunky", "tiny"), styles=_STYLES, stretch=False, second="stripes",
        finishes=_FINISH),
    "truck": Category(truck, synonyms=("lorry",), kinds={
        "box": ("box truck", "truck", "lorry"), "dump": ("dump truck", "tipper truck"),
        "tanker": ("tanker truck", "fuel truck"), "pickup": ("pickup truck", "pickup")},
        parts={"exhaust stacks": "exhaust stacks", "roof lights": "roof lights", "cargo": "cargo"},
        sizes=("tall", "wide", "long", "chunky", "tiny"), styles=_STYLES, stretch=False, second="wheel hubs",
        finishes=_FINISH),
    "bus": Category(bus, synonyms=("coach",), kinds={
        "": ("bus", "city bus"), "school": ("school bus",), "double-decker": ("double-decker bus", "two-deck bus")},
        parts={"luggage": "luggage on the roof", "stop sign": "a stop sign"},
        sizes=("tall", "wide", "long", "short", "tiny"), styles=_STYLES, stretch=False, second="door",
        finishes=_FINISH, colors={"yellow": 3, "red": 3, "blue": 1}),
    "train carriage": Category(train_carriage, synonyms=("railway carriage", "train car", "train wagon"),
                               kinds={
        "passenger": ("train carriage", "passenger train car", "railway carriage"),
        "freight": ("freight train car", "goods wagon"), "tank": ("tank wagon", "train tank car"),
        "coal": ("coal wagon", "open train wagon")},
        parts={"chimney": "a chimney", "roof vents": "roof vents"}, sizes=("tall", "wide", "long", "short", "tiny"),
        styles=("cartoon",), stretch=False, second="trim", finishes=_FINISH),
}
