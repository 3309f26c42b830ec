"""Closed triangle primitives for procedural assets.

Every function returns a `Shape`: vertices [V, 3] float64 and faces [F, 3] int64 of one closed surface with
outward (counter-clockwise) faces. Shapes are centred at the origin with their axis along +z unless the
docstring says otherwise; lengths are in the caller's units, angles in degrees.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A closed surface: vertices [V, 3] float64, faces [F, 3] int64."""

    vertices: np.ndarray
    faces: np.ndarray


@lru_cache(maxsize=512)
def _loft_faces(rings: int, points: int, low_pole: bool, high_pole: bool) -> np.ndarray:
    """Faces of `rings` stacked rings of `points` vertices closed by one centre vertex at each end.

    Vertex order: rings row by row, then the low centre, then the high centre.
    """
    j = np.arange(points)
    k = (j + 1) % points
    blocks = []
    for i in range(rings - 1):
        a, b = i * points, (i + 1) * points
        blocks += [np.stack([a + j, a + k, b + k], 1), np.stack([a + j, b + k, b + j], 1)]
    low, high = rings * points, rings * points + 1
    top = (rings - 1) * points
    blocks += [np.stack([np.full(points, low), k, j], 1),
               np.stack([np.full(points, high), top + j, top + k], 1)]
    return np.concatenate(blocks).astype(np.int64)


def loft(rings: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> Shape:
    """Skin over stacked rings [R, N, 3], counter-clockwise seen from the far end, closed by centre fans.

    `low` and `high` [3] are the end points of the fans (tips); by default the centres of the end rings.
    """
    rings = np.asarray(rings, dtype=np.float64)
    low = rings[0].mean(0) if low is None else np.asarray(low, dtype=np.float64)
    high = rings[-1].mean(0) if high is None else np.asarray(high, dtype=np.float64)
    vertices = np.concatenate([rings.reshape(-1, 3), low[None], high[None]])
    return Shape(vertices, _loft_faces(rings.shape[0], rings.shape[1], True, True))


@lru_cache(maxsize=64)
def _circle(n: int) -> np.ndarray:
    t = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(t), np.sin(t)], 1)


_BOX_VERTICES = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
_BOX_FACES = np.array(
    [[0, 2, 3], [0, 3, 1], [4, 5, 7], [4, 7, 6], [0, 1, 5], [0, 5, 4],
     [2, 6, 7], [2, 7, 3], [0, 4, 6], [0, 6, 2], [1, 3, 7], [1, 7, 5]], dtype=np.int64)


def box(x: float, y: float, z: float, bevel: float = 0.0) -> Shape:
    """A box with full side lengths x, y, z; `bevel` cuts the edges by that length."""
    if bevel > 0:
        return rounded_box(x, y, z, bevel, steps=1)
    return Shape(_BOX_VERTICES * (x, y, z), _BOX_FACES)


def rounded_box(x: float, y: float, z: float, radius: float, steps: int = 3) -> Shape:
    """A box with rounded edges of `radius` (clipped to fit) and `steps` facets around each corner."""
    radius = min(radius, 0.495 * x, 0.495 * y, 0.495 * z)
    quarter = np.linspace(0, np.pi / 2, steps + 1)
    corner = np.stack([np.cos(quarter), np.sin(quarter)], 1)
    turn = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    arcs = np.stack([corner, corner[::-1] * (-1, 1), -corner, corner[::-1] * (1, -1)])  # [4, S+1, 2]
    centre = turn[:, None] * (x / 2 - radius, y / 2 - radius)
    latitude = np.concatenate([quarter - np.pi / 2, quarter])
    rho = radius * np.maximum(np.cos(latitude), 0.12)  # never zero: no degenerate triangles at the poles
    height = radius * np.sin(latitude) + np.repeat([radius - z / 2, z / 2 - radius], steps + 1)
    flat = (centre[None] + arcs[None] * rho[:, None, None, None]).reshape(len(rho), -1, 2)
    rings = np.concatenate([flat, np.broadcast_to(height[:, None, None], (*flat.shape[:2], 1))], 2)
    return loft(rings)


