"""Procedural categories: nature, tools, containers, characters, animals, food, sweets, music and games."""

import zlib

import numpy as np
import pytest

from train.data.procedural.builder import Builder
from train.data.procedural.categories import (
    animals,
    characters,
    containers,
    food,
    games,
    music,
    nature,
    sweets,
    tools,
)
from train.data.procedural.category import SIZE_WORDS, STYLE_WORDS, Category, Options
from train.data.procedural.look import COLORS, FINISHES, FIXED
from train.data.procedural.shapes import Shape, volume

MODULES = (nature, tools, containers, characters, animals, food, sweets, music, games)
OURS: dict[str, Category] = {name: c for m in MODULES for name, c in m.CATEGORIES.items()}
NAMED = (
    "tree", "pine", "palm", "cactus", "mushroom", "potted flower", "hammer", "axe", "sword", "shield", "crate",
    "barrel", "treasure chest", "suitcase", "backpack", "robot", "robot dog", "snowman", "teddy bear", "duck",
    "fish", "penguin", "guitar", "drum", "chess queen", "top hat", "apple", "banana", "carrot", "ice cream",
    "burger", "cake", "donut",
)
PAINTS = {"primary", "secondary", "accent", *FIXED, *COLORS}


def _build(name: str, seed: int, **options) -> Builder:
    b = Builder()
    OURS[name].build(b, np.random.default_rng([seed, zlib.crc32(name.encode())]), Options(**options))
    return b


def _kinds(c: Category) -> list[str]:
    return list(c.kinds) or [""]


def _points(b: Builder) -> np.ndarray:
    """Points on the surface in the unit cube: corners and centres of all faces."""
    v = np.concatenate([v for v, _, _ in b.parts])
    low, high = v.min(0), v.max(0)
    centres = np.concatenate([v[f].mean(1) for v, f, _ in b.parts])
    return (np.concatenate([v, centres]) - (low + high) / 2) / (high - low).max()


def _occupancy(b: Builder) -> np.ndarray:
    """A coarse 10^3 picture of where the surface is."""
    grid = np.zeros((10, 10, 10))
    np.add.at(grid, tuple(np.clip(((_points(b) + 0.5) * 10).astype(int), 0, 9).T), 1)
    return np.sqrt(grid.ravel() / grid.sum())


def test_every_category_that_is_asked_for_is_there():
    assert set(NAMED) <= set(OURS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_builds_for_many_seeds(name):
    c = OURS[name]
    for seed in range(12):
        r = np.random.default_rng(seed)
        size = dict(SIZE_WORDS[str(r.choice(c.sizes))]) if seed % 2 else {}
        parts = frozenset(p for p in c.parts if r.random() < 0.5)
        b = _build(name, seed, kind=_kinds(c)[seed % len(_kinds(c))], parts=parts, **size)
        v = np.concatenate([v for v, _, _ in b.parts])
        extent = v.max(0) - v.min(0)
        assert np.isfinite(v).all()
        assert 0.3 < extent.max() < 4.0 and extent.min() > 0.06 * extent.max()
        assert sum(len(f) for _, f, _ in b.parts) < 16000
        assert {p for _, _, p in b.parts} <= PAINTS
        assert any(p == "primary" for _, _, p in b.parts)
        if not c.second:
            assert all(p != "secondary" for _, _, p in b.parts), f"{name} paints 'secondary' but names no second"


@pytest.mark.parametrize("name", sorted(OURS))
def test_parts_are_closed_and_face_outward(name):
    c = OURS[name]
    for seed, kind in enumerate(_kinds(c)):
        for v, f, _ in _build(name, seed, kind=kind, parts=frozenset(c.parts)).parts:
            assert volume(Shape(v, f)) > 0
            edges = np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
            assert {tuple(e) for e in edges.tolist()} == {(y, x) for x, y in edges.tolist()}


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_optional_part_shows_on_every_kind(name):
    c = OURS[name]
    for kind in _kinds(c):
        plain = _build(name, 3, kind=kind)
        for part in c.parts:
            more = _build(name, 3, kind=kind, parts=frozenset([part]))
            same = len(plain.parts) == len(more.parts) and all(
                a[2] == b[2] and a[0].shape == b[0].shape and np.allclose(a[0], b[0])
                for a, b in zip(plain.parts, more.parts, strict=True))
            assert not same, f"{name} ({kind}): {part} changes nothing"


def test_declarations_use_known_words():
    for name, c in OURS.items():
        assert set(c.sizes) <= set(SIZE_WORDS), name
        assert set(c.styles) <= set(STYLE_WORDS), name
        assert set(c.colors) <= set(COLORS), name
        assert set(c.finishes) <= set(FINISHES), name


def test_same_seed_same_object_other_seed_other_object():
    for name in OURS:
        kind = _kinds(OURS[name])[0]
        first, again, other = (_build(name, s, kind=kind) for s in (1, 1, 2))
        a, b = (np.concatenate([v for v, _, _ in x.parts]) for x in (first, again))
        c = np.concatenate([v for v, _, _ in other.parts])
        assert np.array_equal(a, b)
        assert a.shape != c.shape or not np.allclose(a, c), name


def test_categories_differ_from_each_other():
    grids = {}
    for name, c in OURS.items():
        kinds = _kinds(c)
        grids[name] = np.mean([_occupancy(_build(name, s, kind=kinds[s % len(kinds)])) for s in range(6)], axis=0)
    names = list(grids)
    g = np.stack([grids[n] / np.linalg.norm(grids[n]) for n in names])
    cos = g @ g.T - 2 * np.eye(len(g))
    i, j = np.unravel_index(cos.argmax(), cos.shape)
    assert cos[i, j] < 0.97, f"{names[i]} and {names[j]} look alike: {cos[i, j]:.3f}"
