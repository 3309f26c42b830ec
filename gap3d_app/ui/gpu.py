"""The part of a run that needs the graphics card, in the form in which a Space with ZeroGPU lends one.

There, `spaces.GPU` runs a function in a forked process that has the card for the seconds that were asked for;
arguments and results are pickled. So the networks stay in the host's memory (low-vram mode) and go to the card inside
of the call only, what comes back is plain values, and errors that a person should read come back as
values. Where `spaces` is not installed, the same function runs in this process.
"""

from __future__ import annotations

try:  # before anything that could start CUDA
    import spaces
except ImportError:
    spaces = None

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gap3d_app.errors import Gap3DError
from gap3d_app.modes import LOW_VRAM
from gap3d_app.ui import keeping, pictures

if TYPE_CHECKING:
    from gap3d_app.asset import Asset
    from gap3d_app.pipeline import Gap3DPipeline, StageEvent
    from gap3d_app.prompt import Prompt
    from gap3d_app.settings import Settings

logger = logging.getLogger(__name__)

MARGIN = 1.5  # a run that takes longer than what was asked for is cut off
START_SECONDS = 5
MOST_SECONDS = 120

_main_process = os.getpid()
_held: dict[str, Gap3DPipeline] = {}  # of the run at work; a forked process finds its copy here
_load: Callable[[str], Gap3DPipeline] | None = None


@dataclass(frozen=True)
class Task:
    """What crosses to the card's process.

    Attributes:
        key: of the weights.
        prompt, settings: of the run.
        seconds: what the estimate says that the networks will take.
        tiles: whether pictures of the stages are wanted.
    """

    key: str
    prompt: Prompt
    settings: Settings
    seconds: float
    tiles: bool = False


@dataclass(frozen=True)
class Step:
    """What comes back after every step.

    Attributes:
        stage, step, of, seconds: as in `StageEvent`.
        tile: name and data: address of a picture of what the stage made, or None.
        packed: on the last step, the asset as plain values.
    """

    stage: str
    step: int
    of: int
    seconds: float
    tile: tuple[str, str] | None = None
    packed: dict[str, Any] | None = None

    @property
    def done(self) -> bool:
        """True for the last step of a stage."""
        return self.step == self.of

    @property
    def asset(self) -> Asset:
        """The finished asset."""
        return keeping.unpacked(self.packed)


def lent() -> bool:
    """Whether this is a Space whose graphics card is lent by the call."""
    return spaces is not None and bool(os.environ.get("SPACES_ZERO_GPU"))


def place(low_vram: bool = False) -> tuple[str, str]:
    """Device and memory mode of the page's pipelines, for `Gap3DPipeline.from_pretrained`."""
    if lent():
        return ("cuda" if torch.cuda.is_available() else "cpu"), LOW_VRAM
    return "auto", LOW_VRAM if low_vram else "auto"


def asked_seconds(task: Task) -> int:
    """For how long a lent card is asked for."""
    return min(MOST_SECONDS, math.ceil(MARGIN * task.seconds) + START_SECONDS)


def work(task: Task) -> Iterator[Step | Gap3DError]:
    """The steps of a run, in whichever process; an error for a person's eyes comes as the last value."""
    if os.getpid() != _main_process:
        torch.set_num_threads(1)  # the threads of the process that was forked are not here
    try:
        with closing(_pipeline(task.key).stages(task.prompt, settings=task.settings)) as events:
            for event in events:
                yield _step(event, task.tiles)
    except Gap3DError as error:
        yield error
    except Exception:
        if os.getpid() != _main_process:  # whatever becomes of it on the way
            logger.exception("A run failed in the process of the graphics card")
        raise


def _pipeline(key: str) -> Gap3DPipeline:
    if key not in _held:  # a process that was forked before another model was chosen
        _held.clear()
        _held[key] = _load(key)
    return _held[key]


def _step(event: StageEvent, tiles: bool) -> Step:
    facts = (event.stage, event.step, event.of, event.seconds)
    if not event.done or event.preview is None:
        return Step(*facts)
    if event.stage == "asset":
        return Step(*facts, packed=keeping.packed(event.preview))
    return Step(*facts, tile=pictures.tile(event.stage, event.preview) if tiles else None)


_shared: Callable[[Task], Any] = spaces.GPU(duration=asked_seconds)(work) if spaces is not None else work


def run(task: Task, pipeline: Gap3DPipeline, load: Callable[[str], Gap3DPipeline]) -> Iterator[Step]:
    """Run a task on the card, which may be another process's; closing it ends the run.

    Args:
        pipeline: the task's, loaded.
        load: makes it again in a process that lacks it.

    Raises:
        Gap3DError: with a sentence for the person.
    """
    global _load
    _load, _held[task.key] = load, pipeline
    try:
        with closing(_shared(task)) as results:
            for result in results:
                if isinstance(result, Gap3DError):
                    raise result
                yield result
    finally:
        _held.clear()  # or a pipeline that is let go would stay