def lathe(profile, n: int = 20) -> Shape:
    """A solid of revolution about z from a profile of (radius, z) pairs, listed from bottom to top.

    A profile that goes up on the outside and down on the inside makes a vessel with a wall. Radius 0 at an
    end makes a tip.
    """
    p = np.asarray(profile, dtype=np.float64)
    low = high = None
    if p[0, 0] <= 1e-9:
        low, p = np.array([0, 0, p[0, 1]]), p[1:]
    if p[-1, 0] <= 1e-9:
        high, p = np.array([0, 0, p[-1, 1]]), p[:-1]
    rings = np.empty((len(p), n, 3))
    rings[..., :2] = _circle(n)[None] * np.maximum(p[:, 0], 1e-6)[:, None, None]
    rings[..., 2] = p[:, 1][:, None]
    return loft(rings, low, high)


def cylinder(radius: float, height: float, n: int = 20) -> Shape:
    """A cylinder along z."""
    return lathe([(radius, -height / 2), (radius, height / 2)], n)


def frustum(low_radius: float, high_radius: float, height: float, n: int = 20) -> Shape:
    """A cut cone along z; radius at the bottom and at the top (0 makes a tip). n=4 makes a pyramid."""
    return lathe([(low_radius, -height / 2), (high_radius, height / 2)], n) if high_radius > 0 \
        else lathe([(low_radius, -height / 2), (0, height / 2)], n)


def cone(radius: float, height: float, n: int = 20) -> Shape:
    """A cone along z, tip up, centred at half its height."""
    return frustum(radius, 0, height, n)


def pyramid(x: float, y: float, z: float, top: float = 0.0) -> Shape:
    """A four-sided pyramid with an axis-aligned x by y base; `top` is the ratio of the top to the base."""
    s = Shape(*frustum(0.5, 0.5 * top, 1.0, 4))
    a = np.sqrt(0.5)
    rot = s.vertices @ np.array([[a, a, 0], [-a, a, 0], [0, 0, 1]])
    return Shape(rot * (x / a, y / a, z), s.faces)


