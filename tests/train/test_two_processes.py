"""Data parallelism: two processes on a CPU see different samples and keep the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="gloo of torch's wheels for Windows has no libuv store")
def test_two_processes(tmp_path):
    """By torchrun: `accelerate launch --cpu --num_processes 2` starts one process without a word."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "-m", "tests.train.toy_run", str(tmp_path)], cwd=REPO, env=environment,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["processes"] == second["processes"] == 2
    assert not set(first["seen"]) & set(second["seen"])
    assert first["weights"] == second["weights"]
    assert (tmp_path / "model" / "saved_by").read_text() == "0"
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
