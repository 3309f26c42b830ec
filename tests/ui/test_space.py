"""The page on a Hugging Face Space: its front matter, and the folder of a Space started as a Space starts it."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from gradio_client import Client

from tests.ui.serving import wait_until

REPO = Path(__file__).resolve().parents[2]
KEYS = set(
    "title emoji colorFrom colorTo sdk sdk_version python_version app_file suggested_hardware short_description models "
    "datasets tags thumbnail pinned license fullWidth header base_path hf_oauth hf_oauth_scopes "
    "hf_oauth_expiration_minutes disable_embedding startup_duration_timeout custom_headers preload_from_hub".split()
)
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
# Writes down every address that the process looks up or connects to.
SPY = """
import os, sys
def hook(event, values):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = values[1][0] if event == "socket.connect" and isinstance(values[1], tuple) else values[0]
        if isinstance(host, bytes):
            host = host.decode()
        if isinstance(host, str):
            with open(os.environ["SPY_FILE"], "a") as file:
                file.write(host + "\\n")
sys.addaudithook(hook)
"""


def test_front_matter():
    front = yaml.safe_load((REPO / "README.md").read_text("utf-8").split("---\n")[1])
    assert set(front) <= KEYS
    assert front["sdk"] == "gradio" and front["license"] == "apache-2.0"
    pins = (REPO / "requirements.txt").read_text().split()
    assert f"gradio=={front['sdk_version']}" in pins, "the Space would install another gradio"
    assert (REPO / front["app_file"]).is_file() and front["app_file"] == "app.py"
    # transformers 5 needs Python 3.11, and these are the two that ZeroGPU has.
    assert front["python_version"] == "3.12.12"
    assert {front["colorFrom"], front["colorTo"]} <= COLORS and front["header"] in ("mini", "default")
    assert len(front["short_description"]) <= 60


@pytest.fixture
def folder(tiny_weights, tmp_path) -> Path:
    """What a Space needs of the repository, with toy weights."""
    space = tmp_path / "space"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("gap3d_app", "examples"):
        shutil.copytree(REPO / name, space / name, ignore=ignore)
    for name in ("app.py", "requirements.txt", "README.md"):
        shutil.copy(REPO / name, space)
    shutil.copytree(tiny_weights, space / "weights" / "gap3d-mini")
    return space


@pytest.mark.skipif(sys.platform != "linux", reason="a Space runs Linux")
def test_the_folder_of_a_space_works(folder, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    spied, temporary = tmp_path / "spied.txt", tmp_path / "tmp"
    spied.touch()
    temporary.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GRADIO_", "HF_"))}
    environment |= {
        "SPACE_ID": "somebody/gap3d", "SYSTEM": "spaces", "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary),
        "SPY_FILE": str(spied), "PYTHONPATH": str(tmp_path / "spy"), "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(tmp_path / "home"),
    }
    before = sorted(folder.rglob("*"))
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        for line in process.stdout:
            if str(port).encode() in line:
                break
        # 127.0.0.2 answers only where all addresses are listened on, as a Space's proxy needs it.
        wait_until(lambda: httpx.get(f"http://127.0.0.2:{port}/").status_code == 200)
        client = Client(f"http://127.0.0.1:{port}", download_files=tmp_path, verbose=False, analytics_enabled=False)
        glb, recipe = client.predict(prompt="a mug", preset="fast", api_name="/generate")
        assert Path(glb).read_bytes()[:4] == b"glTF" and recipe["weights"]["name"] == "gap3d-mini"
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert sorted(folder.rglob("*")) == before, "the Space's own folder was written to"
    assert not (tmp_path / "home").exists() and not [path for path in temporary.rglob("*") if path.is_file()]
    hosts = set(spied.read_text().split())
    assert "127.0.0.1" in hosts or "localhost" in hosts, "the spy saw nothing"
    assert hosts <= {"127.0.0.1", "0.0.0.0", "localhost", "::1", "::"}, "a foreign host was asked"
