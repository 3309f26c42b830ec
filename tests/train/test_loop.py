"""The training loop keeps its promises: resume, average, checkpoints, limits, measurements."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.train.toy_run import ToyStage
from train import checkpoints
from train.checkpoints import Ema, find_checkpoint, load_checkpoint, save_checkpoint
from train.loop import LoopConfig, Stage, lr_factor, run
from train.profiling import WARM_UP

pytestmark = pytest.mark.usefixtures("on_the_processor")


def test_steps_are_measured(tmp_path):
    """The report counts what a step did, and training goes on behind it."""
    steps = WARM_UP + 10
    run(ToyStage(), LoopConfig(steps=steps, batch_size=4, log_every=1, profile=3), tmp_path)
    lines = (tmp_path / "profile.txt").read_text().splitlines()
    assert lines[0].endswith(f"ms a step, mean of 3, {WARM_UP} steps before") and float(lines[0].split()[0]) > 0
    calls = {line.split(" x ")[1]: float(line.split()[2]) for line in lines[2:]}
    assert calls["aten::addmm"] == 1 and len((tmp_path / "log.jsonl").read_text().splitlines()) == steps


@pytest.mark.parametrize("limits", [dict(steps=3), dict(steps=10**6, minutes=1e-9)])
def test_what_is_never_logged_is_logged_at_the_end(tmp_path, limits):
    last = run(ToyStage(), LoopConfig(batch_size=4, log_every=0, **limits), tmp_path)
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["step"] == (1 if "minutes" in limits else 3) and line["loss"] == pytest.approx(last["loss"], rel=1e-4)


class TightStage(ToyStage):
    """Runs out of memory in some of its batches."""

    def __init__(self, too_large):
        super().__init__()
        self.too_large, self.batches = too_large, 0

    def forward(self, batch):
        self.batches += 1
        if self.too_large(self.batches):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch)


def test_a_batch_that_does_not_fit_is_left_out(tmp_path, capsys):
    stage = TightStage(lambda number: number in (2, 3))
    run(stage, LoopConfig(steps=5, batch_size=4, log_every=1), tmp_path / "some")
    steps = [json.loads(line)["step"] for line in (tmp_path / "some" / "log.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5] and stage.batches == 7
    assert capsys.readouterr().out.count("a batch at step 1 did not fit") == 2
    with pytest.raises(torch.OutOfMemoryError):
        run(TightStage(lambda number: True), LoopConfig(steps=5, batch_size=4), tmp_path / "all")


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
        if len(calls) == 3:  # in the middle of the second step, while the batch of a third one is drawn
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


def test_a_finished_run_leaves_its_checkpoint_as_it_is(runs, tmp_path):
    """A second time no step is left, so that no batch is drawn."""
    states = []
    for _ in range(2):
        run(runs.stage("probe", tmp_path), LoopConfig(steps=1, batch_size=2), tmp_path / "run")
        whole = tmp_path / "run" / "checkpoint"
        states.append({name: load_file(whole / f"{name}.safetensors") for name in ("weights", "random")})
    for first, second in zip(*(state.values() for state in states), strict=True):
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first if k != "cpu")


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
