"""The pipeline is loaded once, in the background, so that the page is up before the models are."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gap3d_app.errors import Gap3DError

if TYPE_CHECKING:
    from gap3d_app.pipeline import Gap3DPipeline

logger = logging.getLogger(__name__)


class Loader:
    """Calls `load` once in a thread and keeps what it returned.

    A failed load is kept as a sentence; the next `start` tries again, so that weights which were repaired on
    disk work without a restart.
    """

    def __init__(self, load: Callable[[], Gap3DPipeline]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self.pipeline: Gap3DPipeline | None = None
        self.failure: str | None = None

    def start(self) -> None:
        """Begin loading unless it runs or has succeeded."""
        with self._lock:
            if self.pipeline is not None or (self._thread is not None and self._thread.is_alive()):
                return
            self.failure, self._began = None, time.monotonic()
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, name="gap3d-load", daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of loading at most so long; True when it has ended, well or not."""
        return self._ended.wait(seconds)

    @property
    def seconds(self) -> float:
        """How long the present load has been running."""
        return time.monotonic() - self._began

    def _run(self) -> None:
        try:
            self.pipeline = self._load()
        except Gap3DError as error:
            self.failure = str(error)
            logger.error("The model could not be loaded: %s", error)
        except Exception:
            mark = secrets.token_hex(4)
            logger.exception("Loading failed (%s)", mark)
            self.failure = f"The model could not be loaded (error {mark} in the server's log)."
        finally:
            self._ended.set()