def ellipsoid(x: float, y: float, z: float, n: int = 18) -> Shape:
    """An ellipsoid with semi-axes x, y, z."""
    t = np.linspace(-np.pi / 2, np.pi / 2, n // 2 + 2)
    s = lathe(np.stack([np.where(np.arange(len(t)) % (len(t) - 1) == 0, 0, np.cos(t)), np.sin(t)], 1), n)
    return Shape(s.vertices * (x, y, z), s.faces)


def sphere(radius: float, n: int = 18) -> Shape:
    """A sphere."""
    return ellipsoid(radius, radius, radius, n)


def hemisphere(radius: float, n: int = 20, height: float | None = None) -> Shape:
    """A dome standing on z=0 with its flat side down; `height` makes it a half ellipsoid."""
    t = np.linspace(0, np.pi / 2, n // 4 + 2)
    p = np.stack([radius * np.cos(t), (height or radius) * np.sin(t)], 1)
    p[-1, 0] = 0
    return lathe(p, n)


def capsule(radius: float, height: float, n: int = 16) -> Shape:
    """A cylinder with half-sphere ends along z; `height` is the whole length."""
    t = np.linspace(0, np.pi / 2, n // 4 + 1)
    h = max(height / 2 - radius, 0.0)
    up = np.stack([radius * np.cos(t), radius * np.sin(t) + h], 1)
    up[-1, 0] = 0
    return lathe(np.concatenate([up[::-1] * (1, -1), up]), n)


@lru_cache(maxsize=64)
def _torus_faces(m: int, n: int) -> np.ndarray:
    i, j = np.meshgrid(np.arange(m), np.arange(n), indexing="ij")
    a, b = i * n + j, i * n + (j + 1) % n
    c, d = ((i + 1) % m) * n + j, ((i + 1) % m) * n + (j + 1) % n
    return np.concatenate([np.stack([a, c, d], -1).reshape(-1, 3), np.stack([a, d, b], -1).reshape(-1, 3)])


def torus(radius: float, tube_radius: float, arc: float = 360.0, n: int = 24, m: int = 10) -> Shape:
    """A ring in the xy plane; with `arc` < 360 an arc from angle 0 (on +x) with flat ends."""
    if arc < 359.9:
        t = np.radians(np.linspace(0, arc, max(3, int(n * arc / 360) + 2)))
        return tube(np.stack([radius * np.cos(t), radius * np.sin(t), 0 * t], 1), tube_radius, m)
    t, c = 2 * np.pi * np.arange(n) / n, _circle(m)
    rho = np.broadcast_to(radius + tube_radius * c[None, :, 0], (n, m))
    v = np.stack([rho * np.cos(t)[:, None], rho * np.sin(t)[:, None],
                  np.broadcast_to(tube_radius * c[None, :, 1], rho.shape)], -1)
    return Shape(v.reshape(-1, 3), _torus_faces(n, m))


def smooth_path(points, n: int = 16) -> np.ndarray:
    """n points [n, 3] of a Catmull-Rom curve through the given points."""
    p = np.asarray(points, dtype=np.float64)
    q = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    u = np.linspace(0, len(p) - 1, n)
    i = np.minimum(u.astype(int), len(p) - 2)
    t = (u - i)[:, None]
    a, b, c, d = q[i], q[i + 1], q[i + 2], q[i + 3]
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def tube(path, radius, n: int = 10, flat: float = 1.0) -> Shape:
    """A tube along a path [K, 3] with flat ends; `radius` is one number or one per point.

    `flat` < 1 squeezes the section along its second axis (ribbons, handles).
    """
    p = np.asarray(path, dtype=np.float64)
    radius = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(p))
    step = np.diff(p, axis=0)
    step /= np.linalg.norm(step, axis=1, keepdims=True) + 1e-12
    tangent = np.concatenate([step[:1], step[:-1] + step[1:], step[-1:]])
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    normal = np.eye(3)[np.argmin(np.abs(tangent[0]))]
    circle = _circle(n)
    rings = np.empty((len(p), n, 3))
    for i, t in enumerate(tangent):  # carry the frame along, so that the tube does not twist
        normal = normal - t * (t @ normal)
        normal /= np.sqrt(normal @ normal) + 1e-12
        side = np.array([t[1] * normal[2] - t[2] * normal[1], t[2] * normal[0] - t[0] * normal[2],
                         t[0] * normal[1] - t[1] * normal[0]])
        rings[i] = p[i] + radius[i] * (circle[:, :1] * normal + flat * circle[:, 1:] * side)
    return loft(rings)


def rod(start, end, radius: float, end_radius: float | None = None, n: int = 12) -> Shape:
    """A straight round bar between two points; `end_radius` tapers it."""
    return tube([start, end], [radius, radius if end_radius is None else max(end_radius, 1e-4)], n)


def beam(start, end, width: float, thickness: float | None = None) -> Shape:
    """A straight square bar between two points; `width` is horizontal where that is possible."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    t = end - start
    length = np.linalg.norm(t)
    t = t / length
    up = np.array([0.0, 0, 1]) if abs(t[2]) < 0.95 else np.array([0.0, 1, 0])
    x = np.cross(t, up)
    x /= np.linalg.norm(x)
    y = np.cross(t, x)
    v = box(width, thickness or width, length).vertices @ np.stack([x, y, t]) + (start + end) / 2
    return Shape(v, _BOX_FACES)


def _area(p: np.ndarray) -> float:
    q = np.roll(p, -1, 0)
    return float((p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]).sum() / 2)


def _ears(p: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangles of a simple counter-clockwise polygon by ear clipping."""
    def cross(o, a, b):
        return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])

    pts, left, faces = [tuple(q) for q in p], list(range(len(p))), []
    while len(left) > 3:
        for i in range(len(left)):
            a, b, c = left[i - 1], left[i], left[(i + 1) % len(left)]
            A, B, C = pts[a], pts[b], pts[c]
            if cross(A, B, C) <= 1e-12:
                continue
            if any(cross(A, B, pts[k]) >= 0 and cross(B, C, pts[k]) >= 0 and cross(C, A, pts[k]) >= 0
                   for k in left if k not in (a, b, c)):
                continue
            break
        else:
            i, a, b, c = 0, left[-1], left[0], left[1]
        faces.append((a, b, c))
        left.pop(i)
    return [*faces, tuple(left)]


