"""Every training stage takes a step on the CPU, and the loop keeps its promises.

Networks are toys; the data are six procedural assets packed by the real packer. Muon is off: its bfloat16 steps are
very slow on a CPU.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from gap3d_app.models import slat_vae
from gap3d_app.models.checkpoint import load_model, read_config
from gap3d_app.nn import attention
from tests.train.toy_run import ToyStage
from train import checkpoints
from train import export as export_module
from train.checkpoints import Ema, find_checkpoint, load_checkpoint, save_checkpoint
from train.data import pack
from train.data.packed import PackedAssets
from train.eval.probe import Probe
from train.flow_matching import ConditionSource
from train.generated_grids import make_grids, picture_prompts, read_grids, write_grids
from train.grid_alignment import GridAlignmentStage
from train.image_encoder import ImageEncoderStage, known_accuracy, known_cross_entropy
from train.language_model import LanguageModelStage
from train.loop import LoopConfig, Stage, lr_factor, run
from train.probe import ProbeStage
from train.profiling import WARM_UP
from train.slat_flow import SLatFlowStage
from train.slat_vae import SLatVaeStage
from train.structure_flow import StructureFlowStage
from train.structure_vae import StructureVaeStage

C = 32  # channels of the token grid and of the language model
VOXELS = dict(resolution=32, model_channels=32, num_blocks=1, num_heads=2, mlp_ratio=2, latent_channels=8,
              attn_mode="swin", window_size=8)
FLOW = dict(in_channels=8, out_channels=8, model_channels=32, cond_channels=C, num_blocks=1, num_heads=2, mlp_ratio=2,
            share_mod=True, qk_rms_norm=True)
STRUCTURE = dict(latent_channels=8, num_res_blocks=0, num_res_blocks_middle=1)
MODELS = {
    "image_encoder": dict(image_size=224, patch_size=56, hidden_size=C, num_hidden_layers=1, num_attention_heads=2),
    "language_model": dict(
        text_config=dict(hidden_size=C, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1, mrope_section=[2, 3, 3], max_position_embeddings=512),
        vision_config=dict(depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=C, patch_size=56,
                           window_size=224, fullatt_block_indexes=[0]),
        n_query=4, image_size=224, model_max_length=256,
    ),
    "structure_vae": dict(encoder=dict(channels=[4, 8, 8], **STRUCTURE), decoder=dict(channels=[8, 8, 4], **STRUCTURE)),
    "slat_vae": dict(
        encoder=dict(in_channels=206, **VOXELS),
        gaussian_decoder=dict(representation_config=dict(num_gaussians=4, scaling_bias=0.02), **VOXELS),
        mesh_decoder=dict(representation_config=dict(use_color=True), upsample_channels=[32, 32], **VOXELS),
    ),
    "structure_flow": dict(resolution=8, patch_size=1, **FLOW),
    "slat_flow": dict(resolution=32, patch_size=2, num_io_res_blocks=1, io_block_channels=[16], **FLOW),
    "grid_alignment": dict(input_size=4, in_channels=C, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, ffn_dim=64,
                           norm_eps=1e-5, latent_embedding_size=C),
}  # fmt: skip
NEEDS = {
    "structure_flow": ("image_encoder", "structure_vae"),
    "slat_flow": ("image_encoder", "slat_vae"),
    "grid_alignment": ("image_encoder", "language_model"),
}
WRITES = {
    "image_encoder": ["image_encoder"],
    "language_model": ["prompt_encoder", "tokenizer"],
    "structure_vae": ["structure_encoder", "structure_decoder"],
    "slat_vae": ["slat_encoder", "slat_decoder_gs", "slat_decoder_mesh"],
    "probe": ["probe"],
    "structure_flow": ["structure_flow"],
    "slat_flow": ["slat_flow", "slat_normalization"],
    "grid_alignment": ["grid_dit", "prompt_encoder"],
}
TUNES = {"structure_tuning": "structure_flow", "slat_tuning": "slat_flow"}
LOOP = LoopConfig(steps=1, batch_size=4, muon_lr=0.0, warmup=1, log_every=1, sample_every=1)


class Runs:
    """A runs folder whose stages are trained for one step when a test first asks for them."""

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder = data, folder
        self.metrics: dict[str, dict[str, float]] = {}

    def part(self, name: str) -> str:
        """Stem of a trained network, as in the configs."""
        run_name = next(k for k, parts in WRITES.items() if name in parts)
        return str(self.folder / run_name / "model" / name)

    def stage(self, name: str, out: Path) -> Stage:
        """A fresh stage with toy sizes; the stages it reads are trained before."""
        for needed in NEEDS.get(name, ()):
            self.trained(needed)
        torch.manual_seed(1)
        data = {"data": str(self.data), "test": str(self.data), "device": "cpu"}
        model, p = MODELS.get(name), self.part
        condition = {"drop": 0.1, "noise": 0.6}
        if name == "image_encoder":
            return ImageEncoderStage(model, **data, views=2)
        if name == "language_model":
            return LanguageModelStage(model, **data, views=2, tokenizer=out / "tokenizer.json", vocabulary=400)
        if name == "structure_vae":
            return StructureVaeStage(model, **data, kl_weight=1e-3)
        if name == "slat_vae":
            return SLatVaeStage(model, **data, kl_weight=1e-4, crop=3, max_voxels=20000)
        if name == "probe":
            return ProbeStage(8, **data, views=2)
        if name == "structure_flow":
            parts = {k: p(k) for k in ("image_encoder", "structure_encoder", "structure_decoder")}
            return StructureFlowStage(model, **data, parts=parts, condition=condition, views=2)
        if name == "slat_flow":
            parts = {"image_encoder": p("image_encoder"), "slat_encoder": p("slat_encoder")}
            parts["slat_decoder"] = p("slat_decoder_gs")
            return SLatFlowStage(model, **data, parts=parts, condition=condition, views=2, max_voxels=20000)
        language = self.folder / "language_model" / "model"  # grid_alignment writes a prompt_encoder of its own
        parts = {"image_encoder": p("image_encoder"), "prompt_encoder": str(language / "prompt_encoder")}
        parts["tokenizer"] = str(language / "tokenizer.json")
        objective = {"sample_time": "uniform", "drop_probability": 0.1}
        return GridAlignmentStage(model, **data, parts=parts, objective=objective, views=2)

    def grids(self) -> Path:
        """Generated grids of all assets."""
        path = self.folder / "generated_grids" / "grids.safetensors"
        if not path.exists():
            parts = {k: str(self.trained("grid_alignment") / "model" / k) for k in ("prompt_encoder", "grid_dit")}
            parts["tokenizer"] = str(self.folder / "language_model" / "model" / "tokenizer.json")
            data = PackedAssets(self.data, "cpu", views=2)
            write_grids(make_grids(data, parts, {"steps": 2, "solver": "ab2"}, 4, 0, "cpu"), path.parent)
        return path

    def trained(self, name: str) -> Path:
        """Folder of the stage's finished run; a tuning stage's is a run of the flow it goes on with."""
        out = self.folder / name
        if name in TUNES and name not in self.metrics:
            stage = self.stage(TUNES[name], out)
            self.metrics[name] = run(stage, replace(LOOP, init={"flow": self.part(TUNES[name])}), out)
        if name not in self.metrics:
            self.metrics[name] = run(self.stage(name, out), LOOP, out)
        return out


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    data = tmp_path_factory.mktemp("train_data")
    sizes = ["--count", "2", "--edits", "2", "--views", "2", "--workers", "1", "--seed", "2"]
    assert pack.main(["--out", str(data), *sizes]) == 0
    return Runs(data, tmp_path_factory.mktemp("runs"))


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


@pytest.mark.parametrize("name", ["language_model", "slat_vae", "structure_flow", "slat_flow", "grid_alignment"])
def test_compiled_parts(runs, name, monkeypatch, varlen_on_cpu):
    """The same loss and gradients as without, and batches of other lengths need no further compilation."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for module in (attention, slat_vae):
        monkeypatch.setattr(module, "packed_kernel_fits", lambda *_: True)
    torch._dynamo.reset()
    fast, plain = runs.stage(name, runs.trained(name)), runs.stage(name, runs.trained(name))
    fast.compile_parts()
    generator, counts = torch.Generator().manual_seed(0), []
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


