"""Time, memory and the matmul rate of one CUDA device."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass
class Measured:
    """One stage in one mode.

    Attributes:
        stage, mode: what was measured.
        ms: least wall milliseconds of the timed runs.
        first_ms: milliseconds of the first run, with compilation, recording and the building of maps.
        tflop: analytic count of what this mode multiplies.
        peak_gib: most memory in use at a time, everything resident included.
        own_gib: the same without what lay there before the run.
        released_ms: the released code on another H200 (performance.md section 5), for orientation.
        error: why it did not run.
    """

    stage: str
    mode: str
    ms: float | None = None
    first_ms: float | None = None
    tflop: float = 0.0
    peak_gib: float | None = None
    own_gib: float | None = None
    released_ms: float | None = None
    error: str | None = None

    def as_dict(self, rate: float) -> dict[str, Any]:
        """Plain values, with the percentage of a matmul rate in TFLOP/s."""
        percent = None if not self.ms else round(100 * self.tflop / (self.ms / 1000) / rate, 1)
        return {**asdict(self), "percent_of_rate": percent}


def measure(
    stage: str,
    mode: str,
    run: Callable[[], Any],
    tflop: float = 0.0,
    runs: int = 3,
    warm: Callable[[], Any] | None = None,
    released_ms: float | None = None,
) -> tuple[Measured, Any]:
    """Time `run` after one warm-up, `warm` or a run of its own; the figures and the last result.

    A failure ends up in `error`, so that one stage does not cost the others' figures.
    """
    found = Measured(stage, mode, tflop=tflop, released_ms=released_ms)
    gc.collect()
    try:
        found.first_ms = round(_timed(warm or run)[0], 2)
        gc.collect()
        gc.freeze()  # what compilation left would be searched for garbage within the runs
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        resident = torch.cuda.memory_allocated()
        times, result = [], None
        for _ in range(runs):
            result = None  # the last result is not part of the next run's memory
            taken, result = _timed(run)
            times.append(taken)
    except Exception as error:  # noqa: BLE001  whatever it is belongs in the report
        torch.cuda.empty_cache()
        found.error = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return found, None
    peak = torch.cuda.max_memory_allocated()
    found.ms, found.peak_gib = round(min(times), 2), round(peak / 2**30, 2)
    found.own_gib = round((peak - resident) / 2**30, 2)
    return found, result


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start), result


def matmul_rate(device: torch.device, size: int = 8192, seconds: float = 1.0) -> float:
    """bfloat16 TFLOP/s of a square product of normal random matrices, sustained for about `seconds`."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    flop, best, until = 2 * size**3, float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        taken, _ = _timed(lambda: [torch.mm(a, b, out=out) for _ in range(10)])
        best = min(best, taken / 10)
    return flop / best / 1e9


def machine() -> dict[str, str]:
    """The device and the versions."""
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }
