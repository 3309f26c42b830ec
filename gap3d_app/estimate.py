"""How long a run will take here: a guess from the sizes of the networks, then what runs have taken.

The page shows it before the click, and a graphics card that is lent by the second is asked for by it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from gap3d_app.settings import Settings

STEPPED = {"grid": "grid_dit", "structure": "structure_flow", "slat": "slat_flow"}
"""Stages that take steps, and the role of the network that takes them."""

PER_GB = {"cuda": {"grid": 0.03, "structure": 0.04, "slat": 0.1}, "cpu": {"grid": 8.0, "structure": 9.0, "slat": 8.0}}
"""Seconds of a guided step per GB of its network; on the CPU of two cores, with gap3d-mini's few tokens."""

SHORTEST_STEP = {"cuda": 0.02, "cpu": 0.0}
FULL_SIZE_BYTES = 300_000_000
FULL_SIZE_FACTOR = 8  # tokens of a full-size run over those of gap3d-mini
ONCE = {"cuda": {"prompt": 0.2, "decode": 0.3, "mesh": 0.5, "files": 5.0},
        "cpu": {"prompt": 0.4, "decode": 0.5, "mesh": 0.3, "files": 0.6}}  # fmt: skip
COPY_RATE = 3e9  # bytes a second from the host's memory to a graphics card
NEWER = 0.5  # weight of the latest run in what is remembered


class Estimate:
    """What runs of one set of weights cost on one kind of device.

    Args:
        device: "cuda" or "cpu".
        sizes: bytes of the networks by role.
        copied: whether the networks are copied to the device in every run (low-vram mode).
    """

    def __init__(self, device: str, sizes: Mapping[str, int], copied: bool = False) -> None:
        self.device, self.sizes, self.copied = device, dict(sizes), copied
        self._seen: dict[tuple[str, str], float] = {}

    def seconds(
        self, settings: Settings, words: bool = True, shape: bool = False, route: str = ""
    ) -> dict[str, float]:
        """Seconds by stage, "files" for texture and writing included.

        Args:
            settings: of the run.
            words: whether the prompt has words.
            shape: whether the shape is given, so that no structure is sampled.
            route: which flows it takes, see `stages.Run`.
        """
        steps = self._steps(settings, words, shape, route)
        found = {stage: count * self._per_step(stage, route) for stage, count in steps.items()}
        found |= {stage: self._seen.get((stage, route), self._guess_once(stage)) for stage in ONCE[self.device]}
        return found

    def learn(
        self, settings: Settings, seconds: Mapping[str, float], words: bool = True, shape: bool = False, route: str = ""
    ) -> None:
        """Remember what a finished run took, by stage."""
        steps = self._steps(settings, words, shape, route)
        for stage, taken in seconds.items():
            if stage in ONCE[self.device] or steps.get(stage):
                value, key = taken / steps.get(stage, 1), (stage, route)
                self._seen[key] = value + (1 - NEWER) * (self._seen.get(key, value) - value)

    def _steps(self, settings: Settings, words: bool, shape: bool, route: str) -> dict[str, int]:
        return {
            "grid": settings.grid_steps if words and not route and "grid_dit" in self.sizes else 0,
            "structure": 0 if shape else settings.structure_steps,
            "slat": settings.slat_steps,
        }

    def _per_step(self, stage: str, route: str) -> float:
        if (stage, route) in self._seen:
            return self._seen[stage, route]
        size = self.sizes.get(route + STEPPED[stage], 0)
        return max(SHORTEST_STEP[self.device], PER_GB[self.device][stage] * size / 1e9 * self._slowness)

    def _guess_once(self, stage: str) -> float:
        copies = sum(self.sizes.values()) / COPY_RATE if stage == "prompt" and self.copied else 0.0
        return ONCE[self.device][stage] * self._slowness + copies

    @property
    def _slowness(self) -> float:
        """A CPU against one of two cores, on which the numbers were taken, and with what it has to do."""
        if self.device == "cuda":
            return 1.0
        full = max(self.sizes.values(), default=0) > FULL_SIZE_BYTES
        return 2 / cores() * (FULL_SIZE_FACTOR if full else 1)


def cores() -> int:
    """Processor cores that this process may use; a container's are fewer than its machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