def test_steps_are_measured(tmp_path):
    """The report counts what a step did, and training goes on behind it."""
    steps = WARM_UP + 10
    run(ToyStage(), LoopConfig(steps=steps, batch_size=4, log_every=1, profile=3), tmp_path)
    lines = (tmp_path / "profile.txt").read_text().splitlines()
    assert lines[0].endswith(f"ms a step, mean of 3, {WARM_UP} steps before") and float(lines[0].split()[0]) > 0
    calls = {line.split(" x ")[1]: float(line.split()[2]) for line in lines[2:]}
    assert calls["aten::addmm"] == 1 and len((tmp_path / "log.jsonl").read_text().splitlines()) == steps


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


@pytest.mark.parametrize("name", ["structure_flow", "slat_flow"])
def test_flows_see_generated_grids(runs, name, tmp_path):
    stage = runs.stage(name, tmp_path)
    tokens = load_file(runs.grids())["tokens"]
    assert tokens.dtype == torch.float16 and tokens.isfinite().all() and len(tokens) == len(stage.data)
    stage.condition = ConditionSource(
        runs.part("image_encoder"), 0.0, 0.6, len(stage.data), "cpu", generated=str(runs.grids()), share=1.0
    )
    cond = stage.next_batch(4, torch.Generator().manual_seed(0))["cond"]
    assert all(any(torch.equal(row, known.float()) for known in tokens) for row in cond)
    with pytest.raises(ValueError, match="make them anew"):
        read_grids(runs.grids(), 99, "cpu")


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


