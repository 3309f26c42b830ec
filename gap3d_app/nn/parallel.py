"""Independent branches of one prediction, side by side on the processor's cores; preparations beside a CUDA queue.

The two predictions of a guided step do not wait for each other. Two cores that share every product of one branch
after the other meet hundreds of times a step, and each meeting costs a wake-up; a core for each branch meets once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

import torch

Result = TypeVar("Result")


def side_by_side(device: torch.device) -> bool:
    """Whether branches on `device` run at the same time: on a processor with several threads, without gradients.

    Gradients and autocast belong to a thread; branches that need them run in the caller's, one after the other.
    """
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and device.type == "cpu" and torch.get_num_threads() > 1


def run_branches(branches: list[Callable[[], Result]], device: torch.device) -> list[Result]:
    """The results of all branches, in their order; `side_by_side` says whether they run at the same time.

    Args:
        branches: functions that work on `device` and change nothing that another one reads.
    """
    if len(branches) < 2 or not side_by_side(device):
        return [branch() for branch in branches]
    inference = torch.is_inference_mode_enabled()

    def alone(branch: Callable[[], Result]) -> Result:
        with torch.inference_mode() if inference else torch.no_grad():
            return branch()

    pool = _pool(torch.get_num_threads(), len(branches))
    futures = [pool.submit(alone, branch) for branch in branches]
    wait(futures)  # all of them, after an error too: nobody may still work on the caller's tensors
    return [future.result() for future in futures]


class Beside:
    """Preparations that run on CUDA beside what is queued meanwhile; on other devices a context without effect.

        beside = Beside(device)  # what is queued up to here is ready for the preparations
        y = long_work(x)         # returns when it is queued
        with beside:
            maps = prepare(x)    # may wait for results of its own without waiting for `long_work`
        use(y, maps)
    """

    def __init__(self, device: torch.device) -> None:
        self.main = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.ready = None if self.main is None else self.main.record_event()

    def __enter__(self) -> None:
        if self.main is not None:
            self.side = _side_stream(self.main.device_index)
            # Memory that was freed here before was last used by work that is queued already, so this covers it too.
            self.side.wait_event(self.ready)
            self.context = torch.cuda.stream(self.side)
            self.context.__enter__()

    def __exit__(self, *error: object) -> None:
        if self.main is not None:
            self.context.__exit__(*error)
            self.main.wait_stream(self.side)


@lru_cache(maxsize=8)
def _side_stream(device: int) -> torch.cuda.Stream:
    """One, because libraries keep memory for every stream that they see."""
    return torch.cuda.Stream(device)


@lru_cache(maxsize=4)
def _pool(threads: int, count: int) -> ThreadPoolExecutor:
    """`count` lasting workers that share `threads` OpenMP threads between them."""
    pool, together = ThreadPoolExecutor(count, thread_name_prefix="branch"), threading.Barrier(count)

    def start(_: int) -> None:
        torch.get_num_threads()  # takes over the common number, which would otherwise happen later
        torch.set_num_threads(max(1, threads // count))
        together.wait()  # so that no worker takes the start of another

    try:
        list(pool.map(start, range(count)))
    except BaseException:  # Ctrl-C before all have begun: a worker that still waits would keep Python from ending
        together.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        # torch's setting belongs to a thread, and is also what threads begin with that come later: put that right.
        torch.set_num_threads(threads)
    return pool
