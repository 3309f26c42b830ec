"""Figures: robot, robot dog, snowman, teddy bear."""

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
    rod,
    rounded_box,
    smooth_path,
    sphere,
    torus,
    tube,
)


def robot(b: Builder, r: np.random.Generator, o: Options) -> None:
    body_x, body_z = r.uniform(0.46, 0.62), r.uniform(0.5, 0.66)
    head, limb = r.uniform(0.3, 0.42), r.uniform(0.065, 0.085) * o.thick
    leg, arm, swing = r.uniform(0.28, 0.42), r.uniform(0.4, 0.52), r.uniform(8, 35)
    round_head, eyes = int(r.integers(3)), int(r.integers(1, 3))
    body_y = body_x * r.uniform(0.6, 0.8)
    low = leg + 0.08
    if o.kind == "tracked":
        low = 0.26
        b.both(rounded_box(0.17, body_y * 1.7, 0.26, 0.12), (body_x * 0.46, 0, 0.13), paint="rubber")
        b.both(box(0.19, body_y * 1.1, 0.08), (body_x * 0.46, 0, 0.13), paint="secondary")
        b.add(box(body_x * 0.7, body_y * 0.7, 0.14), (0, 0, 0.22), paint="secondary")
    else:
        b.both(rod((body_x * 0.26, 0, 0.06), (body_x * 0.26, 0, low + 0.05), limb), paint="secondary")
        b.both(rounded_box(0.2 * o.thick, 0.32, 0.13, 0.04), (body_x * 0.27, -0.05, 0.065))
        b.both(sphere(limb * 1.3, 10), (body_x * 0.26, 0, low * 0.55))
    mid = low + body_z / 2
    if o.kind == "round":
        b.add(ellipsoid(body_x * 0.58, body_y * 0.72, body_z * 0.55), (0, 0, mid))
    else:
        b.add(rounded_box(body_x, body_y, body_z, 0.06, 2), (0, 0, mid))
    front = -body_y * (0.66 if o.kind == "round" else 0.5)
    if o.has("chest panel"):
        b.add(rounded_box(body_x * 0.56, 0.08, body_z * 0.42, 0.03), (0, front, mid + 0.02), paint="light")
        for k, paint in zip((-1, 0, 1), ("red", "yellow", "green"), strict=True):
            b.add(cylinder(0.035, 0.06, 8), (k * body_x * 0.16, front - 0.04, mid + 0.08), (90, 0, 0), paint=paint)
        b.add(box(body_x * 0.4, 0.05, 0.06), (0, front - 0.035, mid - 0.05), paint="dark")
    top = low + body_z
    b.add(cylinder(0.08, 0.14), (0, 0, top + 0.03), paint="dark")
    z = top + 0.07 + head * 0.45
    if round_head == 2:
        b.add(lathe([(head * 0.6, -head * 0.4), (head * 0.62, 0), (head * 0.45, head * 0.38), (0, head * 0.52)], 18),
              (0, 0, z))
    elif round_head == 1:
        b.add(rounded_box(head * 1.35, head, head * 0.92, head * 0.3), (0, 0, z))
    else:
        b.add(box(head * 1.25, head, head * 0.9, 0.03), (0, 0, z))
    face = -head * (0.55 if round_head == 2 else 0.5)
    if o.has("visor"):
        b.add(rounded_box(head * 1.05, 0.12, head * 0.3, 0.04), (0, face, z + 0.04), paint="dark")
        b.both(box(head * 0.2, 0.05, head * 0.12), (head * 0.24, face - 0.055, z + 0.04), paint="glow")
    elif eyes == 1 and o.kind == "round":
        b.add(cylinder(head * 0.3, 0.12, 16), (0, face, z + 0.03), (90, 0, 0), paint="dark")
        b.add(sphere(head * 0.19, 10), (0, face - 0.03, z + 0.03), paint="glow")
    else:
        b.both(cylinder(head * 0.2, 0.12, 14), (head * 0.3, face, z + 0.05), (90, 0, 0), paint="white")
        b.both(sphere(head * 0.11, 8), (head * 0.3, face - 0.055, z + 0.05), paint="dark")
    if not o.has("visor"):
        b.add(box(head * 0.6, 0.05, 0.05), (0, face - 0.01, z - head * 0.24), paint="dark")
    if o.has("antenna"):
        b.add(rod((0, 0, z + head * 0.4), (0, 0, z + head * 0.75 + 0.1), 0.028), paint="metal")
        b.add(sphere(0.065, 10), (0, 0, z + head * 0.75 + 0.13), paint="accent")
    if o.has("ear bolts"):
        b.both(cylinder(head * 0.2, 0.12, 12), (head * 0.68, 0, z), (0, 90, 0), paint="accent")
    x = body_x * 0.5 + limb
    b.both(sphere(limb * 1.6, 12), (x, 0, top - 0.1))
    a = np.radians(swing)
    hand = np.array([x + arm * 0.32, -arm * np.sin(a), top - 0.1 - arm * 0.9 * np.cos(a)])
    elbow = np.array([x + arm * 0.28, 0.0, top - 0.12 - arm * 0.45])
    b.both(tube([(x, 0, top - 0.1), elbow, hand], limb * 0.9, 10), paint="secondary")
    b.both(sphere(limb * 1.2, 10), elbow)
    b.both(sphere(limb * 1.55, 10), hand)
    for k in (-1, 1):
        b.both(rod(hand, hand + (k * 0.07, -0.05, -0.13), 0.032, n=8))
    if o.has("jetpack"):
        b.both(capsule(0.1, body_z * 0.9), (0.12, body_y * 0.5 + 0.07, mid), paint="accent")
        b.both(frustum(0.09, 0.05, 0.1), (0.12, body_y * 0.5 + 0.07, mid - body_z * 0.46), paint="dark")