def extrude(polygon, depth: float, axis: str = "y") -> Shape:
    """A simple polygon [N, 2] (either direction, may be concave) given thickness `depth`, centred on `axis`.

    axis "x": polygon in (y, z), the side view of a vehicle; "y": in (x, z), a front view; "z": in (x, y).
    """
    p = np.asarray(polygon, dtype=np.float64)
    if _area(p) < 0:
        p = p[::-1]
    n = len(p)
    cap = np.array(_ears(p), dtype=np.int64)
    j, k = np.arange(n), (np.arange(n) + 1) % n
    sides = [np.stack([j, k, k + n], 1), np.stack([j, k + n, j + n], 1)]
    faces = np.concatenate([cap[:, ::-1], cap + n, *sides])
    low, high = (np.concatenate([p, np.full((n, 1), s * depth / 2)], 1) for s in (-1, 1))
    v = np.concatenate([low, high])
    if axis == "x":
        return Shape(v[:, [2, 0, 1]], faces)
    if axis == "y":  # (x, z, depth) -> (x, depth, z) swaps the handedness
        return Shape(v[:, [0, 2, 1]], faces[:, ::-1])
    return Shape(v, faces)


def prism(sides: int, radius: float, height: float) -> Shape:
    """A regular prism along z (6: hexagonal nut)."""
    return cylinder(radius, height, sides)


def wedge(x: float, y: float, z: float) -> Shape:
    """A ramp: full height z at the back (+y), zero at the front (-y); bounding box x, y, z."""
    return extrude([(-y / 2, -z / 2), (y / 2, -z / 2), (y / 2, z / 2)], x, axis="x")


def roof(x: float, y: float, z: float, overhang: float = 0.0) -> Shape:
    """A gable roof standing on z=0 with its ridge along y; bounding box x, y, z."""
    return extrude([(-x / 2 - overhang, 0), (x / 2 + overhang, 0), (0, z)], y + 2 * overhang, axis="y")


def arch(width: float, height: float, depth: float, thickness: float, n: int = 10) -> Shape:
    """A round-topped gate standing on z=0 in the xz plane: outer width and height, depth along y."""
    def outline(half: float, top: float) -> np.ndarray:
        t = np.linspace(0, np.pi, n)
        arc = np.stack([half * np.cos(t), top - half + half * np.sin(t)], 1)
        return np.concatenate([[[half, 0]], arc, [[-half, 0]]])

    outer, inner = outline(width / 2, height), outline(width / 2 - thickness, height - thickness)
    return strip(outer, inner, depth, axis="y")


def strip(outer, inner, depth: float, axis: str = "y") -> Shape:
    """The solid between two open polylines [N, 2] of equal length (both counter-clockwise), `depth` thick."""
    o, i = np.asarray(outer, float), np.asarray(inner, float)
    sections = np.stack([o, o, i, i])  # [4, N, 2]
    d = np.array([-depth / 2, depth / 2, depth / 2, -depth / 2])[:, None, None]
    v = np.concatenate([sections, np.broadcast_to(d, (4, len(o), 1))], 2).transpose(1, 0, 2)
    if axis == "x":
        v = v[..., [2, 0, 1]]
    elif axis == "y":
        v = v[..., [0, 2, 1]]
    return outward(loft(v))


def outward(shape: Shape) -> Shape:
    """The same surface with its faces turned outward (decided by the sign of the enclosed volume)."""
    return shape if volume(shape) >= 0 else Shape(shape.vertices, shape.faces[:, ::-1])


def volume(shape: Shape) -> float:
    """Enclosed volume, negative where faces point inward."""
    a, b, c = (shape.vertices[shape.faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)
