"""Weights that are missing, truncated, changed, unlisted: each is named with what was expected and found."""

import hashlib
import json
import shutil

import pytest

from gap3d_app import hub
from gap3d_app.errors import WeightsError
from gap3d_app.pipeline import Gap3DPipeline


@pytest.fixture
def folder(tiny_weights, tmp_path):
    return shutil.copytree(tiny_weights, tmp_path / "weights")


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_resolve(tiny_weights, tmp_path):
    assert hub.resolve(tiny_weights) == tiny_weights
    with pytest.raises(WeightsError, match="no weights 'nobody/nothing'"):
        hub.resolve("nobody/nothing")
    with pytest.raises(WeightsError, match="holds no pipeline.json"):
        hub.resolve(tmp_path)


def test_embedded_name(monkeypatch, tiny_weights, tmp_path):
    monkeypatch.setattr(hub, "EMBEDDED", tiny_weights.parent)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("tiny") == tiny_weights and hub.embedded_names() == ["tiny"]


def test_whole_folder_passes(folder):
    assert hub.verify(folder) == sha256(folder / "manifest.json")
    assert all((folder / name).is_file() for name in json.loads((folder / "manifest.json").read_text()))


@pytest.mark.parametrize("name", ["grid_dit.safetensors", "slat_flow.json", "tokenizer.json", "pipeline.json"])
def test_damage_is_named(folder, name):
    path = folder / name
    good, content = sha256(path), path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=f"'{name}'.*bytes instead of.*expected sha256 {good}, found {sha256(path)}"):
        Gap3DPipeline.from_pretrained(folder)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match=f"'{name}'.*was changed: expected sha256 {good}, found {sha256(path)}"):
        Gap3DPipeline.from_pretrained(folder)
    path.write_bytes(content)
    Gap3DPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["grid_dit.safetensors", "tokenizer.json"])
def test_missing_file_is_named(folder, name):
    good = sha256(folder / name)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"'{name}'.* is missing .expected sha256 {good}"):
        hub.verify(folder)


def test_unlisted_weights_are_refused(folder):
    shutil.copy(folder / "grid_dit.safetensors", folder / "extra.safetensors")
    with pytest.raises(WeightsError, match="'extra.safetensors' .* is not in manifest.json"):
        hub.verify(folder)
    (folder / "extra.safetensors").rename(folder / "sheet.png")  # pictures and cards may lie beside the weights
    hub.verify(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 3}', '{"a.json": {"sha256": "x"}}', "\xff"])
def test_damaged_manifest(folder, content):
    (folder / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(WeightsError, match="manifest.json"):
        hub.verify(folder)


def test_manifest_may_not_point_outside(folder):
    entries = json.loads((folder / "manifest.json").read_text())
    entries["../secret.json"] = entries["pipeline.json"]
    (folder / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(WeightsError, match="outside the folder"):
        hub.verify(folder)


def test_no_manifest(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(WeightsError, match="python -m gap3d_app.hub"):
        hub.verify(folder)
    hub.write_manifest(folder)
    hub.verify(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"args": {}}', "no"])
def test_damaged_pipeline_file(folder, content):
    (folder / "pipeline.json").write_text(content)
    hub.write_manifest(folder)
    with pytest.raises(WeightsError, match="pipeline.json"):
        Gap3DPipeline.from_pretrained(folder)


def test_another_family(folder):
    (folder / "pipeline.json").write_text('{"name": "StableDiffusionPipeline", "args": {"models": {}}}')
    hub.write_manifest(folder)
    with pytest.raises(WeightsError, match="of another family: pipeline.json names 'StableDiffusionPipeline'"):
        Gap3DPipeline.from_pretrained(folder)
