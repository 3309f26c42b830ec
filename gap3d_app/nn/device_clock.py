"""How long kernels take by the CUDA device's clock, where one of several ways is to be chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

AHEAD = 1 << 21
"""Cycles, about a millisecond, that the device waits before each: launches run ahead, as they do within a network."""


def milliseconds(runs: Sequence[Callable[[], object]], rounds: int = 2, repeats: int = 4) -> list[float]:
    """Least time of a call of each, infinite for what fails: not built for this chip, or not for these sizes.

    They take turns, for a chip that grows warm slows down. Only the current stream is waited for: while another
    thread records, the whole device cannot be.
    """
    best, running = [float("inf")] * len(runs), []
    for index, run in enumerate(runs):
        try:
            run()  # builds plans and loads code
            running.append(index)
        except Exception:  # noqa: BLE001  libraries and compilers have errors of their own
            continue
    for _ in range(rounds):
        marks = []
        for index in running:
            torch.cuda._sleep(AHEAD)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(repeats):
                runs[index]()
            end.record()
            marks.append((index, start, end))
        for index, start, end in marks:
            end.synchronize()
            best[index] = min(best[index], start.elapsed_time(end) / repeats)
    return best
