"""The GLB: axes, ground, texture, recipe, validity, repeatability and failures."""

import os

import numpy as np
import pytest
import torch
import trimesh

from gap3d_app import output
from gap3d_app.errors import GenerationError, InputError, OutputError
from gap3d_app.geometry.facts import glb_facts
from gap3d_app.geometry.glb import export_glb, read_recipe
from gap3d_app.values import Mesh
from tests.geometry.shapes import box, solid_mesh, sphere
from tests.gltf import assert_clean, validate_glbs


def marked(p):
    """A body with a nose towards the front (-Y) and a fin on top (+Z), a little to the right (+X)."""
    body = box((0.15, 0.2, 0.1))(p)
    nose = box((0.04, 0.12, 0.04))(p - torch.tensor([0.0, -0.3, 0.0]))
    fin = box((0.03, 0.05, 0.12))(p - torch.tensor([0.1, 0.1, 0.2]))
    return torch.minimum(torch.minimum(body, nose), fin)


def marked_color(p):
    """Red nose, green fin, grey body."""
    red, green, grey = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.8, 0.1]), torch.tensor([0.5, 0.5, 0.5])
    rgb = torch.where((p[..., 1:2] < -0.22), red, grey)
    return torch.where(p[..., 2:] > 0.13, green, rgb)


@pytest.fixture(scope="module")
def asset():
    return solid_mesh(marked, 48, color=marked_color)


def load(path):
    scene = trimesh.load(path)
    (shape,) = scene.geometry.values()
    return shape


def color_at(shape, point):
    """Texture colour at the surface point nearest to `point`."""
    distance = np.linalg.norm(shape.triangles_center - point, axis=1)
    uv = shape.visual.uv[shape.faces[distance.argmin()]].mean(0)
    picture = np.asarray(shape.visual.material.baseColorTexture.convert("RGB"))
    size = len(picture)
    # trimesh flips V on reading
    x, y = uv[0] * size, (1 - uv[1]) * size
    return picture[min(int(y), size - 1), min(int(x), size - 1)] / 255


def test_nose_is_on_plus_z_and_top_on_plus_y(asset, tmp_path):
    path = tmp_path / "marked.glb"
    facts = export_glb(asset, path, target_faces=1500, texture_size=512, height_m=2.0)
    shape = load(path)
    low, high = shape.bounds
    assert low[1] == pytest.approx(0, abs=1e-6) and high[1] == pytest.approx(2.0, abs=1e-5)
    assert (low + high)[[0, 2]] == pytest.approx([0, 0], abs=1e-5)
    assert facts.size_m[1] == pytest.approx(2.0, abs=1e-5) and facts.watertight
    v = shape.vertices
    tip, top = v[v[:, 2] > high[2] - 0.1], v[v[:, 1] > high[1] - 0.1]
    unit = 2.0 / 0.42
    assert np.abs(tip[:, 0]).max() < 0.06 * unit  # the nose is narrow and in the middle
    assert top[:, 0].mean() == pytest.approx(0.1 * unit, abs=0.03)  # the fin is at +X, not mirrored
    assert top[:, 2].mean() < tip[:, 2].mean()
    assert color_at(shape, np.array([0, 0.1 * unit, high[2]])) == pytest.approx([0.9, 0.1, 0.1], abs=0.08)
    assert color_at(shape, np.array([0.1 * unit, high[1], top[:, 2].mean()])) == pytest.approx(
        [0.1, 0.8, 0.1], abs=0.08
    )
    merged = shape.copy()
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    assert merged.is_watertight and merged.volume > 0
    assert glb_facts(path)["watertight"]
    outward = (shape.vertex_normals * shape.face_normals[shape.vertex_faces[:, 0]]).sum(1)
    assert outward.min() > 0


@pytest.mark.parametrize("unwrap", ["box", "xatlas"])
def test_validator_has_nothing_to_say(asset, tmp_path, unwrap):
    paths = []
    for k, (target, size, kind) in enumerate([(1500, 512, "jpeg"), (400, 256, "png"), (60000, 1024, "jpeg")]):
        paths.append(tmp_path / f"{k}.glb")
        if unwrap == "box" or k < 2:
            export_glb(
                asset, paths[-1], target_faces=target, texture_size=size, texture_format=kind, unwrap=unwrap,
                recipe={"prompt": 'a "red" chair, ü', "seed": 3, "steps": [1, 2.5, None]},
            )  # fmt: skip
        else:
            paths.pop()
    flat = tmp_path / "colorless.glb"
    export_glb(solid_mesh(sphere(), 16), flat, texture_size=64)
    for report in validate_glbs([*paths, flat]):
        assert_clean(report)
        assert report["info"]["totalTriangleCount"] > 0


def test_recipe_returns_and_bytes_repeat(asset, tmp_path):
    recipe = {"prompt": "ein Stuhl \u2014 \x07 <|im_end|>", "seed": 2**40, "nested": {"a": [1.5, True]}}
    for name in ("a.glb", "b.glb"):
        export_glb(asset, tmp_path / name, target_faces=800, texture_size=256, recipe=recipe)
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    assert read_recipe(tmp_path / "a.glb") == recipe
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.glb", "b.glb"]


def test_color_fn_and_material(asset, tmp_path):
    path = tmp_path / "c.glb"
    export_glb(
        asset, path, target_faces=500, texture_size=128, roughness=0.3,
        color_fn=lambda p: np.tile([0.2, 0.4, 0.6], (len(p), 1)),
    )  # fmt: skip
    material = load(path).visual.material
    assert material.metallicFactor == 0 and material.roughnessFactor == pytest.approx(0.3)
    picture = np.asarray(material.baseColorTexture.convert("RGB")) / 255
    assert np.abs(picture - [0.2, 0.4, 0.6]).max() < 0.02


def test_bad_settings_and_meshes(asset, tmp_path):
    path = tmp_path / "x.glb"
    for setting in (
        {"texture_size": 1000}, {"target_faces": 0}, {"roughness": float("nan")}, {"height_m": -1.0},
        {"unwrap": "magic"}, {"texture_format": "webp"}, {"scale_m": float("inf")},
    ):  # fmt: skip
        with pytest.raises(InputError):
            export_glb(asset, path, **setting)
    with pytest.raises(GenerationError, match="no faces"):
        export_glb(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), path)
    with pytest.raises(GenerationError, match="not finite"):
        export_glb(Mesh(asset.vertices * float("nan"), asset.faces), path)
    assert not path.exists()


def test_output_errors_leave_nothing_behind(asset, tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="does not exist"):
        export_glb(asset, tmp_path / "missing" / "x.glb", target_faces=300, texture_size=64)
    with pytest.raises(OutputError, match="is a folder"):
        output.write_atomic(tmp_path, b"")
    old = tmp_path / "old.glb"
    old.write_bytes(b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.os, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        output.write_atomic(old, b"after")
    assert old.read_bytes() == b"before" and os.listdir(tmp_path) == ["old.glb"]
    if os.path.isdir("/proc/self"):
        with pytest.raises(OutputError, match="cannot be written"):
            output.write_atomic("/proc/self/x.glb", b"")


def test_writer_function_gets_the_suffix(tmp_path):
    seen = []

    def write(path):
        seen.append(path.suffix)
        path.write_bytes(b"movie")

    output.write_atomic(tmp_path / "a.mp4", write)
    assert seen == [".mp4"] and (tmp_path / "a.mp4").read_bytes() == b"movie"
