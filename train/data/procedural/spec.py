"""From (seed, index) to a description of an asset, and from the description to a coloured mesh.

`sample_spec` draws an `AssetSpec`; `build` makes its mesh. Both are functions of their arguments only.
"""

import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from train.data.procedural.builder import Builder, rotation
from train.data.procedural.categories import CATEGORIES
from train.data.procedural.category import SIZE_WORDS, Category, Options
from train.data.procedural.look import FINISHES, draw_color, palette
from train.data.procedural.patterns import PATTERNS, noise, subdivide, vertex_normals
from train.data.procedural.split import is_held_out

MAX_FACES = 20000
SIDE = 0.96
"""Longest side of a finished asset in the unit cube."""


@dataclass(frozen=True)
class AssetSpec:
    """Everything that determines one asset. size, style and kind may be ""; parts is sorted."""

    category: str
    color: str
    secondary: str
    finish: str = "painted"
    size: str = ""
    style: str = ""
    kind: str = ""
    parts: tuple[str, ...] = ()
    seed: int = 0

    def options(self) -> Options:
        """The options that the category function sees."""
        style = {"rustic": {"thick": 1.2}, "futuristic": {"thick": 0.9}}.get(self.style, {})
        values = dict(SIZE_WORDS.get(self.size, {}))
        values["thick"] = values.get("thick", 1.0) * style.get("thick", 1.0)
        return Options(**values, kind=self.kind, style=self.style, parts=frozenset(self.parts))

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self) | {"parts": list(self.parts)}

    @staticmethod
    def from_dict(values: dict) -> "AssetSpec":
        """The inverse of `to_dict`."""
        return AssetSpec(**(values | {"parts": tuple(values["parts"])}))


class Assembly(NamedTuple):
    """A finished asset: vertices [V, 3], faces [F, 3], colors [V, 3] sRGB, paint [F] index into paints."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    paint: np.ndarray
    paints: list[str]


def _bare(category: str, o: Options, seed: int = 5) -> Builder:
    b = Builder()
    CATEGORIES[category].build(b, np.random.default_rng([seed, zlib.crc32(category.encode())]), o)
    return b


@lru_cache(maxsize=8192)
def has_effect(category: str, kind: str, part: str) -> bool:
    """Whether an optional part changes the shape of this kind (some kinds have no place for it)."""
    with_part, without = (_bare(category, Options(kind=kind, parts=frozenset(p))) for p in ((part,), ()))
    return len(with_part.parts) != len(without.parts) or any(
        p[2] != q[2] or p[0].shape != q[0].shape or not np.allclose(p[0], q[0])
        for p, q in zip(with_part.parts, without.parts, strict=True))


@lru_cache(maxsize=8192)
def _has_secondary(category: str, kind: str, style: str, parts: tuple[str, ...]) -> bool:
    b = _bare(category, Options(kind=kind, style=style, parts=frozenset(parts)))
    return any(paint == "secondary" for _, _, paint in b.parts)


def secondary_noun(spec: AssetSpec) -> str:
    """What the secondary paint covers on this asset ("legs"); "" if it is not to be seen."""
    second = CATEGORIES[spec.category].second
    noun = second if isinstance(second, str) else second.get(spec.kind, "")
    return noun if noun and _has_secondary(spec.category, spec.kind, spec.style, spec.parts) else ""


def _choice(r: np.random.Generator, weights: dict[str, float]) -> str:
    p = np.array(list(weights.values()), dtype=np.float64)
    return list(weights)[int(r.choice(len(p), p=p / p.sum()))]


def draw_spec(r: np.random.Generator, category: str | None = None) -> AssetSpec:
    """One spec of a random (or the given) category, without regard to the split."""
    category = category or _choice(r, {k: c.weight for k, c in CATEGORIES.items()})
    c: Category = CATEGORIES[category]
    natural = bool(c.colors) and r.random() < 0.5
    color = draw_color(r, dict(c.colors) if natural else None)
    secondary = draw_color(r, avoid=color)
    general = r.random() < 0.35 or not c.finishes
    finish = _choice(r, {k: f.weight for k, f in FINISHES.items()} if general else dict(c.finishes))
    size = str(r.choice(c.sizes)) if c.sizes and r.random() < 0.35 else ""
    style = str(r.choice(c.styles)) if c.styles and r.random() < 0.22 else ""
    kind = str(r.choice(list(c.kinds))) if c.kinds else ""
    wanted = [p for p in c.parts if r.random() < 0.4]
    parts = tuple(sorted(p for p in wanted if has_effect(category, kind, p)))
    return AssetSpec(category, color, secondary, finish, size, style, kind, parts, int(r.integers(2**31)))


def sample_spec(seed: int, index: int, split: str = "train", category: str | None = None) -> AssetSpec:
    """The asset number `index` of a data set; split "train" never has a held-out pair, "test" only those.

    Raises ValueError for another split, or when a fixed category has no pair in it.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it may be 'train' or 'test'")
    r = np.random.default_rng([seed, index, 11 if split == "train" else 12])
    for _ in range(2000):
        spec = draw_spec(r, category)
        if is_held_out(spec) == (split == "test"):
            return spec
    raise ValueError(f"category {category!r} has no pair in split {split!r}")