def robot_dog(b: Builder, r: np.random.Generator, o: Options) -> None:
    length, width, height = r.uniform(0.8, 1.0), r.uniform(0.32, 0.42), r.uniform(0.28, 0.36)
    leg, limb, head = r.uniform(0.36, 0.5), r.uniform(0.055, 0.07) * o.thick, r.uniform(0.28, 0.36)
    knee, tail_up, neck = r.uniform(0.03, 0.12), r.uniform(0.15, 0.35), r.uniform(0.12, 0.26)
    z = leg + height / 2
    if o.kind == "round":
        b.add(capsule(height * 0.56, length), (0, 0, z), (90, 0, 0), scale=(1.1, 1, 1))
    else:
        b.add(rounded_box(width, length, height, 0.06, 2), (0, 0, z))
    for y in (-0.36, 0.36):
        hip = np.array([width / 2 + 0.01, y * length, z - 0.02])
        mid = hip + (0.03, knee * 1.4, -leg * 0.45)
        foot = np.array([hip[0] + 0.03, hip[1], limb])
        b.both(sphere(limb * 1.7, 10), hip)
        b.both(rod(hip, mid, limb * 1.15))
        b.both(rod(mid, foot, limb * 0.85), paint="secondary")
        b.both(sphere(limb * 1.15, 10), mid)
        b.both(ellipsoid(limb * 1.4, limb * 1.7, limb, n=10), foot + (0, -0.02, 0), paint="dark")
    front = -length / 2
    pivot = np.array([0, front - 0.08, z + height * 0.3 + neck])
    b.add(rod((0, front + 0.1, z + height * 0.2), pivot, 0.09))
    b.add(rounded_box(head * 1.05, head, head * 0.9, 0.07, 2), pivot + (0, -0.05, 0.06))
    b.add(rounded_box(head * 0.62, head * 0.62, head * 0.45, 0.05, 2), pivot + (0, -head * 0.65, -0.02))
    b.add(sphere(head * 0.15, 10), pivot + (0, -head * 0.98, 0.05), paint="dark")
    face = pivot + (0, -0.05 - head * 0.5, 0.06 + head * 0.18)
    if o.has("visor"):
        b.add(box(head * 0.9, 0.07, head * 0.22), face, paint="glow")
    else:
        b.both(cylinder(head * 0.14, 0.07, 12), face + (head * 0.28, 0, 0), (90, 0, 0), paint="glow")
    if o.has("floppy ears"):
        b.both(rounded_box(0.07, head * 0.42, head * 0.8, 0.03), pivot + (head * 0.58, 0, 0), (0, -12, 0),
               paint="secondary")
    else:
        b.both(cone(head * 0.22, head * 0.6, 4), pivot + (head * 0.33, 0.02, head * 0.68), (0, 8, 0), paint="secondary")
    end = (0, length / 2 + 0.16, z + height * 0.3 + tail_up)
    b.add(tube(smooth_path([(0, length / 2 - 0.05, z + height * 0.2), (0, length / 2 + 0.12, z + height * 0.35), end],
                           8),
               0.034 * o.thick, 8))
    b.add(sphere(0.06, 10), end, paint="accent")
    if o.has("collar"):
        b.add(torus(0.11, 0.04, n=18, m=8), (0, front + 0.0, z + height * 0.25 + neck * 0.6), (25, 0, 0),
              paint="accent")
    if o.has("antenna"):
        b.add(rod(pivot + (0, 0.05, head * 0.4), pivot + (0, 0.05, head * 0.95), 0.026), paint="metal")
        b.add(sphere(0.05, 8), pivot + (0, 0.05, head * 0.98), paint="red")
    if o.has("back pack"):
        b.add(rounded_box(width * 0.7, length * 0.32, 0.12, 0.04), (0, 0.05, z + height / 2 + 0.04), paint="accent")


