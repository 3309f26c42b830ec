"""Ends of the parts of a long computation, for who records it: a part can begin before the next one is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listening = threading.local()


def part_ends() -> None:
    """Say that what comes next needs nothing of what came before but its tensors."""
    listener = getattr(_listening, "listener", None)
    if listener is not None:
        listener()


@contextmanager
def at_ends(listener: Callable[[], None]) -> Iterator[None]:
    """Have `listener` called at the end of every part of what this thread computes within, but the last."""
    before, _listening.listener = getattr(_listening, "listener", None), listener
    try:
        yield
    finally:
        _listening.listener = before
