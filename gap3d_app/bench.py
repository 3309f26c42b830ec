"""Time and memory of text to GLB: a cold process, and warm runs in one process."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gap3d_app.errors import GenerationError
from gap3d_app.estimate import cores
from gap3d_app.pipeline import STAGES, Gap3DPipeline

_MEASURE = """
import json, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
seconds = time.perf_counter() - start
try:
    import resource
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, processor = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), used.ru_utime + used.ru_stime
except ImportError:
    peak = processor = None
print(json.dumps({"code": code, "seconds": seconds, "processor_seconds": processor, "peak_bytes": peak}))
"""


def bench(
    pipeline: Gap3DPipeline, prompt: str, given: dict[str, Any], runs: int, weights: str, flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure.

    Args:
        pipeline: loaded weights for the warm runs.
        prompt: what to make.
        given: settings that differ from the preset's.
        runs: warm runs after one that is not counted.
        weights: name or folder for the cold process.
        flags: further ones of the cold process, so that it runs as `pipeline` does.

    Returns:
        cold and warm wall seconds from prompt to GLB file (cold counts the interpreter, imports and loading) and the
        same in processor seconds of all threads, which a busy machine changes less; median seconds per stage of the
        warm runs, peak memory in MB of the cold process, and the machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        cold = _cold(prompt, given, weights, Path(folder) / "cold.glb", ["--device", pipeline.device.type, *flags])
        settings = pipeline.settings(**given, formats=["glb"])
        rows = []
        for number in range(runs + 1):
            start, begun = time.perf_counter(), time.process_time()
            asset = pipeline(prompt, settings=settings)
            before_write = time.perf_counter()
            asset.save(Path(folder) / f"{number}.glb")
            end = time.perf_counter()
            row = {"write": end - before_write, "total": end - start, "processor": time.process_time() - begun}
            rows.append({**asset.seconds, **row})
    stages = {name: statistics.median(row[name] for row in rows[1:]) for name in (*STAGES, "write")}
    return {
        "prompt": prompt,
        "settings": settings.as_dict(),
        "cold_seconds": round(cold["seconds"], 2),
        "warm_seconds": round(statistics.median(row["total"] for row in rows[1:]), 2),
        "cold_processor_seconds": None if cold["processor_seconds"] is None else round(cold["processor_seconds"], 2),
        "warm_processor_seconds": round(statistics.median(row["processor"] for row in rows[1:]), 2),
        "stages_seconds": {name: round(value, 3) for name, value in stages.items()},
        "peak_mb": None if cold["peak_bytes"] is None else round(cold["peak_bytes"] / 2**20),
        "machine": {
            "device": pipeline.device.type,
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "torch": torch.__version__,
        },
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    stages = "".join(f"\n  {name:10} {value:7.2f} s" for name, value in figures["stages_seconds"].items())
    machine = ", ".join(f"{key} {value}" for key, value in figures["machine"].items())
    memory = "not measured here" if figures["peak_mb"] is None else f"{figures['peak_mb']} MB"
    cold = figures["cold_processor_seconds"]
    processor = f"warm {figures['warm_processor_seconds']:.2f} s" + ("" if cold is None else f", cold {cold:.2f} s")
    return (
        f"text to GLB, cold process {figures['cold_seconds']:.2f} s, warm {figures['warm_seconds']:.2f} s{stages}\n"
        f"processor time of all threads, {processor}\n"
        f"peak memory of the cold process {memory}\n{machine}"
    )


def _cold(prompt: str, given: dict[str, Any], weights: str, path: Path, flags: Sequence[str]) -> dict[str, Any]:
    settings = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), str(value))]
    command = [sys.executable, "-m", "gap3d_app", "generate", "-o", str(path), "--quiet", "--weights", weights]
    command += [*flags, *settings, "--", prompt]
    # A process of its own in between, so that its children's peak memory is that of the measured one alone.
    done = subprocess.run([sys.executable, "-c", _MEASURE, *command], capture_output=True, text=True, check=False)
    result = json.loads(done.stdout) if done.returncode == 0 else {"code": done.returncode}
    if result["code"] != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GenerationError(f"The cold process failed: {reason.removeprefix('gap3d: ')}")
    return result
