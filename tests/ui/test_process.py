"""The page as a process: `python -m gap3d_app app` and app.py."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.ui.serving import wait_until

REPO = Path(__file__).resolve().parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", ["module", "script"])
def test_start_and_stop(way, ending, tiny_weights, tmp_path):
    port = _free_port()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, "app.py"]
    if way == "module":
        command = [sys.executable, "-m", "gap3d_app", "app", "--port", str(port), "--weights", str(tiny_weights)]
    process = subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for line in process.stdout:
            if f"http://127.0.0.1:{port}".encode() in line:
                break
        wait_until(lambda: _answers(port))
        assert list(tmp_path.glob("gap3d-*"))
        process.send_signal(ending)  # the model still loads
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
    assert not list(tmp_path.glob("gap3d-*")), "the work folder was left behind"


def test_a_taken_port_is_named(tiny_weights):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "gap3d_app", "app", "--port", str(port), "--weights", str(tiny_weights)]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and str(port) in done.stderr and "Traceback" not in done.stderr