def _deform(v: np.ndarray, style: str, seed: int) -> np.ndarray:
    """The style words that bend the whole object; v is in the unit cube."""
    r = np.random.default_rng([seed, 71])
    low, high = v[:, 2].min(), v[:, 2].max()
    t = (v[:, 2] - low) / (high - low + 1e-9)
    if style == "rustic":
        k = r.uniform(4, 6)
        return v + 0.016 * np.stack([noise(v, r, k / 2, 4) for _ in range(3)], 1)
    if style == "cartoon":
        grow = 0.88 + 0.34 * np.sin(np.pi * np.clip(0.12 + 0.76 * t, 0, 1)) ** 2 + 0.16 * (t - 0.5)
        return v * np.stack([grow, grow, np.ones_like(grow)], 1)
    if style == "crooked":
        side = 1 if r.random() < 0.5 else -1
        bend = np.sin(t * np.pi * 1.2 + 0.4) * 0.10 + 0.22 * t
        w = v.copy()
        w[:, 0] += side * bend
        return w @ rotation(y=3.0 * side).T
    return v


def assemble(spec: AssetSpec) -> Assembly:
    """Build, scale into the unit cube, deform, subdivide what is patterned, and colour."""
    category, o = CATEGORIES[spec.category], spec.options()
    b = Builder()
    category.build(b, np.random.default_rng([spec.seed, zlib.crc32(spec.category.encode())]), o)
    paints = sorted({p for _, _, p in b.parts})
    order = sorted(range(len(b.parts)), key=lambda i: b.parts[i][2] != "primary")  # primary parts first
    parts = [b.parts[i] for i in order]
    offsets = np.cumsum([0] + [len(p[0]) for p in parts])
    v = np.concatenate([p[0] for p in parts])
    f = np.concatenate([p[1] + k for p, k in zip(parts, offsets[:-1], strict=True)])
    which = [paints.index(p[2]) for p in parts]
    paint = np.repeat(which, [len(p[1]) for p in parts])
    vertex_paint = np.repeat(which, [len(p[0]) for p in parts])
    if category.stretch:
        v = v * (o.width, o.length, o.height)
    v = _fit(_deform(_fit(v), spec.style, spec.seed)) if spec.style else _fit(v)

    table = palette(spec.color, spec.secondary, spec.seed, paints)
    colors = np.stack([table[p] for p in paints])[vertex_paint]
    pattern, edge = PATTERNS.get(spec.finish, (None, None))
    if pattern and "primary" in paints:
        index = paints.index("primary")
        faces = int((paint == index).sum())
        rest_v, rest_f, rest_p = v[vertex_paint != index], f[faces:], paint[faces:]
        rest_c, before = colors[vertex_paint != index], int((vertex_paint == index).sum())
        edge = max(edge, np.sqrt(_surface(v, f[:faces]) / 1900))  # about 10k faces at most
        sv, sf = subdivide(v[:before], f[:faces], edge, MAX_FACES - len(rest_f))
        painted = pattern(sv.astype(np.float32), vertex_normals(sv, sf), table["primary"], table["secondary"],
                          np.random.default_rng([spec.seed, 33]))
        v, colors = np.concatenate([sv, rest_v]), np.concatenate([painted, rest_c])
        f = np.concatenate([sf, rest_f + (len(sv) - before)])
        paint = np.concatenate([np.full(len(sf), index), rest_p])
    if spec.style == "rustic":
        dirt = np.clip(noise(v, np.random.default_rng([spec.seed, 34]), 4), 0, 1)
        colors = colors * (1 - 0.10 * dirt)[:, None]
    return Assembly(v, f, np.clip(colors, 0, 1), paint, paints)


def _surface(v: np.ndarray, f: np.ndarray) -> float:
    a, b, c = v[f[:, 0]], v[f[:, 1]], v[f[:, 2]]
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def _fit(v: np.ndarray) -> np.ndarray:
    low, high = v.min(0), v.max(0)
    return (v - (low + high) / 2) * (SIDE / (high - low).max())


def build(spec: AssetSpec):
    """The asset as `gap3d_app.values.Mesh` (Z-up, front -Y, in the unit cube, colours per vertex)."""
    import torch

    from gap3d_app.values import Mesh

    a = assemble(spec)
    return Mesh(torch.from_numpy(a.vertices.astype(np.float32)), torch.from_numpy(a.faces.astype(np.int64)),
                torch.from_numpy(a.colors.astype(np.float32)))
