"""From noise and condition to a token grid: GAP3D's settings of the one sampler (spec gap3d.md 5.1)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gap3d_app.flow.sampler import FlowSampler, SamplerStep
from gap3d_app.models.grid_dit import GridDiT, GridDiTConfig
from gap3d_app.models.token_grid import GridState, pack_grid


def grid_sampler(steps: int = 30, guidance_scale: float = 3.0, **settings) -> FlowSampler:
    """The released settings: Euler, even steps, guidance v = v0 + s (v1 - v0), integer network times.

    Further `settings` are those of `FlowSampler` (solver, cfg_interval, ...).
    """
    defaults = {"sigma_min": 0.0, "batch_guidance": True, "integer_timesteps": True}
    return FlowSampler.with_scale(guidance_scale, steps=steps, **(defaults | settings))


def draw_grid_noise(
    config: GridDiTConfig,
    generators: Sequence[torch.Generator] | torch.Generator,
    batch: int = 1,
    device: str | torch.device = "cpu",
) -> GridState:
    """Standard normal state in the order patch, class, registers.

    Channels lie side by side in memory, as the network reads and makes them: states of one order take one pass a step.
    One generator draws for `batch` samples at once; a sequence has one generator per sample, so that a sample
    does not depend on its neighbours. Numbers are drawn on the generator's device and then moved.
    """
    if not isinstance(generators, torch.Generator):
        parts = [draw_grid_noise(config, generator, 1, device) for generator in generators]
        return GridState(*map(torch.cat, zip(*parts, strict=True)))
    side, channels = config.input_size, config.in_channels
    shapes = ((channels, side, side), (channels,), (config.num_register_tokens, channels))
    draw = [torch.randn(batch, *s, generator=generators, device=generators.device) for s in shapes]
    patch, *others = (x.to(device) for x in draw)
    return GridState(patch.contiguous(memory_format=torch.channels_last), *others)


def sample_grid(dit: GridDiT, cond: Tensor, noise: GridState, sampler: FlowSampler) -> Iterator[SamplerStep]:
    """Yield after every step; `state` and `x_0` of the events are `GridState`s.

    dit: the network, or a `GraphedFlow` of it; cond ``[B, L, D]`` from the prompt encoder (the unconditional
    branch is zeros of it); noise: `GridState` of batch B. What the state does not change is computed before the
    first step. A network in half precision computes in it; the state stays in the dtype of the noise.
    """
    yield from sampler.run(dit, noise, cond, torch.zeros_like(cond))


def generate_grid(dit: GridDiT, cond: Tensor, noise: GridState, sampler: FlowSampler) -> Tensor:
    """The finished token sequence ``[B, 1 + R + H*W, C]`` of `sample_grid`."""
    state = noise
    for event in sample_grid(dit, cond, noise, sampler):
        state = event.state
    return pack_grid(*state)
