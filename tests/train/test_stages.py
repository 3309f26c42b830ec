"""Every training stage takes a step on the CPU and leaves what the next ones and the app read."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from gap3d_app.errors import WeightsError
from gap3d_app.models import slat_vae
from gap3d_app.models.checkpoint import load_model, read_config
from gap3d_app.nn import attention
from tests.train.toys import GRID_SETTINGS, TUNES, WRITES, C
from train import export as export_module
from train.data.packed import PackedAssets
from train.eval.probe import Probe
from train.flow_matching import ConditionSource
from train.generated_grids import make_grids, picture_prompts, read_grids
from train.image_encoder import known_accuracy, known_cross_entropy
from train.stress import stress

pytestmark = pytest.mark.usefixtures("on_the_processor")


@pytest.mark.parametrize("name", WRITES)
def test_stage_takes_a_step(runs, name):
    out = runs.trained(name)
    metrics = runs.metrics[name]
    assert metrics["loss"] > 0 and metrics["grad_norm"] > 0
    assert all(torch.isfinite(torch.tensor(list(metrics.values()))))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 1 and lines[0]["loss"] == pytest.approx(metrics["loss"], abs=1e-5)
    assert any(key.startswith("test_") for line in lines for key in line)
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    (sample,) = (out / "samples").iterdir()
    if sample.suffix == ".png":
        assert len(Image.open(sample).convert("L").getcolors()) > 8  # something is drawn
    else:
        assert "wanted" in sample.read_text()
    for part in WRITES[name]:
        assert (out / "model" / f"{part}.json").exists()


@pytest.mark.parametrize(
    "name, seed",  # of three batches, the first two of which have different lengths
    [("language_model", 1), ("slat_vae", 0), ("structure_flow", 0), ("slat_flow", 0), ("grid_alignment", 1)],
)
def test_compiled_parts(runs, name, seed, monkeypatch, varlen_on_cpu):
    """The same loss and gradients as without, and batches of other lengths need no further compilation."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for module in (attention, slat_vae):
        monkeypatch.setattr(module, "packed_kernel_fits", lambda *_: True)
    torch._dynamo.reset()
    fast, plain = runs.stage(name, runs.trained(name)), runs.stage(name, runs.trained(name))
    fast.compile_parts()
    generator, counts = torch.Generator().manual_seed(seed), []
    for _ in range(3):
        batch, found = plain.next_batch(3, generator), []
        for stage in (fast, plain):
            torch.manual_seed(0)
            loss, params = stage(batch)[0], list(stage.trained_parameters().values())
            found.append([loss, *torch.autograd.grad(loss, params, allow_unused=True)])
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] > 0 and counts[1] == counts[-1]


@pytest.mark.parametrize("name", [k for k in WRITES if k != "probe"])
def test_written_networks_hold_the_average(runs, name):
    """What is exported is the moving average, under the names that the app loads, and not the last weights."""
    out = runs.trained(name)
    shadow, last = (load_file(out / "checkpoint" / f"{f}.safetensors") for f in ("ema", "weights"))
    moved = 0
    for part in WRITES[name]:
        if part in ("tokenizer", "slat_normalization"):
            continue
        for inner, value in load_model(out / "model" / part).state_dict().items():
            keys = [k for k in shadow if k.endswith(f".{inner}") and shadow[k].shape == value.shape]
            if keys:  # else frozen, or a buffer
                assert any(torch.equal(shadow[k], value) for k in keys), inner
                moved += not any(torch.equal(last[k], value) for k in keys)
    assert moved


def test_probe_reads_its_file(runs):
    probe = Probe.load(runs.trained("probe") / "model" / "probe")
    data = PackedAssets(runs.data, "cpu", views=2)
    answer = probe.judge(data.images(torch.tensor([0, 0]), torch.tensor([0, 1])))
    assert answer["category"] in data.categories and answer["color"] in data.color_names


def test_export_of_all_parts(runs, tmp_path):
    from gap3d_app import Gap3DPipeline, hub

    for name in (*WRITES, *TUNES):
        runs.trained(name)
    out = tmp_path / "weights"
    export_module.export(runs.folder, out, Path(export_module.__file__).parent / "configs" / "mini" / "pipeline.yaml")
    manifest = json.loads((out / hub.MANIFEST).read_text())
    assert {f"{role}.safetensors" for role in export_module.PARTS} <= set(manifest)
    assert read_config(out / "grid_dit")[0] == "GridDiT"
    pipe = Gap3DPipeline.from_pretrained(str(out))
    assert len(pipe.args["slat_normalization"]["std"]) == 8
    assert min(pipe.args["slat_normalization"]["std"]) > 0.99e-4  # a fresh encoder says 0 everywhere


def test_an_export_that_fails_leaves_the_weights_as_they_are(tmp_path):
    out = tmp_path / "weights"
    out.mkdir()
    (out / "grid_dit.safetensors").write_bytes(b"kept")
    settings = Path(export_module.__file__).parent / "configs" / "mini" / "pipeline.yaml"
    with pytest.raises(WeightsError):
        export_module.export(tmp_path / "runs", out, settings)
    assert [file.name for file in tmp_path.rglob("*")] == ["weights", "grid_dit.safetensors"]
    assert (out / "grid_dit.safetensors").read_bytes() == b"kept"


