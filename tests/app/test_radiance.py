"""Assets of full-size weights that carry a radiance field, its file and its turntable."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gap3d_app.cli import main
from gap3d_app.errors import GenerationError, InputError, OutputError, WeightsError
from gap3d_app.geometry.radiance_file import load_radiance, save_radiance
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.render import turntable
from tests.render.fields import random_field

STEPS = dict(structure_steps=3, slat_steps=3)


@pytest.fixture(scope="module")
def pipe(releases) -> Gap3DPipeline:
    names = [releases[name] for name in ("image", "text", "dinov2", "clip")]
    return Gap3DPipeline.from_pretrained(names, device="cpu", dtype="float32")


def test_a_radiance_field_is_decoded_when_asked_for(pipe, tmp_path):
    asset = pipe("a red chair", formats=["glb", "npz"], **STEPS)
    field, decoder = asset.radiance, pipe.part("slat_decoder_rf")
    (expected,) = decoder.to_representation(decoder(asset.slat.tensor))
    assert torch.equal(field.trivec, expected.trivec) and torch.equal(field.coords, asset.occupancy.coords[:, 1:])
    assert asset.gaussians is None and pipe("a red chair", formats=["glb"], **STEPS).radiance is None
    loaded = load_radiance(asset.save(tmp_path / "a.npz"))
    assert torch.equal(loaded.coords, field.coords.int()) and loaded.resolution == field.resolution
    for name in ("trivec", "density", "features_dc"):
        assert torch.allclose(getattr(loaded, name), getattr(field, name), atol=1e-2, rtol=1e-3)
    with pytest.raises(OutputError, match="no Gaussians; add ply to the setting formats"):
        asset.save(tmp_path / "a.ply")


@pytest.mark.parametrize("kind", ["mesh", "gaussians", "radiance"])
def test_turntables_show_what_is_asked_for(pipe, tmp_path, monkeypatch, kind):
    few = functools.partial(turntable.turntable_frames, count=2, size=32)
    monkeypatch.setattr(turntable, "turntable_frames", few)
    asset = pipe("a red chair", formats=["gif"], turntable=kind, **STEPS)
    assert (asset.gaussians is not None, asset.radiance is not None) == (kind == "gaussians", kind == "radiance")
    assert asset.turned is getattr(asset, kind)
    with Image.open(asset.save(tmp_path / "a.gif")) as image:
        assert image.n_frames == 2
        shown = np.asarray(image.convert("RGB"), int)
    with Image.open(pipe("a red chair", formats=["gif"], **STEPS).save(tmp_path / "b.gif")) as image:
        assert (np.abs(shown - np.asarray(image.convert("RGB"), int)).max() > 8) == (kind != "mesh")


@pytest.mark.parametrize("shading", ["normal", "depth"])
def test_turntables_are_shaded_as_asked(pipe, tmp_path, monkeypatch, shading):
    few = functools.partial(turntable.turntable_frames, count=2, size=32)
    monkeypatch.setattr(turntable, "turntable_frames", few)
    asset = pipe("a red chair", formats=["gif"], turntable_shading=shading, **STEPS)
    with Image.open(asset.save(tmp_path / "a.gif")) as image:
        shown = np.asarray(image.convert("RGB"), int)
    expected = next(few(asset.mesh, shading=shading)).astype(int)
    assert np.abs(shown - expected).mean() < 4 < np.abs(shown - next(few(asset.mesh)).astype(int)).mean()
    with pytest.raises(InputError, match="turntable is 'radiance', which has no normals"):
        pipe.settings(turntable="radiance", turntable_shading="normal")


def test_an_asset_without_one_says_how_to_get_it(pipe, tmp_path):
    asset = pipe("a red chair", formats=["glb"], **STEPS)
    asset.recipe["settings"]["turntable"] = "radiance"
    with pytest.raises(OutputError, match="no radiance field; set turntable to radiance and run again"):
        asset.save(tmp_path / "a.mp4")
    with pytest.raises(OutputError, match="no radiance field; add npz to the setting formats and run again"):
        asset.save(tmp_path / "a.npz")


def test_weights_without_the_decoder_say_so_before_they_sample(tiny_pipeline):
    run = tiny_pipeline.stages("a chair", settings=tiny_pipeline.settings(formats=["npz"]))
    with pytest.raises(WeightsError, match="no slat_decoder_rf; it would enable radiance fields; use other weights"):
        next(run)


def test_a_field_that_is_not_finite_is_reported(releases):
    names = [releases[name] for name in ("image", "text", "clip")]
    broken = Gap3DPipeline.from_pretrained(names, device="cpu", dtype="float32")
    broken.part("slat_decoder_rf").out_layer.bias.fill_(float("nan"))
    with pytest.raises(GenerationError, match="radiance field came out with values that are not finite"):
        broken("a chair", formats=["npz"], **STEPS)


def test_command_line(releases, tmp_path, capsys):
    names = ",".join(str(releases[name]) for name in ("image", "text", "clip"))
    out = tmp_path / "chair.npz"
    steps = ["--structure-steps", "2", "--slat-steps", "2", "--quiet", "--device", "cpu"]
    assert main(["generate", "a chair", "-o", str(out), "--weights", names, *steps]) == 0, capsys.readouterr().err
    assert len(load_radiance(out)) > 0


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_other_files_are_refused(tmp_path, content):
    path = Path(tmp_path / "a.npz")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="a.npz is not a radiance field"):
        load_radiance(path)
    np.savez(path, coords=np.zeros((1, 3)))
    with pytest.raises(InputError, match="a.npz is not a radiance field"):
        load_radiance(path)


def test_a_file_keeps_its_box(tmp_path):
    field = random_field()
    assert load_radiance(save_radiance(field, tmp_path / "a.npz")).aabb == field.aabb
