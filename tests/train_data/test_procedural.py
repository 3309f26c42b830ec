"""Procedural assets: what a (seed, index) gives, what captions and edits say, what is held out."""

import csv
import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from gap3d_app.errors import InputError
from train.data.procedural.captions import captions, names_of
from train.data.procedural.categories import CATEGORIES
from train.data.procedural.category import SIZE_WORDS, STYLE_WORDS
from train.data.procedural.coverage import visible_shares
from train.data.procedural.dataset import write_dataset
from train.data.procedural.edits import differing, reversed_edit, sample_edit, told_edits
from train.data.procedural.glb_file import glb_bytes
from train.data.procedural.look import COLORS, FINISHES
from train.data.procedural.patterns import PATTERNS, subdivide
from train.data.procedural.shapes import (
    arch,
    beam,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    extrude,
    frustum,
    hemisphere,
    lathe,
    pyramid,
    rod,
    roof,
    rounded_box,
    sphere,
    strip,
    torus,
    tube,
    volume,
    wedge,
)
from train.data.procedural.spec import (
    MAX_FACES,
    SIDE,
    AssetSpec,
    assemble,
    build,
    draw_spec,
    has_effect,
    sample_spec,
    secondary_noun,
)
from train.data.procedural.split import held_out_pair, is_held_out

CONCAVE = [(0, 0), (1, 0), (1, 1), (0.5, 0.4), (0, 1)]
SHAPES = {
    "box": (box(1, 2, 3), 6.0), "beam": (beam((0, 0, 0), (2, 0, 0), 0.5, 0.2), 0.2), "wedge": (wedge(1, 2, 1), 1.0),
    "cylinder": (cylinder(1, 2, 64), 2 * np.pi), "sphere": (sphere(1, 64), 4 / 3 * np.pi),
    "cone": (cone(1, 3, 64), np.pi), "frustum": (frustum(1, 1, 1, 64), np.pi), "pyramid": (pyramid(1, 2, 3), 2.0),
    "ellipsoid": (ellipsoid(1, 2, 3, 64), 8 * np.pi), "hemisphere": (hemisphere(1, 64), 2 / 3 * np.pi),
    "capsule": (capsule(1, 4, 64), 2 * np.pi + 4 / 3 * np.pi), "roof": (roof(1, 2, 1), 1.0),
    "torus": (torus(2, 0.5, n=96, m=48), 2 * np.pi**2 * 2 * 0.25), "rounded": (rounded_box(1, 1, 1, 0.02), 1.0),
    "extrude x": (extrude(CONCAVE, 2, "x"), 1.4), "extrude y": (extrude(CONCAVE[::-1], 2, "y"), 1.4),
    "extrude z": (extrude(CONCAVE, 2, "z"), 1.4), "tube": (tube([(0, 0, 0), (0, 0, 1), (0, 0, 3)], 1, 64), 3 * np.pi),
    "rod": (rod((0, 0, 0), (0, 3, 0), 1, n=64), 3 * np.pi), "arc": (torus(2, 0.5, 180, 96, 48), np.pi**2 * 2 * 0.25),
    "lathe": (lathe([(1, 0), (1, 2), (0.5, 2), (0.5, 1)], 64), np.pi * (2 - 0.25)),
    "arch": (arch(2, 3, 1, 0.5, 48), 2 * 2 * 0.5 + np.pi / 2 * (1 - 0.25)),
    "strip": (strip([(1, 0), (1, 2)], [(0, 0), (0, 2)], 0.5), 1.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_closed_and_have_the_right_volume(name):
    shape, expected = SHAPES[name]
    v, f = shape
    edges = np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
    assert len({tuple(e) for e in edges}) == len(edges)
    assert {tuple(e) for e in edges} == {tuple(e[::-1]) for e in edges}
    assert volume(shape) == pytest.approx(expected, rel=0.012)


def test_subdivision_keeps_a_closed_surface_and_its_volume():
    v, f = subdivide(*torus(0.3, 0.1), 0.03, 50000)
    edges = np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])
    assert {tuple(e) for e in edges} == {tuple(e[::-1]) for e in edges}
    assert np.linalg.norm(v[edges[:, 0]] - v[edges[:, 1]], axis=1).max() <= 0.03
    assert volume(type(torus(1, 0.5))(v, f)) == pytest.approx(volume(torus(0.3, 0.1)), rel=1e-9)


def test_same_seed_same_asset_other_index_other_asset():
    for i in range(6):
        a, b = build(sample_spec(4, i)), build(sample_spec(4, i))
        assert a.vertices.equal(b.vertices) and a.faces.equal(b.faces) and a.colors.equal(b.colors)
        assert captions(sample_spec(4, i)) == captions(sample_spec(4, i))
    assert len({sample_spec(4, i) for i in range(50)}) == 50
    assert sample_edit(4, 9) == sample_edit(4, 9)


