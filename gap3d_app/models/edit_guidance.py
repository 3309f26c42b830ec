"""Guidance of words beside a picture: away from what the picture alone would give.

Guidance against nothing (gap3d.md 5.1) strengthens the picture and the words alike, and beside a picture a small change
("a taller one") is a small part of what both do to the prediction. So while the shape is decided, the prediction is
moved further along its difference to that of the same picture with words that change nothing, as in InstructPix2Pix
(arXiv 2211.09800, section 3.2.1). Other changes, a colour above all, are large by themselves, and what is strengthened
overshoots; so the difference is limited in size first, as in adaptive projected guidance (arXiv 2410.02416, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class EditGuidance:
    """How edits are guided: "edit_guidance" of pipeline.json.

    Attributes:
        strength: how many times the limited difference is added to the conditional prediction.
        limit: root mean square that the difference is scaled down to where it is larger: of patches, class token or
            registers, whichever is the largest. A colour is told by the class token above all.
        interval: flow times of the steps in which this is done, ends included.
        words: an instruction that changes nothing, one of those that the language model was trained with.
    """

    strength: float
    limit: float
    interval: tuple[float, float]
    words: str

    @classmethod
    def of(cls, args: dict[str, Any]) -> EditGuidance | None:
        """That of the weights with these arguments; None where pipeline.json asks for none."""
        return cls(**args["edit_guidance"]) if "edit_guidance" in args else None


class EditGuided:
    """Stands for `dit` in `FlowSampler.run`, for prompts of words and a picture.

    Args:
        dit: the grid transformer, or what stands for it.
        kept: [B, L, D] conditions of the same pictures with `guidance.words`. A row that is the prompt's own
            condition, such as that of a prompt without a picture, is left alone.
        guidance: see there.
    """

    def __init__(self, dit: Any, kept: Tensor, guidance: EditGuidance) -> None:
        self.dit, self.kept, self.guidance = dit, kept, guidance

    def prepare(self, conditions: list[Tensor], times: Tensor) -> list[list[tuple[Any, ...]]]:
        """See `GridDiT.prepare`; the first condition has that of the picture alone beside it where it is needed."""
        first, *others = conditions
        low, high = self.guidance.interval
        steps = []
        for time, step in zip(times[:, 0].tolist(), self.dit.prepare([first, self.kept, *others], times), strict=True):
            prompt = step[:2] if low <= time / 1000 <= high else step[:1]
            steps.append([tuple(prompt), *((other,) for other in step[2:])])
        return steps

    def velocities(self, state: tuple[Tensor, ...], prepared: list[tuple[Any, ...]]) -> list[tuple[Tensor, ...]]:
        """See `GridDiT.velocities`."""
        found = iter(self.dit.velocities(state, [part for parts in prepared for part in parts]))
        each = [[next(found) for _ in parts] for parts in prepared]
        return [velocity if not kept else self._moved(velocity, *kept) for velocity, *kept in each]

    def _moved(self, velocity: tuple[Tensor, ...], kept: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        difference = limited(tuple(v - k for v, k in zip(velocity, kept, strict=True)), self.guidance.limit)
        return tuple(v + self.guidance.strength * d for v, d in zip(velocity, difference, strict=True))


def limited(difference: tuple[Tensor, ...], limit: float) -> tuple[Tensor, ...]:
    """Parts [B, ...] of grids; grids with a part that has a larger root mean square than `limit` are scaled down."""
    sizes = torch.stack([part.flatten(1).square().mean(1).sqrt() for part in difference])
    factor = (limit / sizes.amax(0).clamp(min=torch.finfo(sizes.dtype).tiny)).clamp(max=1)
    return tuple(part * factor.view(-1, *[1] * (part.ndim - 1)) for part in difference)