def snowman(b: Builder, r: np.random.Generator, o: Options) -> None:
    low, ratio, nose = r.uniform(0.38, 0.46), r.uniform(0.68, 0.78), r.uniform(0.2, 0.3)
    squash, lift = r.uniform(0.88, 0.98), r.uniform(0.1, 0.3)
    hat_tall, turn = r.uniform(0.2, 0.32), r.uniform(-12, 12)
    balls = [low, low * ratio, low * ratio * 0.78]
    if o.kind == "two balls":
        balls = [low, low * ratio * 0.85]
    z, centres = 0.0, []
    for i, s in enumerate(balls):
        z += s * squash * (0.93 if i == 0 else 0.72)
        b.add(ellipsoid(s, s, s * squash), (0, 0, z))
        centres.append(z)
        z += s * squash * 0.9
    head, body = balls[-1], balls[-2]
    hz, bz = centres[-1], centres[-2]
    b.add(cone(head * 0.2, nose, 10), (0, -head - nose * 0.42, hz), (90, 0, 0), paint="orange")
    b.both(sphere(head * 0.13, 8), (head * 0.34, -head * 0.88, hz + head * 0.28), paint="black")
    for k in range(-2, 3):
        b.add(sphere(head * 0.075, 6), (k * head * 0.17, -head * (0.93 - 0.03 * abs(k)),
                                        hz - head * (0.42 - 0.06 * abs(k))), paint="black")
    if o.has("buttons"):
        for k in (0.42, 0.05, -0.34):
            b.add(sphere(0.05, 8), (0, -body * np.sqrt(1 - k * k) * 0.99, bz + k * body * squash), paint="black")
    if o.has("stick arms"):
        start = np.array([body * 0.8, 0, bz + body * 0.25])
        end = start + (0.36, -0.08, lift)
        b.both(rod(start, end, 0.034 * o.thick, n=8), paint="wood")
        b.both(rod(start * 0.3 + end * 0.7, end + (0.0, 0, 0.13), 0.028 * o.thick, n=8), paint="wood")
    if o.has("scarf"):
        neck = (hz - head * squash * 0.8)
        b.add(torus(head * 0.78, 0.075 * o.thick, n=22, m=8), (0, 0, neck), paint="accent")
        b.add(rounded_box(0.14, 0.07, 0.36, 0.03), (head * 0.35, -body * 0.86, neck - 0.17), (-14, 8, 0),
              paint="accent")
    if o.has("hat"):
        top = hz + head * squash * 0.72
        h = Builder()
        h.add(cylinder(head * 0.98, 0.05, 22), paint="black")
        h.add(frustum(head * 0.62, head * 0.66, hat_tall, 20), (0, 0, hat_tall / 2), paint="black")
        h.add(cylinder(head * 0.66, 0.07, 20), (0, 0, 0.06), paint="red")
        b.group(h, (0, 0, top), (0, turn, 0))
    if o.has("earmuffs"):
        b.both(cylinder(head * 0.36, 0.12, 16), (head * 0.98, 0, hz + head * 0.05), (0, 90, 0), paint="accent")
        band = np.radians(np.linspace(8, 172, 11))
        way = np.stack([head * 1.03 * np.cos(band), 0 * band, hz + head * 1.02 * squash * np.sin(band)], 1)
        b.add(tube(way, 0.036 * o.thick, 8), paint="dark")
    if o.has("broom"):
        b.add(rod((body + 0.3, -0.1, 0.02), (body + 0.26, -0.1, bz + 0.45), 0.032 * o.thick, n=8), paint="wood")
        b.add(frustum(0.06, 0.17, 0.3, 10), (body + 0.26, -0.1, bz + 0.5), paint="tan")
        b.add(rod((body * 0.7, -0.02, bz + 0.1), (body + 0.28, -0.1, bz + 0.15), 0.034, n=8), paint="wood")


