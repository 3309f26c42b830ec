"""Checkpoints of another family, and parts that do not belong together: one sentence that names what is wrong."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gap3d_app.cli import main
from gap3d_app.errors import WeightsError
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.sources import catalog, commands, pull, store
from gap3d_app.sources.assemble import assemble
from gap3d_app.sources.names import is_assembled, split

pytestmark = pytest.mark.usefixtures("empty_hub_cache")
CPU = torch.device("cpu")


def rewrite(folder: Path, change: Callable[[dict], Any], name: str = "model") -> None:
    """Change the tensors of a folder, in one file from then on."""
    files, state = sorted(folder.glob(f"{name}*.safetensors")), {}
    for file in files:
        state |= load_file(file)
        file.unlink()
    folder.joinpath(f"{name}.safetensors.index.json").unlink(missing_ok=True)
    change(state)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")


def edit(file: Path, change: Callable[[dict], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def load(*folders: Path) -> None:
    """Load every network of some folders."""
    for part in assemble(list(folders)).args["models"].values():
        assert part.size
        part.load(CPU, None)


@pytest.mark.parametrize("form", [str, Path, lambda path: os.path.relpath(path), lambda path: f"{path}/"])
def test_a_folder_is_recognised_however_it_is_written(releases, form):
    assert is_assembled(split(form(releases["image"])))
    pipe = Gap3DPipeline.from_pretrained(form(releases["image"]), device="cpu")
    assert "slat_flow" in pipe.args["models"]


def test_names_with_blanks_and_commas(releases, capsys):
    assert split(f" {releases['image']}, {releases['dinov2']} ,") == [str(releases["image"]), str(releases["dinov2"])]
    for given, words in (("gap3d-mini,nothing", "are a whole pipeline; give them alone"),
                         ("nothing,dinov2", "no weights folder 'nothing'; give a folder, or one of trellis-image")):
        assert main(["generate", "a", "-o", "a.glb", "--weights", given]) == 2
        assert words in capsys.readouterr().err


def test_the_tower_of_a_checkpoint_with_a_module_prefix(releases, tmp_path):
    folder = shutil.copytree(releases["gap3d"], tmp_path / "gap3d")

    def prefix(state: dict) -> None:
        for key in list(state):
            state["module." + key] = state.pop(key)

    rewrite(folder, prefix)
    load(releases["image"], folder, releases["qwen"])
    assert "image_encoder" in assemble([releases["image"], folder]).args["models"]


DIT, TOWER = "model.dit.model.", "model.gen_vision_tower.vision_tower."
GAP3D = {
    "gate of 3": (lambda s: s.update({f"{DIT}layers.0.gate": torch.ones(3)}), "layers.0.gate' has shape .3., expected"),
    "gate of none": (lambda s: s.update({f"{DIT}layers.0.gate": torch.ones(())}), "layers.0.gate' has shape .., exp"),
    "patches": (lambda s: s.update({f"{DIT}patch_embedder.proj.weight": torch.ones(2, 2, 2)}),
                "patch_embedder.proj.weight' has shape .2, 2, 2., expected .width, channels."),
    "registers": (lambda s: s.update({f"{DIT}reg_roles": torch.ones(4)}), "reg_roles' has shape .4."),
    "no gate": (lambda s: s.pop(f"{DIT}layers.0.gate"), "no GAP3D checkpoint: they lack 'model.layers.0.gate'"),
    "rows": (lambda s: s.update({"model.embed_tokens.weight": torch.ones(9)}), "embed_tokens.weight', expected 2 axes"),
    "projection": (lambda s: s.update({f"{DIT}caption_projection.linear_1.weight":
                                       s[f"{DIT}caption_projection.linear_1.weight"][:, :20].clone()}),
                   "for 'model.latent_queries', but their caption_projection takes 20 channels"),
    "few rows": (lambda s: s.update({"model.embed_tokens.weight": torch.ones(2, 32)}), "another language model"),
    "another tower": (lambda s: s.update({f"{TOWER}fc_norm.weight": torch.ones(8)}), "unknown 'fc_norm.weight'"),
    "whole numbers": (lambda s: s.update({f"{DIT}layers.0.attn1.to_q.weight":
                                          s[f"{DIT}layers.0.attn1.to_q.weight"].to(torch.int8)}),
                      "as int8, expected floating-point"),
}  # fmt: skip


@pytest.mark.parametrize("case", GAP3D)
def test_gap3d_checkpoints(releases, tmp_path, case):
    change, words = GAP3D[case]
    folder = shutil.copytree(releases["gap3d"], tmp_path / "gap3d")
    rewrite(folder, change)
    with pytest.raises(WeightsError, match=words):
        load(releases["image"], folder, releases["qwen"])


def test_qwen_without_its_embedding(releases, tmp_path):
    folder = shutil.copytree(releases["qwen"], tmp_path / "qwen")
    rewrite(folder, lambda state: state.pop("model.embed_tokens.weight"))
    with pytest.raises(WeightsError, match="'qwen' are no Qwen2.5-VL: they lack 'model.embed_tokens.weight'"):
        load(releases["image"], releases["gap3d"], folder)


CONFIGS = {
    "swiglu": ("dinov2", lambda c: c.update(use_swiglu_ffn=True)),
    "relu": ("dinov2", lambda c: c.update(hidden_act="relu")),
    "three heads": ("dinov2", lambda c: c.update(num_attention_heads=3)),
    "heads in words": ("dinov2", lambda c: c.update(num_attention_heads="2")),
    "no patches": ("dinov2", lambda c: c.update(patch_size=0)),
    "sizes": ("dinov2", lambda c: c.update(image_size=[56, 56])),
    "no width": ("dinov2", lambda c: c.update(hidden_size=None)),
    "gelu": ("clip", lambda c: c["text_config"].update(hidden_act="gelu")),
    "list": ("qwen", lambda c: c.update(text_config=[1])),
    "no heads": ("qwen", lambda c: c.update(num_key_value_heads=0)),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_of_relatives(releases, tmp_path, case):
    kind, change = CONFIGS[case]
    folder = shutil.copytree(releases[kind], tmp_path / kind)
    edit(folder / "config.json", change)
    others = [releases["gap3d"]] if kind == "qwen" else []
    with pytest.raises(WeightsError) as caught:
        load(releases["image"], folder, *others)
    assert kind in str(caught.value) and "\n" not in str(caught.value)


def _another(role: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "ckpts" / f"{role}.json", lambda c: c["args"].update(changes))


def _args(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "pipeline.json", lambda c: change(c["args"]))


PIPELINES = {
    "class": (_args(lambda a: a["models"].update(sparse_structure_flow_model="ckpts/slat_flow_img")),
              "'slat_flow_img' is a SLatFlowModel; as structure_flow a SparseStructureFlowModel is needed"),
    "decoder": (_args(lambda a: a["models"].update(slat_decoder_mesh="ckpts/slat_dec_gs")), "a SLatMeshDecoder is"),
    "latents": (_another("slat_dec_mesh", latent_channels=4), "latents of 8 channels, the slat_decoder_mesh .* has 4"),
    "no numbers": (_args(lambda a: a.update(slat_normalization=None)), "another slat_normalization than the lists"),
    "no deviation": (_args(lambda a: a["slat_normalization"].pop("std")), "another slat_normalization"),
    "three numbers": (_args(lambda a: a.update(slat_normalization={"mean": [0] * 3, "std": [1] * 3})), "normalises 3"),
    "sampler": (_args(lambda a: a.update(slat_sampler=None)), "another slat_sampler than args and params"),
    "no heads": (_another("slat_flow_img", num_heads=0), "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("case", PIPELINES)
def test_parts_that_do_not_belong_together(releases, tmp_path, case):
    change, words = PIPELINES[case]
    folder = shutil.copytree(releases["image"], tmp_path / "image")
    change(folder)
    with pytest.raises(WeightsError, match=words):
        load(folder)


def test_words_for_text_models_without_their_encoder(releases):
    pipe = Gap3DPipeline.from_pretrained([releases["image"], releases["text"]], device="cpu", dtype="float32")
    with pytest.raises(WeightsError, match="have no text_encoder; it would enable .* weights pull clip"):
        pipe("a chair", structure_steps=2, slat_steps=2)


def _cached(source: catalog.Source, content: bytes) -> Path:
    """A source in the cache as a copy without links has it."""
    folder = store.repo_dir(source.repo) / "snapshots" / source.revision
    blobs = store.repo_dir(source.repo) / "blobs"
    blobs.mkdir(parents=True)
    for name in source.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        shutil.copyfile(path, blobs / store.checksum(path, "0" * 40))
    return folder


def test_verify_of_a_copy_without_links():
    source = catalog.source("dinov2")
    folder = _cached(source, b"made up")
    assert commands.verify(source) == len(source.files)
    (folder / source.files[0]).write_bytes(b"changed")
    with pytest.raises(WeightsError, match="no recorded checksum .* or was changed; delete .* weights pull dinov2"):
        commands.verify(source)


def test_several_sources_must_fit_the_disk_together(monkeypatch):
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 3_000_000_000))
    with pytest.raises(WeightsError, match="'trellis-text-base and trellis-image-large and clip and dinov2' need"):
        commands.pull_all(["trellis-text-base"], False, lambda line: None, False)


@pytest.mark.parametrize(
    "error, words",
    [
        (PermissionError(13, "Permission denied"), "make room and rights in"),
        (OSError(28, "No space left on device"), "make room and rights in"),
        (ConnectionError("lost"), "goes on where it stopped"),
    ],
)
def test_the_way_out_of_a_stopped_download(error, words):
    assert words in pull._way_out(error, catalog.source("dinov2"))


@pytest.mark.parametrize("status, words", [(401, "sign in"), (403, "accept the terms"), (404, "no longer")])
def test_the_way_out_by_status(status, words):
    error = RuntimeError("refused")
    error.response = type("Response", (), {"status_code": status})()
    assert words in pull._way_out(error, catalog.source("dinov2"))
