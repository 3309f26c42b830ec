"""What a run says while it goes: its stages, an event for every finished step, and how it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gap3d_app.errors import Cancelled

STAGES = ("prompt", "grid", "structure", "slat", "decode", "mesh", "asset")
"""Names of the stages in the order in which they run."""

Cancel = threading.Event | Callable[[], bool] | None


@dataclass(frozen=True)
class StageEvent:
    """One finished step of one stage.

    Attributes:
        stage: one of STAGES.
        step: finished steps of this stage, 1..of. The event with step == of ends the stage.
        of: steps that this stage has.
        seconds: wall time since the stage began.
        preview: on a stage's last event what the stage made, else None: prompt None, grid TokenGrid,
            structure Occupancy, slat SLat, decode Gaussians (None when formats has no ply), mesh Mesh with
            vertex colours, asset the finished Asset.
    """

    stage: str
    step: int
    of: int
    seconds: float
    preview: Any = None

    @property
    def done(self) -> bool:
        """True for the last event of a stage."""
        return self.step == self.of


def stop_if(cancel: Cancel) -> None:
    """Raise `Cancelled` when `cancel`, an event or a function, says so."""
    if cancel is not None and (cancel.is_set() if isinstance(cancel, threading.Event) else cancel()):
        raise Cancelled("The run was cancelled.")