def teddy_bear(b: Builder, r: np.random.Generator, o: Options) -> None:
    body, head, tall = r.uniform(0.32, 0.38), r.uniform(0.29, 0.35), r.uniform(1.0, 1.2)
    ear, limb, arm_up = r.uniform(0.1, 0.14), r.uniform(0.11, 0.14) * o.thick, r.uniform(-0.1, 0.3)
    sit = o.kind != "standing"
    base = body * tall * 0.95 if sit else body * tall + 0.26
    b.add(ellipsoid(body, body * 0.86, body * tall), (0, 0, base))
    b.add(ellipsoid(body * 0.66, body * 0.3, body * tall * 0.68), (0, -body * 0.64, base - 0.02), paint="cream")
    z = base + body * tall * 0.82 + head * 0.66
    b.add(ellipsoid(head * 1.08, head * 0.95, head * 0.95), (0, 0, z))
    b.both(ellipsoid(ear, ear * 0.6, ear, n=12), (head * 0.78, 0.02, z + head * 0.76))
    b.both(ellipsoid(ear * 0.62, ear * 0.3, ear * 0.62, n=10), (head * 0.78, -ear * 0.42, z + head * 0.76),
           paint="cream")
    b.add(ellipsoid(head * 0.48, head * 0.38, head * 0.36, n=14), (0, -head * 0.8, z - head * 0.2), paint="cream")
    b.add(ellipsoid(head * 0.17, head * 0.12, head * 0.12, n=10), (0, -head * 1.14, z - head * 0.06), paint="dark")
    b.both(sphere(head * 0.11, 10), (head * 0.38, -head * 0.82, z + head * 0.18), paint="dark")
    shoulder = np.array([body * 0.75, 0, base + body * tall * 0.55])
    hand = shoulder + (0.24, -0.2, -0.2 + arm_up)
    b.both(tube([shoulder, shoulder * 0.5 + hand * 0.5 + (0.05, 0, 0), hand], [limb, limb * 1.05, limb], 12))
    b.both(sphere(limb * 1.08, 12), hand)
    if sit:
        foot = np.array([body * 0.85, -body * 1.3, limb * 1.15])
        b.both(rod((body * 0.5, -0.05, limb * 1.2), foot, limb * 1.25, limb * 1.1))
        b.both(ellipsoid(limb * 1.25, limb * 0.85, limb * 1.4, n=14), foot + (0, -0.03, limb * 0.25))
        b.both(ellipsoid(limb * 0.85, limb * 0.3, limb * 0.95, n=12), foot + (0, -limb * 0.82, limb * 0.28),
               paint="cream")
    else:
        b.both(rod((body * 0.52, 0, 0.1), (body * 0.45, 0, base - body * 0.4), limb * 1.15))
        b.both(ellipsoid(limb * 1.25, limb * 1.6, limb * 0.8, n=14), (body * 0.54, -0.06, limb * 0.75))
    if o.has("bow tie"):
        knot = base + body * tall * 0.78
        b.both(frustum(0.045, 0.12, 0.2, 8), (0.1, -head * 0.72, knot), (0, 90, 0), scale=(1, 0.8, 1), paint="accent")
        b.add(sphere(0.06, 8), (0, -head * 0.75, knot), paint="accent")
    if o.has("scarf"):
        b.add(torus(head * 0.72, 0.075, n=22, m=8), (0, 0, base + body * tall * 0.8), paint="accent")
        b.add(rounded_box(0.14, 0.07, 0.34, 0.03), (0.13, -body * 0.9, base + body * 0.4), paint="accent")
    if o.has("party hat"):
        b.add(cone(head * 0.42, head * 1.0, 14), (0, 0, z + head * 1.3), paint="accent")
        b.add(sphere(0.065, 8), (0, 0, z + head * 1.8), paint="white")
    if o.has("heart"):
        t = np.linspace(0, 2 * np.pi, 20)[:-1]
        p = np.stack([0.15 * np.sin(t) ** 3, 0.0095 * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t)
                                                       - np.cos(4 * t))], 1)
        b.add(extrude(p, 0.12), (0, -body * 0.95, base - 0.03), paint="red")