@pytest.mark.parametrize("name", ["structure_flow", "slat_flow"])
def test_flows_see_generated_grids(runs, name, tmp_path):
    stage = runs.stage(name, tmp_path)
    tokens = load_file(runs.grids())["tokens"]
    assert tokens.dtype == torch.float16 and tokens.isfinite().all() and tokens.shape == (len(stage.data), 2, 21, C)
    stage.condition = ConditionSource(
        runs.part("image_encoder"), 0.0, 0.6, len(stage.data), "cpu", generated=str(runs.grids()), share=1.0
    )
    cond = stage.next_batch(12, torch.Generator().manual_seed(0))["cond"]
    seen = (cond[:, None, None] == tokens.float()).flatten(3).all(-1)  # [12, assets, caption or picture]
    assert seen.any(2).sum(1).tolist() == [1] * 12 and seen.any(0).any(0).all()
    with pytest.raises(ValueError, match="make them anew"):
        read_grids(runs.grids(), 99, "cpu")


def test_tinted_pictures_keep_their_class_token(runs, tmp_path):
    """Two of three pictures have patches of other colours; class and registers are those without a tint."""
    stage = runs.stage("slat_flow", tmp_path)
    ids, maps = torch.arange(3), torch.eye(3).expand(3, 3, 3)
    made = []
    for tint in (0.0, 0.67):
        source = ConditionSource(runs.part("image_encoder"), 0.0, 0.0, len(stage.data), "cpu", tint=tint)
        made.append(source(stage.data, ids, torch.Generator().manual_seed(0), maps))
    exact, tinted = (cond.split([5, 16], 1) for cond in made)
    assert torch.equal(exact[0], tinted[0]) and torch.equal(exact[1][2], tinted[1][2])
    assert not torch.isclose(exact[1][:2], tinted[1][:2]).all(-1).all(-1).any()


def test_assets_that_edits_lead_to_are_prompted_by_source_and_instruction(runs):
    stage = runs.stage("grid_alignment", runs.folder / "unused")
    data, bank, vlm = stage.data, stage.bank, stage.vlm
    alone = next(i for i in range(len(data)) if i not in bank.pair_target.tolist())
    ids = torch.tensor([int(bank.pair_target[0]), alone])
    tokens, patches = picture_prompts(data, bank, vlm, ids, torch.Generator().manual_seed(0))
    instruction = bank.pictured[0][0][: bank.pictured[1][0]]
    assert torch.equal(tokens[0, : len(instruction)], instruction.long())
    unchanged = (part[len(bank.pair_source) :] for part in bank.pictured)
    phrases = [row[:length].long() for row, length in zip(*unchanged, strict=True)]
    assert any(torch.equal(tokens[1, : len(phrase)], phrase) for phrase in phrases)
    for asset, seen in zip((int(bank.pair_source[0]), alone), patches.chunk(2), strict=True):
        views = (vlm.patches(data.images(torch.tensor([asset]), view)) for view in range(2))
        assert any(torch.equal(seen, view) for view in views)


def test_generated_grids_of_edits_are_guided_as_in_the_app(runs):
    """Without edit guidance the grids of captions are the same, those beside pictures others."""
    data = PackedAssets(runs.data, "cpu", views=2)
    unguided = {"grid_sampler": GRID_SETTINGS["grid_sampler"]}
    plain, guided = (make_grids(data, runs.grid_parts(), some, 4, 0, "cpu") for some in (unguided, GRID_SETTINGS))
    assert torch.equal(plain[:, 0], guided[:, 0])
    edited = sorted({pair["target"] for pair in data.pairs})
    assert not (plain[edited, 1] == guided[edited, 1]).all(-1).all(-1).any()


def test_unknown_labels_do_not_count():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [9.0, 0.0]])
    target = torch.tensor([0, 0, -1])
    assert known_accuracy(logits, target) == 0.5
    torch.testing.assert_close(known_cross_entropy(logits, target), nn.functional.cross_entropy(logits[:2], target[:2]))
    nobody = torch.full((3,), -1)
    assert known_cross_entropy(logits, nobody) == 0 and known_accuracy(logits, nobody) == 0


def test_what_an_edit_changes_counts_more(runs):
    """Captions weigh one everywhere; an edit weighs more where its target differs from its source."""
    assert stress(torch.tensor([0.0, 0.1, 0.2, 7.0]), 0.2, 4.0).tolist() == [1, 3, 5, 5]
    batch = runs.stage("grid_alignment", runs.folder / "unused").next_batch(24, torch.Generator().manual_seed(0))
    captions, factors = batch["counts"]["caption"], batch["stress"]
    assert (factors[:captions] == 1).all() and 1 < factors[captions:].max() <= 5 and factors.min() >= 1
    assert factors.shape == (*batch["tokens"].shape[:2], 1)
    stage = runs.stage("language_model", runs.folder / "unused")
    batch = stage.next_batch(24, torch.Generator().manual_seed(0))
    captions = batch["counts"]["caption"]
    for key in ("cells_stress", "view_stress"):
        assert (batch[key][:captions] == 1).all() and 1 <= batch[key].min() and batch[key].max() <= 5
        assert batch[key].shape == batch[key.removesuffix("_stress")].shape
    assert batch["view_stress"][captions:].max() > 1  # the toys' edits are of colours, which leave the voxels