class Interrupted(Exception):
    """Stands for the process being stopped."""


@pytest.mark.parametrize("name", ["structure_vae", "probe"])
def test_resumed_run_equals_an_uninterrupted_one(runs, name, tmp_path):
    """structure_vae draws noise inside its forward pass, probe in its batches."""
    loop = LoopConfig(steps=2, batch_size=2, warmup=1, log_every=1, save_every=1, muon_lr=0.0)
    straight = run(runs.stage(name, tmp_path), loop, tmp_path / "straight")

    stage = runs.stage(name, tmp_path)
    draw_batch, calls = stage.next_batch, []

    def next_batch(*args):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted
        return draw_batch(*args)

    stage.next_batch = next_batch
    with pytest.raises(Interrupted):
        run(stage, loop, tmp_path / "resumed")
    assert json.loads((tmp_path / "resumed" / "checkpoint" / "state.json").read_text())["step"] == 1
    torch.manual_seed(99)  # a new process would not go on with the old one's random numbers either
    resumed = run(runs.stage(name, tmp_path), loop, tmp_path / "resumed")
    same = {k: v for k, v in straight.items() if "second" not in k}
    assert {k: resumed[k] for k in same} == same
    for file in ("weights", "ema", "optimizer0"):
        a, b = (load_file(tmp_path / r / "checkpoint" / f"{file}.safetensors") for r in ("straight", "resumed"))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    steps = [json.loads(line)["step"] for line in (tmp_path / "resumed" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and set(steps) == {1, 2}


def test_a_run_may_start_from_a_saved_network(runs, tmp_path):
    loop = LoopConfig(steps=1, batch_size=2, lr=0.0, log_every=1)
    run(runs.stage("structure_vae", tmp_path), loop, tmp_path / "first")
    saved = tmp_path / "first" / "model" / "structure_encoder"
    other = runs.stage("structure_vae", tmp_path)
    for parameter in other.parameters():
        parameter.data.add_(0.01)
    run(other, replace(loop, init={"encoder": str(saved)}), tmp_path / "second")

    def same(part: str) -> bool:
        first, second = (load_file(tmp_path / run / "model" / f"{part}.safetensors") for run in ("first", "second"))
        return all(torch.equal(first[k], second[k]) for k in first)

    assert same("structure_encoder") and not same("structure_decoder")


def test_tuning_keeps_a_share_of_what_it_began_with(runs, tmp_path):
    begun = runs.trained("structure_flow") / "model" / "structure_flow"
    stage = runs.stage("structure_flow", tmp_path)
    loop = LoopConfig(steps=2, batch_size=2, lr=0.01, log_every=1, init={"flow": str(begun)}, keep=0.25)
    run(stage, loop, tmp_path / "tuned")
    first, saved = (load_file(f"{stem}.safetensors") for stem in (begun, tmp_path / "tuned" / "model" / begun.name))
    tuned = load_file(tmp_path / "tuned" / "checkpoint" / "ema.safetensors")
    moved = 0.0
    for name, value in tuned.items():
        key = name.removeprefix("flow.")
        assert torch.allclose(saved[key], 0.75 * value + 0.25 * first[key].float(), atol=1e-6), name
        moved += float((saved[key] - first[key]).abs().sum())
    assert moved > 0
    with pytest.raises(ValueError, match="must name flow"):
        run(stage, replace(loop, init={}), tmp_path / "nothing")


class Halted(Exception):
    """Stands for the machine going down."""


@pytest.mark.parametrize("halt_at", range(8))
def test_a_checkpoint_is_there_whenever_the_save_is_stopped(tmp_path, monkeypatch, halt_at):
    """A save stopped before any of its renames and deletions leaves the older or the newer checkpoint whole."""
    folder, weight = tmp_path / "checkpoint", nn.Parameter(torch.zeros(3))
    ema, generator = Ema({"w": weight}, 0.9), torch.Generator()

    def save(step):
        weight.data.fill_(float(step))
        save_checkpoint(folder, step, {"w": weight}, ema, [], generator, float(step))

    save(1)
    calls = []

    def halting(do):
        def call(*args, **kwargs):
            calls.append(do)
            if len(calls) > halt_at:
                raise Halted
            return do(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for module, name in ((checkpoints.os, "replace"), (checkpoints.shutil, "rmtree")):
            patched.setattr(module, name, halting(getattr(module, name)))
        try:
            save(2)
        except Halted:
            pass
    step, seconds = load_checkpoint(find_checkpoint(folder), {"w": weight}, ema, [], generator)
    assert step == seconds and step in (1, 2) and (weight.data == step).all()
    save(3)  # what the stopped save left behind is in nobody's way
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert load_checkpoint(folder, {"w": weight}, ema, [], generator)[0] == 3


def test_a_run_goes_on_from_the_checkpoint_set_aside(runs, tmp_path):
    loop = LoopConfig(steps=2, batch_size=2, warmup=1, log_every=1, muon_lr=0.0)
    run(runs.stage("probe", tmp_path), replace(loop, steps=1), tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    run(runs.stage("probe", tmp_path), loop, tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_a_stage_must_say_what_it_does():
    class Idle(Stage):
        def forward(self, batch):
            return batch["loss"], {}

    with pytest.raises(TypeError, match="next_batch.*save_models"):
        Idle()


def test_average_of_weights():
    """decay = min(limit, (1 + n) / (10 + n)); inside the context the average is in place, outside the weights."""
    weight = nn.Parameter(torch.zeros(3))
    ema = Ema({"w": weight}, decay=0.3)
    expected = torch.zeros(3)
    for n in range(1, 6):
        weight.data.fill_(float(n))
        ema.update()
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    torch.testing.assert_close(ema.shadow["w"], expected)
    with ema:
        torch.testing.assert_close(weight.data, expected)
    assert (weight.data == 5).all()


def test_learning_rate():
    loop = LoopConfig(steps=100, batch_size=1, warmup=10, lr_floor=0.1, minutes=1.0)
    assert lr_factor(0, 0, loop) == pytest.approx(0.1)
    assert lr_factor(10, 0, loop) > 0.97
    assert lr_factor(100, 0, loop) == pytest.approx(0.1)
    assert lr_factor(10, 60, loop) == pytest.approx(0.1)  # out of time is as final as out of steps
    assert lr_factor(10, 30, loop) == pytest.approx(0.55)


def test_unknown_labels_do_not_count():
    logits = torch.tensor([[4.0, 0.0], [0.0, 4.0], [9.0, 0.0]])
    target = torch.tensor([0, 0, -1])
    assert known_accuracy(logits, target) == 0.5
    torch.testing.assert_close(known_cross_entropy(logits, target), nn.functional.cross_entropy(logits[:2], target[:2]))
    nobody = torch.full((3,), -1)
    assert known_cross_entropy(logits, nobody) == 0 and known_accuracy(logits, nobody) == 0