_SIZES = ("tall", "short", "wide", "chunky", "slender", "tiny")

CATEGORIES = {
    "robot": Category(
        robot, synonyms=("toy robot", "android"), kinds={"boxy": (), "round": ("round robot",),
                                                         "tracked": ("robot on tracks", "tracked robot")},
        parts={"antenna": "an antenna", "visor": "a visor", "chest panel": "a chest panel", "ear bolts": "ear bolts",
               "jetpack": "a jetpack"},
        sizes=_SIZES, styles=("rustic", "futuristic", "cartoon"),
        finishes={"painted": 3, "brushed metal": 3, "glossy": 3, "worn": 1}, second="limbs"),
    "robot dog": Category(
        robot_dog, synonyms=("robotic dog", "mechanical dog"), kinds={"boxy": (), "round": ("round robot dog",)},
        parts={"visor": "a visor", "floppy ears": "floppy ears", "collar": "a collar", "antenna": "an antenna",
               "back pack": "a box on its back"},
        sizes=("tall", "short", "wide", "long", "chunky", "slender", "tiny"), styles=("cartoon", "rustic"),
        finishes={"painted": 3, "brushed metal": 3, "glossy": 3}, second="legs"),
    "snowman": Category(
        snowman, kinds={"three balls": (), "two balls": ("little snowman",)},
        parts={"hat": "a top hat", "earmuffs": "earmuffs", "scarf": "a scarf", "stick arms": "stick arms",
               "buttons": "coal buttons", "broom": "a broom"},
        sizes=_SIZES, styles=("cartoon", "crooked", "rustic"), colors={"white": 6, "light blue": 1},
        finishes={"painted": 3, "glossy": 1}),
    "teddy bear": Category(
        teddy_bear, synonyms=("stuffed bear", "toy bear"), kinds={"sitting": (), "standing": ("standing teddy bear",)},
        parts={"bow tie": "a bow tie", "scarf": "a scarf", "party hat": "a party hat", "heart": "a red heart"},
        sizes=_SIZES, styles=("cartoon",), colors={"brown": 5, "tan": 3, "white": 1, "pink": 1},
        finishes={"painted": 4, "dotted": 1, "plaid": 1}),
}
