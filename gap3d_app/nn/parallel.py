"""Independent branches of one prediction, side by side on the processor's cores.

The two predictions of a guided step do not wait for each other. Two cores that share every product of one branch
after the other meet hundreds of times a step, and each meeting costs a wake-up; a core for each branch meets once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    each = max(1, threads // len(branches))

    def alone(branch: Callable[[], Result]) -> Result:
        torch.set_num_threads(each)  # of this thread and those that start later
        with torch.inference_mode() if inference else torch.no_grad():
            return branch()

    waiting = [_pool().submit(alone, branch) for branch in branches[1:]]
    try:
        torch.set_num_threads(each)
        first = branches[0]()
        return [first, *(future.result() for future in waiting)]
    finally:
        for future in waiting:  # after an error too: nobody may still work on the caller's tensors
            future.exception()
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: a new one would build its own team of OpenMP threads."""
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="branch")