def test_there_are_enough_categories_colors_and_finishes():
    assert len(CATEGORIES) >= 64 and len(COLORS) >= 24 and len(FINISHES) >= 12
    assert set(PATTERNS) | {"painted"} == set(FINISHES)
    for name, c in CATEGORIES.items():
        assert set(c.sizes) <= set(SIZE_WORDS) and set(c.styles) <= set(STYLE_WORDS), name
        assert set(c.colors) <= set(COLORS) and set(c.finishes) <= set(FINISHES), name
        usable = [col for col in COLORS if not held_out_pair(name, col)]
        assert len(usable) >= 16, f"{name} has too few training colours"


def test_color_families_are_apart():
    for a, x in COLORS.items():
        for b, y in COLORS.items():
            if a < b:
                assert np.abs(np.subtract(x.rgb, y.rgb)).max() > 0.1, (a, b)


@pytest.mark.parametrize("name", sorted(CATEGORIES))
def test_category_builds_in_the_unit_cube(name):
    c = CATEGORIES[name]
    for k, kind in enumerate(c.kinds or [""]):
        spec = replace(draw_spec(np.random.default_rng(k), name), kind=kind)
        a = assemble(spec)
        assert np.isfinite(a.vertices).all() and a.colors.min() >= 0 and a.colors.max() <= 1
        assert 40 <= len(a.faces) <= MAX_FACES and a.faces.max() < len(a.vertices)
        extent = np.ptp(a.vertices, axis=0)
        assert extent.max() == pytest.approx(SIDE, abs=1e-6)
        assert np.abs(a.vertices.max(0) + a.vertices.min(0)).max() < 1e-6
        assert len(a.paint) == len(a.faces) and len(a.colors) == len(a.vertices)


@pytest.mark.parametrize("name", sorted(CATEGORIES))
def test_main_color_is_most_of_what_is_seen(name):
    shares = []
    for seed in range(6):
        spec = draw_spec(np.random.default_rng([3, seed]), name)
        parts = tuple(p for p in spec.parts if has_effect(name, spec.kind, p))
        seen = visible_shares(assemble(replace(spec, finish="painted", parts=parts)), points=6000)
        assert seen["primary"] == max(seen.values()), f"{name} {spec}: {seen}"
        shares.append(seen["primary"])
    assert np.mean(shares) > 0.5, f"{name}: {np.round(shares, 2)}"


@pytest.mark.parametrize("finish", sorted(FINISHES))
def test_finish_keeps_the_main_color(finish):
    for seed in range(4):
        spec = AssetSpec("sofa", "red", "blue", finish, seed=seed)
        a = assemble(spec)
        c = a.colors[a.faces[a.paint == a.paints.index("primary")]].mean(1)
        assert (c[:, 0] > c[:, 2] + 0.05).mean() > 0.55, finish
        assert (np.ptp(c, axis=0).max() > 0.1) or finish == "painted", f"{finish} shows no pattern"


@pytest.mark.parametrize("name", sorted(CATEGORIES))
def test_size_and_style_words_change_the_shape(name):
    c = CATEGORIES[name]
    spec = replace(draw_spec(np.random.default_rng(5), name), size="", style="", finish="painted")
    plain = assemble(spec)
    for change in [{"size": s} for s in c.sizes] + [{"style": s} for s in c.styles]:
        other = assemble(replace(spec, **change))
        same = other.vertices.shape == plain.vertices.shape and np.abs(other.vertices - plain.vertices).max() < 0.01
        assert not same or other.paints != plain.paints, f"{name} does not change with {change}"


def test_captions_name_the_object_and_mostly_the_color():
    colored = total = 0
    for i in range(250):
        spec = sample_spec(8, i)
        texts = captions(spec)
        assert len(texts) >= 4 and len(set(texts)) == len(texts)
        assert [len(t) for t in texts] == sorted((len(t) for t in texts), reverse=True)
        words = [spec.color, *COLORS[spec.color].synonyms]
        for text in texts:
            assert any(n.lower() in text.lower() for n in names_of(spec.category)), (text, spec.category)
            assert not re.search(r"\{|\}|  | ,|\ba a\b|\ban an\b", text), text
            colored += any(w in text.lower() for w in words)
            total += 1
        assert len(texts[0].split()) > len(texts[-1].split())
    assert colored / total > 0.93


def test_names_of_categories_do_not_clash():
    owner: dict[str, str] = {}
    for category in CATEGORIES:
        for name in set(names_of(category)):
            assert owner.setdefault(name.lower(), category) == category, f"{name}: {owner[name.lower()]}, {category}"


def test_captions_name_only_parts_that_are_there():
    for i in range(200):
        spec = sample_spec(9, i)
        assert all(has_effect(spec.category, spec.kind, p) for p in spec.parts)
        if secondary_noun(spec):
            assert "secondary" in assemble(replace(spec, finish="painted")).paints


def test_edits_differ_in_one_attribute_and_share_the_rest():
    seen = set()
    for i in range(200):
        source, target, text, change = sample_edit(2, i)
        fields = differing(source, target)
        field = {"part": "parts"}.get(change["attribute"], change["attribute"])
        assert fields == [field] and text.strip()
        seen.add(change["attribute"])
        if change["attribute"] == "color":
            assert any(w in text.lower() for w in (target.color, *COLORS[target.color].synonyms))
    assert seen == {"color", "secondary", "finish", "size", "style", "part"}


