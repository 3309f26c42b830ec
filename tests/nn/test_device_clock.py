"""Times by the CUDA device's clock."""

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
