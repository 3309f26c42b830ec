"""Recorded and compiled flows inside of a pipeline: when they are used, and what becomes of them."""

import pytest
import torch

from gap3d_app import fast_flows, stages
from gap3d_app.asset import Asset
from gap3d_app.errors import Cancelled
from gap3d_app.flow import graphs
from gap3d_app.models.fast_flow import FastFlow
from gap3d_app.modes import LOW_VRAM, RESIDENT
from gap3d_app.pipeline import Gap3DPipeline

FAST = dict(preset="fast")
FLOWS = {"grid_dit", "structure_flow", "slat_flow"}
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def on_cpu(monkeypatch, compilations) -> list[str]:
    """Fast flows on the processor, as if compiled; gives the blocks that were called so."""
    monkeypatch.setattr(fast_flows, "recorded_on", lambda device: True)
    monkeypatch.setattr(fast_flows, "WORTH_COMPILING", 1000)
    return compilations


def loaded(weights, memory: str = RESIDENT, compile: bool = True, device: str = "cpu") -> Gap3DPipeline:
    return Gap3DPipeline.from_pretrained(weights, device=device, dtype="float32", memory=memory, compile=compile)


def test_the_processor_keeps_the_plain_networks(tiny_weights):
    pipe = loaded(tiny_weights)
    pipe("a red chair", **FAST)
    assert not pipe.flows.flows and not pipe.will_compile(FLOWS)


