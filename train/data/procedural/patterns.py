"""Finishes as patterns: functions of the position on the object that give a colour per vertex.

Positions are in the unit cube. Sharp patterns have features of about 1/15 of the object or larger and leave
the main colour on at least two thirds of the surface.
"""

from collections.abc import Callable

import numpy as np


def noise(p: np.ndarray, r: np.random.Generator, frequency: float, waves: int = 5) -> np.ndarray:
    """Smooth noise [N] of about -1..1: a sum of plane waves of random direction."""
    k = r.normal(size=(3, waves))
    k *= frequency * 2 * np.pi * r.uniform(0.6, 1.5, waves) / np.linalg.norm(k, axis=0)
    phase = r.uniform(0, 6.3, waves)
    return np.sin((p @ k.astype(p.dtype)) + phase.astype(p.dtype)).mean(1) * 2.0


def _axis(r: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """A direction for bands: mostly up or across, sometimes slanted; never one along which the object is thin."""
    choice = r.random()
    if choice < 0.45:
        d = np.array([0.0, 0.0, 1.0])
    elif choice < 0.7:
        d = np.array([1.0, 0.0, 0.0])
    elif choice < 0.85:
        d = np.array([0.0, 1.0, 0.0])
    else:
        d = np.array([0.6, 0.45, 0.66])
    return d if np.ptp(p @ d) > 0.5 else np.eye(3)[np.ptp(p, axis=0).argmax()]


def _step(x: np.ndarray, width: float = 0.012) -> np.ndarray:
    return np.clip(x / width + 0.5, 0, 1)


def _mix(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    return a * (1 - t[:, None]) + b * t[:, None]


def _flat(p: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two coordinates on the face of a cube that the surface looks at (box projection)."""
    axis = np.abs(n).argmax(1)
    rows = np.arange(len(p))
    return p[rows, np.array([1, 0, 0])[axis]], p[rows, np.array([2, 2, 1])[axis]]


def wood(p, n, base, second, r):
    d = _axis(r, p)
    rings = np.sin((p @ d) * 2 * np.pi * r.uniform(7, 10) + 2.2 * noise(p * (1, 1, 0.4), r, 1.5))
    dark = np.array([0.72, 0.66, 0.58]) * base
    return _mix(base, dark, 0.25 + 0.35 * rings + 0.12 * noise(p, r, 9))


def metal(p, n, base, second, r):
    streak = noise(p * (0.15, 0.15, 1.0), r, 16, 8)
    grey = base * 0.82 + 0.18 * base.mean()
    sheen = np.sin((p @ np.array([0.5, 0.4, 0.8])) * 2 * np.pi * 1.5 + r.uniform(0, 6))
    return np.clip(grey * (1 + 0.10 * streak + 0.13 * sheen)[:, None] + 0.05, 0, 1)


def stone(p, n, base, second, r):
    patch = noise(p, r, 5, 7) + 0.5 * noise(p, r, 12, 7)
    crack = np.exp(-((noise(p, r, 3.5, 4) / 0.10) ** 2))
    grey = base * 0.85 + 0.15 * base.mean()
    return np.clip(grey * (1 + 0.16 * patch - 0.35 * crack)[:, None], 0, 1)


def leather(p, n, base, second, r):
    cells = np.abs(noise(p, r, 9, 4)) + np.abs(noise(p, r, 13, 4))
    broad = noise(p, r, 2, 4)
    return np.clip(base * (0.80 + 0.20 * np.clip(cells, 0, 1.2) + 0.07 * broad)[:, None], 0, 1)


def glass(p, n, base, second, r):
    t = np.clip(0.30 + 0.35 * (p[:, 2] + 0.5), 0, 1)
    band = np.exp(-(((p @ np.array([0.7, 0.0, 0.7]) - r.uniform(-0.2, 0.2)) / 0.05) ** 2))
    light = base * 0.62 + 0.38
    return _mix(_mix(base, light, t), np.ones(3), 0.6 * band)


def plaid(p, n, base, second, r):
    u, v = _flat(p, n)
    period = r.uniform(0.19, 0.24)

    def bands(x):
        return _step(0.16 - np.abs(np.mod(x / period, 1) - 0.5), 0.06)

    a, b = bands(u), bands(v)
    return _mix(base, second, np.clip(0.5 * (a + b) + 0.25 * a * b, 0, 0.9))


def striped(p, n, base, second, r):
    d, period = _axis(r, p), r.uniform(0.17, 0.24)
    x = np.mod((p @ d) / period + r.random(), 1)
    return _mix(base, second, _step(0.165 - np.abs(x - 0.5), 0.06))


def dotted(p, n, base, second, r):
    u, v = _flat(p, n)
    period = r.uniform(0.15, 0.19)
    row = np.floor(v / period)
    du = np.mod(u / period + 0.5 * np.mod(row, 2), 1) - 0.5
    dv = np.mod(v / period, 1) - 0.5
    return _mix(base, second, _step(0.29 - np.hypot(du, dv), 0.10))


def two_tone(p, n, base, second, r):
    x = p @ _axis(r, p)
    low, high = np.quantile(x, 0.02), np.quantile(x, 0.98)
    cut = low + (high - low) * 0.32
    return _mix(base, second, _step(cut - x, 0.02))


def worn(p, n, base, second, r):
    patch = noise(p, r, 3, 6) + 0.6 * noise(p, r, 8, 6)
    faded = base * 0.55 + 0.45 * np.array([0.62, 0.58, 0.52])
    mixed = _mix(base, faded, _step(patch - 0.55, 0.25) * 0.85)
    return np.clip(mixed * (1 + 0.07 * noise(p, r, 5))[:, None], 0, 1)


def glossy(p, n, base, second, r):
    shine = np.clip(n @ np.array([0.35, -0.45, 0.82]), 0, 1) ** 6
    low = np.clip(-n[:, 2], 0, 1)
    return np.clip(_mix(base * (1 - 0.18 * low)[:, None], np.ones(3), 0.55 * shine), 0, 1)


# finish -> (pattern, longest edge that the pattern needs; None: colours vary no faster than the mesh)
PATTERNS: dict[str, tuple[Callable, float | None]] = {
    "wood": (wood, 0.040), "brushed metal": (metal, 0.055), "stone": (stone, 0.042), "leather": (leather, 0.042),
    "glass-like": (glass, 0.060), "plaid": (plaid, 0.030), "striped": (striped, 0.030),
    "dotted": (dotted, 0.030), "two-tone": (two_tone, 0.045), "worn": (worn, 0.042), "glossy": (glossy, 0.12),
}


def vertex_normals(v: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [V, 3]."""
    a, b, c = v[f[:, 0]], v[f[:, 1]], v[f[:, 2]]
    fn = np.cross(b - a, c - a)
    idx = f.ravel()
    n = np.stack([np.bincount(idx, np.repeat(fn[:, i], 3), len(v)) for i in range(3)], 1)
    return n / (np.linalg.norm(n, axis=1, keepdims=True) + 1e-12)


def subdivide(v: np.ndarray, f: np.ndarray, edge: float, max_faces: int):
    """Halve edges longer than `edge` until none is left or the next pass would exceed `max_faces`.

    Neighbours split the edge they share, so closed surfaces stay closed. Returns (vertices, faces).
    """
    for _ in range(7):
        nxt = f[:, [1, 2, 0]]
        d = v[f] - v[nxt]
        long = np.einsum("fij,fij->fi", d, d) > edge * edge
        count = long.sum(1)
        total = int(count.sum())
        if total == 0 or len(f) + total > max_faces:
            break
        lo, hi = np.minimum(f, nxt)[long], np.maximum(f, nxt)[long]
        keys, inverse = np.unique(lo * np.int64(len(v)) + hi, return_inverse=True)
        middle = np.full(f.shape, -1)
        middle[long] = len(v) + inverse
        v = np.concatenate([v, 0.5 * (v[keys // len(v)] + v[keys % len(v)])])
        # turn each face so that its split edges come first: (e0), (e0, e1) or all three
        shift = np.where(count == 1, long.argmax(1), np.where(count == 2, (np.argmin(long, 1) + 1) % 3, 0))
        cols = (shift[:, None] + np.arange(3)) % 3
        f, m = np.take_along_axis(f, cols, 1), np.take_along_axis(middle, cols, 1)
        c1, c2, c3 = count == 1, count == 2, count == 3
        a, b, c, ab, bc, ca = f[:, 0], f[:, 1], f[:, 2], m[:, 0], m[:, 1], m[:, 2]

        def pick(mask, *corners):
            return np.stack([x[mask] for x in corners], 1)

        f_new = [f[count == 0], pick(c1, a, ab, c), pick(c1, ab, b, c),
                 pick(c2, ab, b, bc), pick(c2, a, ab, bc), pick(c2, a, bc, c),
                 pick(c3, a, ab, ca), pick(c3, ab, b, bc), pick(c3, ca, bc, c), pick(c3, ab, bc, ca)]
        f = np.concatenate(f_new)
    return v, f
