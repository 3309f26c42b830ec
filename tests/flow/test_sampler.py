"""The sampler: schedule, guided steps, solvers, forms of state."""

import numpy as np
import pytest
import torch

from gap3d_app.flow.sampler import FlowSampler, schedule
from gap3d_app.sparse.tensor import SparseTensor


@pytest.mark.parametrize(
    ("steps", "interval", "first", "last"),
    [
        (25, (0.5, 1.0), 0, 18),
        (12, (0.5, 1.0), 0, 9),
        (50, (0.5, 1.0), 0, 37),
        (25, (0.5, 0.95), 4, 18),
        (12, (0.5, 0.95), 2, 9),
    ],
)
def test_guided_steps(steps: int, interval: tuple[float, float], first: int, last: int) -> None:
    sampler = FlowSampler(steps=steps, rescale_t=3.0, cfg_strength=5.0, cfg_interval=interval)
    guided = [i for i, t in enumerate(sampler.times[:-1]) if sampler.guided(float(t))]
    assert guided == list(range(first, last + 1))


def test_schedule() -> None:
    times = schedule(12, 3.0)
    assert times.dtype == np.float64
    assert np.allclose(times[:3], [1, 0.97058824, 0.9375]) and times[-1] == 0 and times[9] == 0.5


@pytest.mark.parametrize("steps", [30, 50, 100])
def test_integer_times_are_cut_in_float32(steps: int) -> None:
    seen: list[float] = []

    def model(x: torch.Tensor, t: torch.Tensor, c: None) -> torch.Tensor:
        seen.append(t[0].item())
        return torch.zeros_like(x)

    FlowSampler(steps=steps, integer_timesteps=True).sample(model, torch.zeros(1, 1), None)
    assert seen == [float(1000 * (steps - i) // steps) for i in range(steps)]


def straight(target: torch.Tensor):
    """The exact velocity of a flow whose only sample is `target`; t in 1..1000."""

    def model(x, t, c):
        scale = (t / 1000).view(-1, *[1] * (x.ndim - 1))
        return (x - target) / scale

    return model


@pytest.mark.parametrize("solver", ["euler", "ab2"])
def test_a_straight_flow_arrives_at_its_sample(solver: str) -> None:
    target = torch.randn(2, 3)
    out = FlowSampler(steps=4, rescale_t=3.0, solver=solver).sample(straight(target), torch.randn(2, 3), None)
    assert torch.allclose(out, target, atol=1e-5)


def test_the_second_order_solver_is_more_exact() -> None:
    def model(x, t, c):
        return torch.cos(3 * t / 1000)[:, None] + 0.5 * x

    noise = torch.ones(1, 1, dtype=torch.double)
    exact = FlowSampler(steps=4000).sample(model, noise, None)
    errors = {
        solver: (FlowSampler(steps=10, rescale_t=2.0, solver=solver).sample(model, noise, None) - exact).abs()
        for solver in ("euler", "ab2")
    }
    assert errors["ab2"].item() < 0.3 * errors["euler"].item()


@pytest.mark.parametrize("interval", [(0.5, 1.0), (0.3, 0.7)])
def test_no_solver_looks_across_the_ends_of_the_guidance_interval(interval: tuple[float, float]) -> None:
    def model(x, t, c):
        return c.expand_as(x)

    cond, uncond = torch.full((1, 1), 2.0), torch.full((1, 1), 1.0)
    ends = [
        FlowSampler(steps=7, rescale_t=3.0, cfg_strength=2.0, cfg_interval=interval, solver=solver)
        .sample(model, torch.zeros(1, 1), cond, uncond)
        for solver in ("euler", "ab2")
    ]  # fmt: skip
    # Constant on both sides of the jump: every solver that stays on its side is exact.
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("interval", [(0.5, 1.0), (0.0, 0.6)])
def test_the_second_order_goes_on_where_guidance_ends(interval: tuple[float, float]) -> None:
    def model(x, t, c):
        return c * torch.cos(3 * t / 1000)[:, None] + 0 * x

    def settings(solver: str) -> FlowSampler:
        return FlowSampler(steps=12, cfg_strength=2.0, cfg_interval=interval, solver=solver)

    cond, zero = torch.ones(1, 1, dtype=torch.double), torch.zeros(1, 1, dtype=torch.double)
    times = settings("euler").times
    exact = -sum(
        (3 if settings("euler").guided(a) else 1) * (np.sin(3 * a) - np.sin(3 * b)) / 3
        for a, b in zip(times[:-1], times[1:], strict=True)
    )
    euler, ab2 = (abs(settings(s).sample(model, zero, cond, zero).item() - exact) for s in ("euler", "ab2"))
    assert ab2 < (0.3 if interval[1] == 1 else 0.7) * euler  # where guidance begins, one large step is Euler's


def test_both_guidance_conventions_agree() -> None:
    def model(x, t, c):
        return c.expand_as(x)

    cond, uncond = torch.full((1, 1), 2.0), torch.full((1, 1), 1.0)
    out = FlowSampler.with_scale(3.0, steps=5).sample(model, torch.zeros(1, 1), cond, uncond)
    assert torch.allclose(out, torch.full((1, 1), -(1 + 3.0 * (2 - 1))))
    assert FlowSampler.with_scale(3.0) == FlowSampler(cfg_strength=2.0)


def sparse_model(x: SparseTensor, t: torch.Tensor, cond: torch.Tensor) -> SparseTensor:
    rows = x.coords[:, 0].long()
    return x.replace(torch.tanh(x.feats + cond[rows]) + t[rows, None] / 1000)


def test_guidance_in_one_batch_equals_two_passes() -> None:
    coords = torch.tensor([[0, 1, 1, 1], [0, 2, 1, 1], [1, 0, 0, 0]], dtype=torch.int32)
    noise = SparseTensor(torch.randn(3, 2), coords)
    cond, uncond = torch.randn(1, 2), torch.zeros(1, 2)
    outs = [
        FlowSampler(steps=6, cfg_strength=2.0, cfg_interval=(0.3, 1.0), batch_guidance=batched)
        .sample(sparse_model, noise, cond, uncond)
        for batched in (False, True)
    ]  # fmt: skip
    assert torch.allclose(outs[0].feats, outs[1].feats, atol=1e-6)
    assert outs[1].sites is noise.sites


def test_states_of_several_parts() -> None:
    def model(x, t, c):
        return tuple(-part for part in x)

    noise = (torch.ones(2, 3), torch.full((2, 1), 2.0))
    tuple_out = FlowSampler(steps=3, cfg_strength=1.0, batch_guidance=True).sample(
        model, noise, torch.zeros(2, 1), torch.zeros(2, 1)
    )
    assert [part.shape for part in tuple_out] == [(2, 3), (2, 1)]
    assert torch.allclose(tuple_out[1], 2 * tuple_out[0][:, :1])


def test_run_can_be_stopped_after_any_step() -> None:
    calls = []

    def model(x, t, c):
        calls.append(1)
        return x

    run = FlowSampler(steps=10).run(model, torch.ones(1, 1), None)
    event = next(run)
    next(run)
    run.close()
    assert (event.step, event.of, len(calls)) == (1, 10, 2)


def test_bad_settings_are_refused() -> None:
    for settings in ({"steps": 0}, {"solver": "magic"}, {"multi_cond": "all"}):
        with pytest.raises(ValueError):
            FlowSampler(**settings)


class Prepared:
    """A network with conditions prepared beforehand; counts its calls."""

    def __init__(self) -> None:
        self.prepared, self.seen = 0, []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + c) + t[:, None] / 1000

    def prepare(self, conditions: list[torch.Tensor], times: torch.Tensor) -> list[list[tuple]]:
        self.prepared += len(conditions)
        return [[(t, cond) for cond in conditions] for t in times]

    def velocities(self, x: torch.Tensor, prepared: list[tuple]) -> list[torch.Tensor]:
        self.seen.append([c[0, 0].item() for _, c in prepared])
        return [self(x, t, c) for t, c in prepared]


@pytest.mark.parametrize("batch", [1, 2])
def test_several_conditions_by_hand(batch: int) -> None:
    """Stochastic takes one condition after the other, multidiffusion their mean; both once prepared."""
    noise, conds, null = torch.randn(batch, 1), torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(1, 1)
    for mode in ("stochastic", "multidiffusion"):
        sampler = FlowSampler(steps=4, cfg_strength=2.0, cfg_interval=(0.5, 1.0), multi_cond=mode)
        plain, network = Prepared(), Prepared()
        out = sampler.sample(network, noise, conds, null)
        assert torch.equal(out, sampler.sample(plain.__call__, noise, conds, null))
        assert network.prepared == 4
        x = noise
        for i, t in enumerate((1.0, 0.75, 0.5, 0.25)):
            time = torch.full((batch,), 1000 * t)
            views = [conds[i % 3 : i % 3 + 1]] if mode == "stochastic" else list(conds.split(1))
            v = sum(plain(x, time, c) for c in views) / len(views)
            x = x - 0.25 * (3 * v - 2 * plain(x, time, null) if i < 3 else v)
        assert torch.allclose(out, x, atol=1e-6)
        want = [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [1.0]]
        assert network.seen == (want if mode == "stochastic" else 3 * [[1.0, 2.0, 3.0, 0.0]] + [[1.0, 2.0, 3.0]])
