"""`FastFlow`: what takes the fast way, what the plain one, and what is left when it is undone."""

import logging

import pytest
import torch

from gap3d_app.flow.graphs import _Record
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models import acceleration
from gap3d_app.models.fast_flow import FastFlow
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.grid_sampling import generate_grid, grid_sampler
from gap3d_app.sparse.tensor import SparseTensor
from tests.models.test_fast_paths import awake, slat_flow, structure_flow, voxels
from tests.models.test_grid_dit import TINY, random_state

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]
SAMPLER = FlowSampler(steps=5, rescale_t=3.0, cfg_strength=2.0, cfg_interval=(0.5, 1.0))


def sampled(flow, state, cond, sampler: FlowSampler = SAMPLER) -> torch.Tensor:
    result = sampler.sample(flow, state, cond, torch.zeros_like(cond[:1]))
    return getattr(result, "feats", result)


def states(kind: str, device: str, batch: int = 1):
    """Two states of a toy flow, and a condition."""
    torch.manual_seed(1)
    cond = torch.randn(batch, 7, 24, device=device)
    if kind == "structure":
        return [torch.randn(batch, 8, 4, 4, 4, device=device) for _ in range(2)], cond
    counts = [[90] * batch, [60] * batch]
    return [SparseTensor(torch.randn(sum(n), 8, device=device), voxels(n).to(device)) for n in counts], cond


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind, make", [("structure", lambda: structure_flow(False)), ("slat", slat_flow)])
def test_the_same_numbers_stage_after_stage(kind, make, device) -> None:
    plain, fast = make().to(device), FastFlow(make().to(device))
    for _ in range(2):
        for state in states(kind, device)[0]:
            cond = torch.randn(1, 7, 24, device=device)
            assert torch.allclose(sampled(fast, state, cond), sampled(plain, state, cond), atol=1e-4)
            fast.rest()
    kept = fast.steps._records
    assert bool(kept) == (kind == "structure") and fast.ready and fast.config is fast.flow.config


@pytest.mark.parametrize("device", DEVICES)
def test_grid(device) -> None:
    torch.manual_seed(0)
    dit = awake(GridDiT(TINY)).to(device)
    cond, noise = torch.randn(1, 6, 20, device=device), random_state()
    noise = type(noise)(*(part[:1].to(device) for part in noise))
    slow = generate_grid(dit, cond, noise, grid_sampler(4, cfg_interval=(0.4, 1.0)))
    before = {key: value.clone() for key, value in dit.state_dict().items()}
    fast = FastFlow(dit)
    for _ in range(2):
        made = generate_grid(fast, cond, noise, grid_sampler(4, cfg_interval=(0.4, 1.0)))
        assert torch.allclose(made, slow, atol=1e-3)
    block = dit.blocks()[0]
    assert block.attn1.stacked is not None
    fast.undo()
    assert block.attn1.stacked is None and block.feed_forward.stacked is None and fast.steps is None
    assert all(torch.equal(value, before[key]) for key, value in dit.state_dict().items())
    assert len({x.untyped_storage().data_ptr() for x in dit.to(torch.float64).parameters()}) == len(before)


def test_only_one_asset_at_a_time_takes_compiled_blocks(compilations) -> None:
    flow = FastFlow(slat_flow(), compile_blocks=True)
    plain = slat_flow()
    (state, _), cond = states("slat", "cpu")
    assert torch.allclose(sampled(flow, state, cond), sampled(plain, state, cond), atol=1e-5)
    taken = len(compilations)
    assert taken
    (state, _), cond = states("slat", "cpu", batch=2)
    assert torch.allclose(sampled(flow, state, cond), sampled(plain, state, cond), atol=1e-5)
    several = FlowSampler(steps=3, cfg_strength=2.0, cfg_interval=(0.5, 1.0), multi_cond="multidiffusion")
    (state, _), cond = states("slat", "cpu")[0], torch.randn(3, 7, 24)
    assert torch.allclose(sampled(flow, state, cond, several), sampled(plain, state, cond, several), atol=1e-5)
    assert len(compilations) == taken and "advance" in vars(flow.flow)
    flow.undo()
    assert "advance" not in vars(flow.flow)


def test_what_cannot_be_compiled_runs_without(monkeypatch, caplog) -> None:
    from torch._dynamo.exc import FailOnRecompileLimitHit

    def refused(*_):
        raise FailOnRecompileLimitHit("too many forms\nand where")

    monkeypatch.setattr(acceleration, "compiled", lambda *_: refused)
    flow, ((state, _), cond) = FastFlow(structure_flow(True), compile_blocks=True), states("structure", "cpu")
    with caplog.at_level(logging.WARNING):
        made = sampled(flow, state, cond)
    assert torch.allclose(made, sampled(structure_flow(True), state, cond), atol=1e-5)
    assert [record.getMessage() for record in caplog.records] == [
        "The networks run without compilation: too many forms and where"
    ]
    assert flow.ready and not flow.compile_blocks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_undoing_gives_the_memory_back() -> None:
    flow = FastFlow(slat_flow().cuda())
    (state, _), cond = states("slat", "cuda")
    plain = sampled(flow.flow, SparseTensor(state.feats, state.coords), cond)
    for _ in range(2):  # what libraries keep for the stream of the recording, they keep from here on
        sampled(flow, SparseTensor(state.feats, state.coords), cond)
    flow.undo()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        sampled(flow, SparseTensor(state.feats, state.coords), cond)
    assert torch.cuda.memory_allocated() > before
    flow.undo()
    assert torch.cuda.memory_allocated() <= before
    flow.flow.cpu()
    assert torch.allclose(sampled(flow.flow.cuda(), SparseTensor(state.feats, state.coords), cond), plain, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_on_cuda() -> None:
    """One asset, two at once, and one again."""
    fast = FastFlow(slat_flow().cuda().to_torso_dtype(torch.float16), compile_blocks=True)
    plain = slat_flow().cuda().to_torso_dtype(torch.float16)
    for batch in (1, 2, 1):
        (state, _), cond = states("slat", "cuda", batch)
        slow, quick = sampled(plain, state, cond), sampled(fast, state, cond)
        assert (quick - slow).norm() < 2e-2 * slow.norm()
        fast.rest()
    assert fast.compile_blocks and fast.ready


def test_copies_keep_their_steps() -> None:
    """Along an axis of one, where contiguous memory allows any, compiled code asks for them; a grid's channels stay
    side by side. What has gaps is closed up."""
    part = torch.randn(1, 2, 3).transpose(0, 1)[:1].transpose(0, 1)
    last = torch.randn(1, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    for tensor in (part, part.transpose(0, 1), last, torch.randn(4, 5)[:, ::2], torch.randn(5).expand(3, 5)):
        (copy,) = _Record(torch.abs, (tensor,), None, None).static
        assert torch.equal(copy, tensor) and copy.data_ptr() != tensor.data_ptr()
        gaps = not tensor.is_contiguous() and tensor is not last
        assert copy.is_contiguous() if gaps else copy.stride() == tensor.stride()