@pytest.mark.parametrize("compile", [True, False])
def test_resident_networks_take_the_fast_way(on_cpu, tiny_weights, tiny_pipeline, compile):
    pipe = loaded(tiny_weights, compile=compile)
    assert pipe.will_compile(FLOWS) is compile and not pipe.will_compile({"image_encoder"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_flows, "recorded_on", lambda device: False)
        slow = tiny_pipeline("a red chair", **FAST)
    for _ in range(2):
        quick = pipe("a red chair", **FAST)
        assert torch.allclose(quick.slat.tensor.feats, slow.slat.tensor.feats, atol=1e-4)
        assert torch.equal(quick.occupancy.coords, slow.occupancy.coords) and not quick.warnings
    assert set(pipe.flows.flows) == FLOWS and bool(on_cpu) is compile and not pipe.will_compile(FLOWS)


def test_small_networks_are_recorded_only(on_cpu, tiny_weights, monkeypatch):
    monkeypatch.setattr(fast_flows, "WORTH_COMPILING", 100_000_000)
    pipe = loaded(tiny_weights)
    pipe("a red chair", **FAST)
    assert set(pipe.flows.flows) == FLOWS and not on_cpu


def test_networks_that_move_stay_plain(on_cpu, tiny_weights):
    pipe = loaded(tiny_weights, LOW_VRAM)
    pipe("a red chair", **FAST)
    assert not pipe.flows.flows and not on_cpu and not pipe.will_compile(FLOWS)


def failing(monkeypatch, stage: str, times: int, fail) -> list[dict[str, list]]:
    """Let a stage fail so often in its second step; gives the flows' records at the begin of every try."""
    whole, calls = getattr(stages, f"{stage}_stage"), []

    def step(networks, runs):
        flows = networks.flows.flows
        calls.append({role: list(flow.steps._records) if flow.steps else [] for role, flow in flows.items()})
        for number, event in enumerate(whole(networks, runs)):
            if len(calls) <= times and number == 1:
                fail()
            yield event

    monkeypatch.setattr(stages, f"{stage}_stage", step)
    return calls


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_out_of_memory_first_takes_the_records(on_cpu, tiny_weights, tiny_pipeline, monkeypatch):
    """From then on every stage takes its own away; nobody need be told."""
    calls, pipe = failing(monkeypatch, "slat", 1, out_of_memory), loaded(tiny_weights)
    asset = pipe("a red chair", **FAST)
    first, second = calls
    assert first["structure_flow"] and not any(second.values()) and pipe.memory.mode == RESIDENT and not asset.warnings
    assert not any(flow.steps._records for flow in pipe.flows.flows.values()) and set(pipe.flows.flows) == FLOWS
    monkeypatch.undo()
    assert torch.allclose(asset.mesh.vertices, tiny_pipeline("a red chair", **FAST).mesh.vertices, atol=1e-4)


@pytest.mark.parametrize("stage", ["grid", "slat"])
def test_out_of_memory_again_undoes_them(on_cpu, tiny_weights, tiny_pipeline, monkeypatch, stage):
    """Their memory is free before the stage begins again in the lower mode, with plain networks."""
    calls, pipe, undone = failing(monkeypatch, stage, 2, out_of_memory), loaded(tiny_weights), []
    clear = fast_flows.FastFlows.clear
    monkeypatch.setattr(fast_flows.FastFlows, "clear", lambda self: undone.extend(self.flows.values()) or clear(self))
    asset = pipe("a red chair", **FAST)
    assert len(calls) == 3 and calls[1] and not calls[2] and not pipe.flows.flows
    assert pipe.memory.mode == LOW_VRAM and len(asset.warnings) == 1
    for fast in undone:
        assert fast.steps is None and "advance" not in vars(fast.flow)
    assert pipe._parts["grid_dit"].blocks()[0].attn1.stacked is None
    monkeypatch.undo()
    assert torch.allclose(asset.mesh.vertices, tiny_pipeline("a red chair", **FAST).mesh.vertices, atol=1e-4)


@pytest.mark.parametrize("stage", ["grid", "structure", "slat"])
def test_cancelling_stops_within_a_step(on_cpu, tiny_weights, stage):
    pipe, seen = loaded(tiny_weights), []
    with pytest.raises(Cancelled):
        for event in pipe.stages("a chair", settings=pipe.settings(**FAST), cancel=lambda: bool(seen)):
            if event.stage == stage:
                seen.append(event.step)
    assert seen == [1]
    assert len(pipe("a chair", **FAST).mesh.faces)


def test_a_batch_takes_the_plain_blocks(on_cpu, tiny_weights):
    pipe = loaded(tiny_weights)
    made = pipe.batch(["a chair", "a boat"], **FAST)
    assert all(len(asset.mesh.faces) for asset in made) and set(pipe.flows.flows) == FLOWS and not on_cpu


@pytest.fixture
def same_voxels(monkeypatch) -> None:
    """Every run goes on from the voxels of the first one of its prompt, if its own are nearly the same.

    Rounding may turn a voxel whose logit is about zero, and the noise of all that come after it would be another.
    """
    whole, first = stages.structure_stage, {}

    def step(networks, runs):
        yield from whole(networks, runs)
        for run in runs:
            kept = first.setdefault(run.prompt.text, run.occupancy)
            one, other = (set(map(tuple, occupancy.coords.tolist())) for occupancy in (run.occupancy, kept))
            assert len(one & other) >= 0.95 * len(one | other)
            run.occupancy = kept

    monkeypatch.setattr(stages, "structure_stage", step)


def assert_alike(one: Asset, other: Asset) -> None:
    a, b = one.slat.tensor.feats, other.slat.tensor.feats
    assert (a - b).norm() <= 1e-3 * b.norm()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
def test_on_cuda(same_voxels, tiny_weights, device):
    """Recorded steps against plain ones on the same device; a mode that moves networks after one that does not."""
    pipe, plain = loaded(tiny_weights, device=device), loaded(tiny_weights, LOW_VRAM, device=device)
    slow = plain("a red chair", **FAST)
    for _ in range(2):
        quick = pipe("a red chair", **FAST)
        assert torch.allclose(quick.grid.tokens, slow.grid.tokens, atol=1e-3)
        assert_alike(quick, slow)
    assert set(pipe.flows.flows) == FLOWS and all(isinstance(flow, FastFlow) for flow in pipe.flows.flows.values())
    assert_alike(pipe("a blue boat", **FAST), plain("a blue boat", **FAST))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize(("when", "mode"), [("between", LOW_VRAM), ("in parts", LOW_VRAM), ("as a whole", RESIDENT)])
def test_real_shortage_on_cuda(same_voxels, tiny_weights, device, when, mode):
    """More asked for than any card has: between steps of the latents, and while a step is recorded.

    Steps are recorded as a whole for the second prompt, and not again when their records are gone.
    """
    def ask(*_):
        torch.empty(1 << 46, device=device)

    def captured(call, pool, parted):
        asked.append(parted is (when == "in parts"))
        return record((lambda: (ask(), call())[1]) if asked[-1] else call, pool, parted)

    plain = loaded(tiny_weights, LOW_VRAM, device=device)("a red chair", **FAST)
    pipe, record, asked = loaded(tiny_weights, device=device), graphs._captured, []
    pipe("a red chair", **FAST)
    with pytest.MonkeyPatch.context() as patch:
        if when == "between":
            failing(patch, "slat", 2, ask)
        else:
            patch.setattr(graphs, "_captured", captured)
        asset = pipe("a red chair", **FAST)
    assert pipe.memory.mode == mode and (when == "between" or any(asked))
    if mode == LOW_VRAM:
        assert "at the stage slat" in asset.warnings[0] and not pipe.flows.flows
    else:
        assert not asset.warnings and pipe.flows.sparing
    for one in (asset, pipe("a red chair", **FAST)):
        assert_alike(one, plain)
