"""Times by the CUDA device's clock."""

import time
from functools import partial
from math import inf

import pytest
import torch

from gap3d_app.nn.device_clock import milliseconds


def refuse() -> None:
    raise ValueError("not for these sizes")


def test_what_fails_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    assert milliseconds([refuse, refuse]) == [inf, inf]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_longer_work_takes_longer() -> None:
    """Whatever else fails, and however fast the host is."""
    runs = [lambda cycles=cycles: torch.cuda._sleep(cycles) for cycles in (1 << 17, 1 << 20)]
    short, failed, long = milliseconds([runs[0], refuse, runs[1]])
    assert failed == inf and 4 * short < long < 16 * short


def launched_late(cycles: int, seconds: float) -> None:
    time.sleep(seconds)
    torch.cuda._sleep(cycles)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_the_host_takes_to_launch_does_not_count() -> None:
    """Nor where in the row something stands: the last of many short ones was measured too long."""
    # Several rounds, for other processes may use the device meanwhile.
    times = milliseconds([partial(launched_late, 1 << 16, 1e-4) for _ in range(16)], rounds=8)
    assert max(times) < 1.5 * min(times)