def test_an_edit_can_be_undone_in_words():
    draws, seen = np.random.default_rng(0), set()
    for i in range(200):
        source, target, _, change = sample_edit(2, i)
        back = reversed_edit(source, target, change, draws)
        assert (back is None) == (change["attribute"] in ("size", "style"))
        if back:
            text, undone = back
            assert (undone["from"], undone["to"]) == (change["to"], change["from"])
            seen.add(change["attribute"])
        if change["attribute"] == "color":
            assert any(w in text.lower() for w in (source.color, *COLORS[source.color].synonyms))
        if change["attribute"] == "part":
            removes = re.search("remove|without|take away|^(please )?no ", text.lower())
            assert bool(removes) == bool(undone["from"])
    assert seen == {"color", "secondary", "finish", "part"}


def test_told_edits_start_from_the_given_asset():
    kinds = set()
    for i in range(60):
        spec = sample_spec(9, i)
        edits = told_edits(spec, 3, np.random.default_rng(i))
        assert len(edits) == 3
        for text, target in edits:
            (field,) = differing(spec, target)
            assert text.strip() and not is_held_out(target)
            assert field not in ("size", "style") or not getattr(spec, field)
            kinds.add(field)
    assert kinds == {"color", "secondary", "finish", "size", "style", "parts"}


def test_color_edit_keeps_the_shape():
    for i in range(60):
        source, target, _, change = sample_edit(6, i)
        if change["attribute"] in ("color", "secondary"):
            a, b = assemble(source), assemble(target)
            assert np.array_equal(a.vertices, b.vertices) and np.abs(a.colors - b.colors).max() > 0.05


def test_held_out_pairs_are_never_in_training():
    rate = np.mean([held_out_pair(c, k) for c in CATEGORIES for k in COLORS])
    assert 0.07 < rate < 0.13
    for i in range(300):
        assert not is_held_out(sample_spec(1, i)) and is_held_out(sample_spec(1, i, "test"))
    for i in range(100):
        source, target, *_ = sample_edit(1, i)
        assert not is_held_out(source) and not is_held_out(target)
        assert is_held_out(sample_edit(1, i, "test")[1])
    with pytest.raises(ValueError, match="split"):
        sample_spec(0, 0, "valid")


def test_spec_survives_json():
    for i in range(20):
        spec = sample_spec(5, i)
        assert AssetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_building_is_fast():
    specs = [sample_spec(12, i) for i in range(60)]
    for s in specs[:10]:
        assemble(s)
    start = time.process_time()
    for s in specs:
        assemble(s)
    per_asset = (time.process_time() - start) / len(specs)
    assert per_asset < 0.040, f"{per_asset * 1000:.1f} ms an asset"  # about 10 ms on an idle core


def test_glb_reads_back_with_its_colors(tmp_path):
    from train.data.glb_reader import load_glb

    a = assemble(sample_spec(3, 2))
    path = tmp_path / "a.glb"
    path.write_bytes(glb_bytes(a.vertices, a.faces, a.colors))
    mesh = load_glb(path)
    assert len(mesh.faces) == len(a.faces)
    assert np.abs(mesh.colors.numpy() - a.colors[a.faces.reshape(-1)]).max() < 0.02
    extent = np.ptp(mesh.vertices.numpy(), axis=0)
    assert np.allclose(extent / extent.max(), np.ptp(a.vertices, axis=0) / SIDE, atol=1e-3)


def test_dataset_resumes_and_refuses_another_seed(tmp_path):
    write_dataset(tmp_path, 3, seed=1, progress=False)
    first = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "raw").iterdir()}
    with (tmp_path / "records.jsonl").open("a") as log:
        log.write('{"index": 3, "ro')  # a run killed while writing
    rows = write_dataset(tmp_path, 5, seed=1, progress=False)
    assert len(rows) == 5 and len(list((tmp_path / "raw").iterdir())) == 5
    assert all((tmp_path / "raw" / n).stat().st_mtime_ns == t for n, t in first.items())
    table = list(csv.DictReader((tmp_path / "metadata.csv").open()))
    assert [r["sha256"] for r in table] == [r["sha256"] for r in rows]
    assert list(table[0])[:5] == ["sha256", "file_identifier", "aesthetic_score", "captions", "local_path"]
    assert json.loads(table[0]["captions"])
    with pytest.raises(InputError, match="seed"):
        write_dataset(tmp_path, 5, seed=2, progress=False)
    with pytest.raises(InputError, match="count"):
        write_dataset(tmp_path, 0, progress=False)


def test_command_line_writes_files_and_a_sheet(tmp_path):
    command = [sys.executable, "-m", "train.data.procedural", "--count", "2", "--out", str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d" / "contact_sheet.png").stat().st_size > 1000
    assert len(list((tmp_path / "d" / "raw").glob("*.glb"))) == 2
