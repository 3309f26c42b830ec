"""From a prompt to an asset: six rooms in a straight line, one event for every finished step.

    prompt -> grid -> structure -> slat -> decode -> mesh -> asset

`Gap3DPipeline.stages` is a generator; the page, the command line and `__call__` all run it and read its
events.
Sources: gap3d.md sections 1, 5 and 6; trellis.md section 1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gap3d_app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from gap3d_app.asset import Asset
    from gap3d_app.prompt import CutOut

STAGES = ("prompt", "grid", "structure", "slat", "decode", "mesh", "asset")
"""Names of the stages in the order in which they run."""


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


class Gap3DPipeline:
    """The models of one weights folder and the way through them.

    Attributes:
        presets: sampler values per preset name, for `Settings.validated(pipe.presets, ...)`.
        weights_hash: sha256 (hex) of the weights' manifest, which names every file's sha256.
        device: where the models are.
        dtype: floating-point type of the networks.
    """

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = "gap3d-mini", device: str = "auto", dtype: Any = "auto"
    ) -> Gap3DPipeline:
        """Check and load a weights folder.

        Args:
            name_or_dir: "gap3d-mini" (the folder that comes with the repository) or a path.
            device: "auto" (CUDA when there is one), or any torch device.
            dtype: "auto" (bfloat16 where the hardware multiplies it fast, else float32), or a torch dtype.

        Raises:
            WeightsError: a file is missing, truncated or altered; the message names it with both sha256.
        """

    def settings(self, **raw: Any) -> Settings:
        """`Settings.validated` with this pipeline's presets."""

    def stages(
        self,
        prompt: str | None = None,
        image: str | Path | bytes | Image | CutOut | None = None,
        settings: Settings | None = None,
        cancel: threading.Event | Callable[[], bool] | None = None,
    ) -> Iterator[StageEvent]:
        """Run a prompt and yield an event after every step.

        One run at a time uses the models of a process: a second caller waits for the first before its first
        event. Closing the generator (or leaving a for loop over it) ends the run and frees the models.

        Args:
            prompt: what to make, in words; empty or None with an image means the image alone.
            image: a picture (path, encoded bytes, PIL image), or a CutOut that was shown before.
            settings: from `settings(...)`; None means the standard preset with seed 0.
            cancel: an event, or a function that returns True, to stop the run; asked after every step.

        Raises:
            InputError: nothing to work from, a prompt too long, a picture that cannot be used.
            GenerationError: the structure came out empty for three seeds in a row.
            Cancelled: `cancel` said so.
        """

    def __call__(
        self, prompt: str | None = None, image: Any = None, settings: Settings | None = None, **raw: Any
    ) -> Asset:
        """Run all stages; `pipe(prompt="a red chair", seed=3, preset="fast")`.

        Args:
            prompt, image, settings: as for `stages`.
            **raw: single settings by name, checked; not together with settings.
        """
