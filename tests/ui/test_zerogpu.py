"""A Space whose graphics card is lent by the call: a stand-in for its package forks and pickles."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image, ImageDraw

from gap3d_app import pipeline as pipelines
from gap3d_app.errors import GenerationError
from gap3d_app.modes import LOW_VRAM
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.prompt import Prompt
from gap3d_app.ui import gpu
from gap3d_app.ui.workdir import WorkDir
from tests.ui.serving import wait_until
from tests.ui.stand_in import spaces

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a Space runs Linux, which can fork")


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """Where the stand-in writes; the card is lent by it."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("STAND_IN_LOG", str(path))
    monkeypatch.setattr(gpu, "_shared", spaces.GPU(duration=gpu.asked_seconds)(gpu.work))
    monkeypatch.setattr(gpu, "_held", {})
    return path


@pytest.fixture
def pipe(tiny_weights) -> Gap3DPipeline:
    return Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32", memory=LOW_VRAM).preload()


def task(pipe: Gap3DPipeline, prompt: Prompt, seconds: float = 2.0, **settings) -> gpu.Task:
    return gpu.Task("tiny", prompt, pipe.settings(prompt, preset="fast", **settings), seconds, tiles=True)


def calls(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_run_in_another_process_is_the_same(pipe, log):
    picture = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(picture).ellipse((10, 20, 50, 60), fill=(220, 40, 40, 255))
    given = task(pipe, Prompt.read("make it blue", picture))
    torch.randn(200, 200) @ torch.randn(200, 200)  # threads that the other process will not have
    steps = list(gpu.run(given, pipe, lambda key: pytest.fail("it was loaded again")))
    asset = steps[-1].asset
    expected = pipe(given.prompt, settings=given.settings)
    assert torch.allclose(asset.mesh.vertices, expected.mesh.vertices, atol=1e-3)
    assert asset.recipe == expected.recipe and asset.slat is None and len(asset.gaussians) == len(expected.gaussians)
    assert {step.tile[0] for step in steps if step.tile} == {"grid", "structure", "surface"}
    assert [step.stage for step in steps if step.done] == list(pipelines.STAGES)
    (call,) = calls(log)
    assert call["child"] != call["parent"] == os.getpid() and call["seconds"] == math.ceil(1.5 * 2) + 5
    assert not gpu._held and pipe.memory.present == [] and not pipelines._MODEL_LOCK.locked()


def test_a_sentence_comes_through_and_the_next_run_works(pipe, log, monkeypatch):
    from gap3d_app.models.structure_vae import SparseStructureDecoder

    decode = SparseStructureDecoder.forward
    with monkeypatch.context() as patched:
        patched.setattr(SparseStructureDecoder, "forward", lambda self, x: decode(self, x) - 1e6)
        with pytest.raises(GenerationError, match="empty for 3 seeds, 7 and the next; try another seed"):
            list(gpu.run(task(pipe, Prompt.read("a chair"), seed=7), pipe, None))
    assert list(gpu.run(task(pipe, Prompt.read("a chair")), pipe, None))[-1].packed


def test_leaving_a_run_ends_its_process(pipe, log):
    run = gpu.run(task(pipe, Prompt.read("a chair")), pipe, None)
    next(run)
    run.close()
    (call,) = calls(log)
    with pytest.raises(ProcessLookupError):
        os.kill(call["child"], 0)


def test_a_lock_that_another_thread_holds_is_free_in_the_other_process(pipe, log):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with pipelines._MODEL_LOCK:
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    try:
        assert list(gpu.run(task(pipe, Prompt.read("a chair")), pipe, None))[-1].packed
    finally:
        leave.set()
        thread.join()


def test_a_process_without_the_model_loads_it(pipe, log, monkeypatch):
    monkeypatch.setattr(gpu, "_load", lambda key: pipe if key == "tiny" else None)
    assert list(gpu.work(task(pipe, Prompt.read("a chair"))))[-1].packed and list(gpu._held) == ["tiny"]


def test_the_time_asked_for_follows_the_estimate_up_to_a_limit(pipe):
    prompt = Prompt.read("a chair")
    assert [gpu.asked_seconds(task(pipe, prompt, s)) for s in (0.0, 10.0, 10.1, 500.0)] == [5, 20, 21, 120]


def test_a_forked_process_leaves_the_work_folder(log):
    work = WorkDir()
    child = os.fork()
    if child == 0:
        work.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert work.root.is_dir()
    work.close()
    assert not work.root.exists()


def test_without_the_package_nothing_is_lent():
    assert gpu.spaces is None and gpu._shared is gpu.work and not gpu.lent()
    assert gpu.place() == ("auto", "auto") and gpu.place(low_vram=True) == ("auto", LOW_VRAM)


def test_the_folder_of_a_space_with_a_lent_card(tiny_weights, tmp_path):
    """The whole page in a process of its own: words, a picture, a refusal, and a cancelled run."""
    space = tmp_path / "space"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("gap3d_app", "examples"):
        shutil.copytree(REPO / name, space / name, ignore=ignore)
    shutil.copy(REPO / "app.py", space)
    shutil.copytree(tiny_weights, space / "weights" / "gap3d-mini")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "calls.jsonl"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GRADIO_", "HF_"))}
    environment |= {
        "SPACE_ID": "somebody/gap3d", "SPACES_ZERO_GPU": "true", "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(Path(spaces.__file__).parent), "STAND_IN_LOG": str(log),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        for line in process.stdout:
            if str(port).encode() in line:
                break
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(address).status_code == 200)
        html = json.dumps(httpx.get(f"{address}/config").json())
        assert "the shared graphics card is asked for" in html
        client = Client(address, download_files=tmp_path, verbose=False, analytics_enabled=False)
        glb, recipe = client.predict(prompt="a mug", preset="fast", api_name="/generate")
        assert Path(glb).read_bytes()[:4] == b"glTF" and recipe["prompt"] == "a mug"
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).ellipse((20, 20, 70, 70), fill="red")
        picture.save(tmp_path / "in.png")
        _, recipe = client.predict(image=handle_file(tmp_path / "in.png"), preset="fast", api_name="/generate")
        assert recipe["image"]["background"] == "border"
        with pytest.raises(Exception, match="limit is 2,000"):
            client.predict(prompt="x" * 2001, api_name="/generate")
        seen = calls(log)
        assert len(seen) == 2 and {call["parent"] for call in seen} == {process.pid}
        assert len({call["child"] for call in seen}) == 2 and all(5 < call["seconds"] <= 120 for call in seen)
        job = client.submit(prompt="a mug", structure_steps=100, slat_steps=100, api_name="/generate")
        wait_until(lambda: job.status().code.name == "ITERATING" or job.status().code.name == "PROCESSING")
        job.cancel()
        assert client.predict(prompt="a mug", preset="fast", api_name="/generate")
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(timeout=30)
