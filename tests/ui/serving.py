"""The real page on toy weights, at a pace that a test chooses."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.sources.names import Names
from gap3d_app.sources.offers import Offer, offer
from gap3d_app.ui.page import build_page
from gap3d_app.ui.server import launch_page
from gap3d_app.ui.workdir import WorkDir


class PacedPipeline:
    """A pipeline that rests after every step and counts how many runs are at work at once."""

    def __init__(self, pipeline: Gap3DPipeline) -> None:
        self.pipeline = pipeline
        self.delay, self.failure = 0.0, None
        self.active = self.peak = self.finished = self.closed = 0

    def __getattr__(self, name):
        return getattr(self.pipeline, name)

    def stages(self, *args, **kwargs) -> Iterator:
        """The pipeline's events, with a rest (and a prepared failure) after each."""
        events = self.pipeline.stages(*args, **kwargs)
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            for event in events:
                if self.failure is not None:
                    failure, self.failure = self.failure, None
                    raise failure
                time.sleep(self.delay)
                yield event
            self.finished += 1
        except GeneratorExit:
            self.closed += 1
            raise
        finally:
            events.close()
            self.active -= 1


@dataclass
class Server:
    """A running page."""

    url: str
    pipeline: PacedPipeline
    work: WorkDir
    gate: threading.Event


@contextmanager
def serving(weights: Path, *more: Names, max_waiting: int = 16, gated: bool = False) -> Iterator[Server]:
    """Serve the page; with `gated` the model loads only when `gate` is set; `more` weights can be chosen."""
    pipeline = PacedPipeline(Gap3DPipeline.from_pretrained(weights, device="cpu", dtype="float32"))
    offers = [offer(weights), *map(offer, more)]
    gate = threading.Event()
    if not gated:
        gate.set()

    def load(one: Offer) -> PacedPipeline | Gap3DPipeline:
        gate.wait()
        if one is not offers[0]:
            return Gap3DPipeline.from_pretrained(one.names, device="cpu", dtype="float32").preload()
        pipeline.pipeline.preload()
        return pipeline

    work, outer = WorkDir(), os.environ.get("GRADIO_TEMP_DIR")
    page = build_page(offers, load, work, max_waiting=max_waiting)
    url = launch_page(page, block=False)
    try:
        yield Server(url.rstrip("/"), pipeline, work, gate)
    finally:
        gate.set()
        page.close(verbose=False)
        work.close()
        if outer is not None:  # of another page in this process, whose uploads lie there
            os.environ["GRADIO_TEMP_DIR"] = outer


def wait_until(condition, seconds: float = 30.0) -> None:
    """Wait for a condition; fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
