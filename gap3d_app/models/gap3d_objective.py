"""GAP3D's training objective: noising, condition dropout and the three-part flow-matching loss.

One time per sample, shared by class, registers and patches; independent noise for each part; velocity targets
(spec gap3d.md 4.2 to 4.4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gap3d_app.models.token_grid import GridState

TRAIN_STEPS = 1000


class Draws(NamedTuple):
    """Everything random in one training step.

    noise: `GridState` of standard normals; u ``[B]`` float32 in [0, 1); dropped ``[B]`` float32, 1 where the
    condition is replaced by zeros.
    """

    noise: GridState
    u: Tensor
    dropped: Tensor


class Noised(NamedTuple):
    """What the network gets and should answer: state, its time ``[B]`` (0..1000), velocity noise - x."""

    state: GridState
    timestep: Tensor
    velocity: GridState


def train_schedule(device=None) -> tuple[Tensor, Tensor]:
    """All training times and sigmas ``[1000]`` float32, descending from 1000 and 1 (shift 1)."""
    sigma = torch.arange(TRAIN_STEPS, 0, -1, dtype=torch.float32, device=device) / TRAIN_STEPS
    return sigma * TRAIN_STEPS, sigma


def time_index(u: Tensor) -> Tensor:
    """Index floor(1000 u) into `train_schedule` of uniforms ``[B]`` in [0, 1)."""
    return (u * TRAIN_STEPS).long().clamp_(0, TRAIN_STEPS - 1)


@dataclass
class GridObjective:
    """Weights and probabilities of the objective.

    sample_time: 'uniform' (the release) or 'logit_normal' (u = sigmoid of a normal: more middle times).
    """

    patch_weight: float = 0.4
    cls_weight: float = 0.3
    reg_weight: float = 0.3
    drop_probability: float = 0.1
    sample_time: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        if self.sample_time not in ("uniform", "logit_normal"):
            raise ValueError(f"sample_time is 'uniform' or 'logit_normal', not {self.sample_time!r}")

    def draw(self, target: GridState, generator: torch.Generator | None = None) -> Draws:
        """Random numbers of a batch in the release's order: patch noise, u, class, register noise, drops."""
        device, batch = target.patch.device, target.patch.shape[0]

        def normal_like(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype)

        patch = normal_like(target.patch)
        if self.sample_time == "uniform":
            u = torch.rand(batch, generator=generator, device=device)
        else:
            normal = torch.randn(batch, generator=generator, device=device)
            u = torch.sigmoid(self.logit_mean + self.logit_std * normal)
        noise = GridState(patch, normal_like(target.cls), normal_like(target.reg))
        dropped = (torch.rand(batch, generator=generator, device=device) < self.drop_probability).float()
        return Draws(noise, u, dropped)

    def noised(self, target: GridState, noise: GridState, u: Tensor) -> Noised:
        """State at time index floor(1000 u): (1 - sigma) x + sigma noise, in the target's dtype."""
        index = time_index(u)
        timesteps, sigmas = train_schedule(u.device)
        sigma = sigmas[index].to(target.patch.dtype)

        def mix(x: Tensor, e: Tensor) -> Tensor:
            s = sigma.view(-1, *[1] * (x.ndim - 1))
            return (1 - s) * x + s * e

        state = GridState(*map(mix, target, noise))
        velocity = GridState(*(e - x for x, e in zip(target, noise, strict=True)))
        return Noised(state, timesteps[index], velocity)

    def drop(self, cond: Tensor, dropped: Tensor) -> Tensor:
        """Condition ``[B, L, D]`` with whole samples set to zero where dropped is 1."""
        return cond * (1 - dropped.to(cond.dtype)).view(-1, 1, 1)

    def loss(
        self, prediction: GridState, velocity: GridState, stress: GridState | None = None
    ) -> dict[str, Tensor]:
        """Scalar float32 losses 'patch', 'cls', 'reg' (mean squares) and their weighted sum 'loss'.

        stress: factors of the squares, of shapes that broadcast over the parts; none in the release.
        """
        parts = {}
        for name in GridState._fields:
            square = (getattr(prediction, name).float() - getattr(velocity, name).float()).square()
            parts[name] = (square if stress is None else square * getattr(stress, name)).mean()
        weights = {"patch": self.patch_weight, "cls": self.cls_weight, "reg": self.reg_weight}
        return {"loss": sum(weights[name] * part for name, part in parts.items()), **parts}

    def __call__(
        self,
        dit: Callable,
        target: GridState,
        cond: Tensor,
        draws: Draws | None = None,
        cond_mask: Tensor | None = None,
        stress: GridState | None = None,
    ) -> dict[str, Tensor]:
        """Losses of `dit` (a `GridDiT`) on one batch of targets and conditions ``[B, L, D]``; see `loss`."""
        draws = draws or self.draw(target)
        noised = self.noised(target, draws.noise, draws.u)
        cond = self.drop(cond, draws.dropped)
        prediction = dit(*noised.state, cond, noised.timestep, cond_mask=cond_mask)
        return self.loss(GridState(*prediction), noised.velocity, stress)
