"""The one sampler of all flows: rectified flow from noise (t = 1) to data (t = 0), guided.

States are tensors, sparse tensors, or tuples and dicts of them. The network is any callable
`model(state, t, cond) -> velocity` of the state's form, with t [B] = 1000 times the flow time. Sources:
trellis.md 1.4 and 1.8; gap3d.md 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gap3d_app.sparse.tensor import SparseTensor

State = Any
"""Tensor, SparseTensor, or tuple, list or dict of those."""

Velocity = Callable[[State, Tensor, Any], State]


@dataclass
class SamplerStep:
    """What is known after one step.

    Attributes:
        step: number of finished steps, 1..of.
        of: number of steps.
        t: flow time that `state` belongs to.
        state: the state after the step.
        clean: makes the clean sample predicted from the state before the step.
    """

    step: int
    of: int
    t: float
    state: State
    clean: Callable[[], State]

    @property
    def x_0(self) -> State:
        """The clean sample predicted from the state before the step, computed when it is asked for."""
        return self.clean()


def tree_map(fn: Callable[..., Any], *trees: State) -> State:
    """Apply `fn` to the tensors of equally built states; sparse tensors keep their sites."""
    first = trees[0]
    if isinstance(first, SparseTensor):
        return first.replace(fn(*(tree.feats for tree in trees)))
    if isinstance(first, dict):
        return {key: tree_map(fn, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple | list):
        return built_like(first, [tree_map(fn, *parts) for parts in zip(*trees, strict=True)])
    return fn(*trees)


def built_like(like: State, parts: list[State]) -> State:
    """A tuple, named or not, or a list of other parts."""
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def _leaf(state: State) -> Tensor | SparseTensor:
    while isinstance(state, dict | tuple | list):
        state = next(iter(state.values())) if isinstance(state, dict) else state[0]
    return state


def _repeat(state: State, times: int) -> State:
    """The batch `times` over."""
    if isinstance(state, SparseTensor):
        return state.repeated(times)
    if isinstance(state, dict):
        return {key: _repeat(part, times) for key, part in state.items()}
    if isinstance(state, tuple | list):
        return built_like(state, [_repeat(part, times) for part in state])
    return state.repeat(times, *[1] * (state.ndim - 1))


def schedule(steps: int, rescale_t: float = 1.0) -> np.ndarray:
    """Flow times, float64 [steps + 1]: u = 1 - i/steps and t = r u / (1 + (r - 1) u)."""
    u = np.linspace(1, 0, steps + 1)
    return rescale_t * u / (1 + (rescale_t - 1) * u)


@dataclass(frozen=True)
class FlowSampler:
    """Settings of a sampling run.

    Attributes:
        steps: network steps.
        rescale_t: r >= 1 spends more steps near the noise; 1 for even steps.
        sigma_min: noise left at t = 0.
        cfg_strength: guidance w: v = (1 + w) v_cond - w v_uncond; 0 for none. The other common convention,
            scale s with v = v_uncond + s (v_cond - v_uncond), is w = s - 1; see `with_scale`.
        cfg_interval: guidance acts where lo <= t <= hi, tested on the rescaled time, ends included.
        solver: "euler", or "ab2" (Adams-Bashforth of second order at no extra cost). The velocity jumps where
            guidance begins or ends: the line is drawn through what both steps predicted, which is the conditional
            prediction where guidance has just ended; where it begins, and at first, a step is Euler's.
        batch_guidance: conditional and unconditional prediction in one call with a doubled batch; a network that
            prepares (see `run`) decides that itself.
        integer_timesteps: 1000 t is cut to an integer before the network sees it (grid DiT).
        multi_cond: several conditions for one sample: None, "stochastic" (step i uses condition i mod n) or
            "multidiffusion" (mean of the predictions for all).
    """

    steps: int = 25
    rescale_t: float = 1.0
    sigma_min: float = 1e-5
    cfg_strength: float = 0.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    solver: str = "euler"
    batch_guidance: bool = False
    integer_timesteps: bool = False
    multi_cond: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.solver not in ("euler", "ab2"):
            raise ValueError(f"solver {self.solver!r} is neither 'euler' nor 'ab2'")
        if self.multi_cond not in (None, "stochastic", "multidiffusion"):
            raise ValueError(f"multi_cond {self.multi_cond!r} is neither 'stochastic' nor 'multidiffusion'")

    @classmethod
    def with_scale(cls, scale: float, **settings: Any) -> FlowSampler:
        """A sampler with the guidance given as scale s = 1 + w."""
        return cls(cfg_strength=scale - 1.0, **settings)

    @property
    def times(self) -> np.ndarray:
        """Flow times, float64 [steps + 1], from 1 to 0."""
        return schedule(self.steps, self.rescale_t)

    def guided(self, t: float) -> bool:
        """Whether the step that starts at t uses the unconditional prediction."""
        return self.cfg_strength != 0 and self.cfg_interval[0] <= t <= self.cfg_interval[1]

    def sample(self, model: Velocity, noise: State, cond: Any, uncond: Any = None) -> State:
        """The clean sample: `run` to its end."""
        state = noise
        for event in self.run(model, noise, cond, uncond):
            state = event.state
        return state

    @torch.no_grad()
    def run(self, model: Velocity, noise: State, cond: Any, uncond: Any = None) -> Iterator[SamplerStep]:
        """Yield after every step; stop iterating to cancel.

        Args:
            model: (state, t [B], cond) -> velocity. If it has the methods `prepare(conditions, times)` and
                `velocities(state, prepared)`, everything that the state does not change is computed before the
                first step: `prepare` gets all conditions and the network times [steps, 1] and gives, for every
                step, one value per condition; `velocities` turns some values of one step into as many velocities.
            noise: state at t = 1, batch B.
            cond: condition [B or 1, ...]; a batch of one serves all samples. With `multi_cond`: [n, ...] for
                a batch of one, one entry per condition.
            uncond: the same for the unconditional prediction; not needed when guidance is off.
        """
        times, state, last = self.times, noise, None
        batch = _leaf(noise).shape[0]
        conds = [_expand(part, batch) for part in (_rows(cond) if self.multi_cond else [cond])]
        uncond = _expand(uncond, batch)
        plan = None
        if hasattr(model, "prepare") and hasattr(model, "velocities"):
            known = [*conds, uncond] if any(map(self.guided, times[:-1])) else conds
            values = [[self._network_value(float(t))] for t in times[:-1]]
            plan = model.prepare(known, torch.tensor(values, dtype=torch.float32, device=_leaf(noise).device))
        for i in range(self.steps):
            t, t_next = float(times[i]), float(times[i + 1])
            if plan is None:
                predictions = self._predictions(model, state, t, i, conds, uncond)
            else:
                predictions = self._prepared_predictions(model, state, t, i, plan[i], len(conds))
            velocity = self._guide(predictions)
            clean = partial(tree_map, partial(self._clean, t=t), state, velocity)
            slope = velocity
            if self.solver == "ab2" and last is not None and len(last[0]) >= len(predictions):
                # Line through this velocity and the same one a step earlier, integrated over the step.
                before, ratio = self._guide(last[0][: len(predictions)]), (t - t_next) / (2 * last[1])
                slope = tree_map(lambda v, w, r=ratio: torch.lerp(w.to(v), v, 1 + r), velocity, before)
            state = tree_map(lambda x, v, h=t - t_next: torch.sub(x, v, alpha=h), state, slope)
            last = (predictions, t - t_next)
            yield SamplerStep(i + 1, self.steps, t_next, state, clean)

    def _clean(self, x: Tensor, v: Tensor, t: float) -> Tensor:
        sigma = self.sigma_min
        return (1 - sigma) * x - (sigma + (1 - sigma) * t) * v

    def _guide(self, predictions: list[State]) -> State:
        """The velocity out of [conditional] or [conditional, unconditional]."""
        w = self.cfg_strength
        return tree_map(lambda c, u: torch.lerp(u, c, 1 + w), *predictions) if len(predictions) > 1 else predictions[0]

    def _predictions(
        self, model: Velocity, state: State, t: float, step: int, conds: list[Any], uncond: Any
    ) -> list[State]:
        """[conditional] or [conditional, unconditional]."""
        guided = self.guided(t)
        if self.multi_cond == "stochastic":
            conds = [conds[step % len(conds)]]
        if guided and self.multi_cond is None and self.batch_guidance:
            both = self._call(model, _repeat(state, 2), t, _concat(conds[0], uncond))
            return [_half(both, state, k) for k in range(2)]
        parts = [self._call(model, state, t, part) for part in conds]
        return [_mean(parts), self._call(model, state, t, uncond)] if guided else [_mean(parts)]

    def _prepared_predictions(
        self, model: Velocity, state: State, t: float, step: int, prepared: list[Any], count: int
    ) -> list[State]:
        """The same from what the model prepared for this step: `count` conditions, then the unconditional one."""
        wanted = [step % count] if self.multi_cond == "stochastic" else list(range(count))
        guided = [count] if self.guided(t) else []
        velocities = model.velocities(state, [prepared[k] for k in (*wanted, *guided)])
        return [_mean(velocities[: len(wanted)]), *velocities[len(wanted) :]]

    def _call(self, model: Velocity, state: State, t: float, cond: Any) -> State:
        return model(state, self._network_time(state, t), cond)

    def _network_time(self, state: State, t: float) -> Tensor:
        leaf = _leaf(state)
        return torch.full((leaf.shape[0],), self._network_value(t), dtype=torch.float32, device=leaf.device)

    def _network_value(self, t: float) -> float:
        # Cut in float32, as the released sampler does: 1000 * 0.58 must give 580, not 579.
        return float(int(np.float32(t) * np.float32(1000))) if self.integer_timesteps else 1000 * t


def _mean(states: list[State]) -> State:
    return tree_map(lambda *parts: sum(parts) / len(parts), *states) if len(states) > 1 else states[0]


def _half(doubled: State, like: State, k: int) -> State:
    """The first or second half of a doubled batch; sites are those of `like`."""
    if isinstance(doubled, SparseTensor):
        return like.replace(doubled.feats.chunk(2)[k])
    if isinstance(doubled, dict):
        return {key: _half(doubled[key], like[key], k) for key in doubled}
    if isinstance(doubled, tuple | list):
        return built_like(doubled, [_half(a, b, k) for a, b in zip(doubled, like, strict=True)])
    return doubled.chunk(2)[k]


def _rows(cond: Any) -> list[Any]:
    """The conditions [n, ...] of one sample as n batches of one."""
    return [tree_map(lambda c, k=k: c[k : k + 1], cond) for k in range(_leaf(cond).shape[0])]


def _expand(cond: Any, batch: int) -> Any:
    """A condition of batch one for a batch of several."""
    if cond is None:
        return None

    def expand(c: Tensor) -> Tensor:
        return c.expand(batch, *c.shape[1:]) if c.shape[0] == 1 and batch > 1 else c

    return tree_map(expand, cond)


def _concat(cond: Any, uncond: Any) -> Any:
    return tree_map(lambda c, u: torch.cat([c, u]), cond, uncond)
