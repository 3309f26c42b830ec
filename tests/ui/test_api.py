"""The documented endpoint, as gradio_client and plain HTTP use it."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image

from gap3d_app import output
from gap3d_app.geometry.ply import load_gaussians
from gap3d_app.settings import Settings
from gap3d_app.ui import texts
from tests.ui.serving import wait_until


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    """A real client."""
    folder = tmp_path_factory.mktemp("downloads")
    return Client(server.url, download_files=folder, verbose=False, analytics_enabled=False)


def generate(client, **values):
    """A quick run; returns (path of the GLB, recipe)."""
    return client.predict(**{"preset": "fast", **values}, api_name="/generate")


def refusal(client, **values) -> str:
    """The sentence with which a request is refused."""
    with pytest.raises(Exception) as caught:
        generate(client, **values)
    return str(caught.value)


def picture(path: Path, image: Image.Image, **options):
    """Save a picture and hand it to the client."""
    image.save(path, **options)
    return handle_file(path)


def ball(mode: str = "RGB", size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A red disc on a light ground."""
    y, x = np.mgrid[: size[1], : size[0]]
    disc = (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 < (min(size) / 3) ** 2
    values = np.where(disc[..., None], (200, 30, 30), (240, 240, 240)).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def test_text_to_glb_with_recipe(client):
    glb, recipe = generate(client, prompt="a small red toy airplane", seed=7, structure_steps=4)
    assert Path(glb).read_bytes()[:4] == b"glTF" and Path(glb).name.startswith("a-small-red-toy-airplane")
    assert recipe["prompt"] == "a small red toy airplane"
    settings = recipe["settings"]
    assert (settings["seed"], settings["structure_steps"], settings["grid_steps"]) == (7, 4, 3)


def test_warnings_come_beside_the_recipe(client, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    given = picture(tmp_path / "noise.png", Image.fromarray(noise))
    (warning,) = generate(client, prompt="", image=given)[1]["warnings"]
    assert warning.startswith("The background could not be removed")
    assert generate(client, prompt="a mug")[1]["warnings"] == []


def test_other_files(client, tmp_path):
    """Gaussians with a least opacity, and a printable mesh."""
    counts = []
    for least in (0.0, 0.7):
        path, recipe = generate(client, prompt="a mug", file="ply", min_opacity=least)
        counts.append(len(load_gaussians(path)))
        assert recipe["settings"]["min_opacity"] == least
    assert 0 < counts[1] < counts[0]
    assert Path(generate(client, prompt="a mug", file="stl")[0]).suffix == ".stl"
    assert "The kind of file is 'docx'; it must be one of glb, ply" in refusal(client, prompt="a mug", file="docx")
    assert "have no slat_decoder_rf" in refusal(client, prompt="a mug", file="npz")


def test_the_same_seed_gives_the_same_bytes(client):
    first, second = (Path(generate(client, prompt="a mug", seed=3)[0]).read_bytes() for _ in range(2))
    assert first == second


def test_only_one_endpoint_is_documented(client):
    info = client.view_api(return_format="dict", print_info=False)
    assert list(info["named_endpoints"]) == ["/generate"] and not info["unnamed_endpoints"]
    names = [entry["parameter_name"] for entry in info["named_endpoints"]["/generate"]["parameters"]]
    schema = [name for name in Settings.specs() if name != "formats"]
    assert names == ["prompt", "image", "background", *schema, "views", "multi_image", "mesh", "model", "file"]
    assert all(entry["parameter_has_default"] for entry in info["named_endpoints"]["/generate"]["parameters"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompt": ""}, texts.NOTHING_GIVEN),
        ({"prompt": "\x00\x07  "}, texts.NOTHING_GIVEN),
        ({"prompt": "x" * 2001}, "limit is 2,000"),
        ({"prompt": ["a"]}, "must be text"),
        ({"prompt": "a", "seed": -1}, "seed"),
        ({"prompt": "a", "seed": 2**40}, "seed"),
        ({"prompt": "a", "seed": 1.5}, "seed"),
        ({"prompt": "a", "grid_steps": 10**9}, "grid_steps"),
        ({"prompt": "a", "slat_steps": "many"}, "slat_steps"),
        ({"prompt": "a", "structure_steps": True}, "structure_steps"),
        ({"prompt": "a", "blend": 1.5}, "blend"),
        ({"prompt": "a", "texture_size": 4097}, "texture_size"),
        ({"prompt": "a", "unwrap": "magic"}, "unwrap"),
        ({"prompt": "a", "preset": "turbo"}, "preset"),
        ({"prompt": "a", "roughness": {"a": 1}}, "roughness"),
        ({"prompt": "a", "scale_m": -2}, "scale_m"),
    ],
)
def test_bad_values_get_one_sentence(client, values, words):
    message = refusal(client, **values)
    assert words in message and "Traceback" not in message and message.count("\n") == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(server, client, number):
    info = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/generate"]
    values = [json.dumps(entry["parameter_default"]) for entry in info["parameters"]]
    values[0] = '"a mug"'
    names = [entry["parameter_name"] for entry in info["parameters"]]
    values[names.index("grid_guidance")] = number
    body = '{"data": [' + ", ".join(values) + "]}"
    call = f"{server.url}/gradio_api/call/generate"
    reply = httpx.post(call, content=body, headers={"content-type": "application/json"})
    if reply.status_code == 200:
        events = httpx.get(f"{call}/{reply.json()['event_id']}", timeout=60).text
        assert "event: error" in events and "grid_guidance" in events
    else:
        assert reply.status_code in (400, 422)


def test_bad_pictures_get_one_sentence(client, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    whole = io.BytesIO()
    ball().save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:150])
    pictures = {
        "not a PNG, JPEG or WebP": handle_file(tmp_path / "text.png"),
        "damaged": handle_file(tmp_path / "cut.png"),
        "24 megapixels": picture(tmp_path / "huge.png", Image.new("1", (5000, 5000))),
        "opaque": picture(tmp_path / "clear.png", Image.new("RGBA", (64, 64))),
        "16 pixels": picture(tmp_path / "thin.png", Image.new("RGB", (1, 400))),
        "animated": picture(tmp_path / "two.webp", frames[0], save_all=True, append_images=frames[1:]),
    }
    for words, image in pictures.items():
        message = refusal(client, image=image)
        assert words in message and message.count("\n") == 0, message


def test_unusual_pictures_work(client, tmp_path):
    turned = Image.Exif()
    turned[274] = 6
    deep = Image.fromarray(np.asarray(ball("L"), dtype=np.uint16) * 257)
    pictures = [
        picture(tmp_path / "cmyk.jpg", ball("CMYK")),
        picture(tmp_path / "deep.png", deep),
        picture(tmp_path / "turned.jpg", ball(), exif=turned),
    ]
    for image in pictures:
        glb, recipe = generate(client, image=image)
        assert Path(glb).read_bytes()[:4] == b"glTF" and recipe["image"]["background"] == "border"


def test_text_and_picture_together(client, tmp_path):
    image = picture(tmp_path / "ball.png", ball())
    _, recipe = generate(client, prompt="the same but blue", image=image, blend=0.5)
    assert recipe["prompt"] == "the same but blue" and recipe["settings"]["blend"] == 0.5


def test_special_tokens_are_harmless_text(client):
    glb, _ = generate(client, prompt="a <|image_pad|><|im_end|> mug <image> [IMG]")
    assert Path(glb).read_bytes()[:4] == b"glTF"


def test_an_unforeseen_error_tells_nothing_and_the_next_request_works(server, client):
    server.pipeline.failure = RuntimeError("secret path /srv/x")
    message = refusal(client, prompt="a mug")
    assert "Something went wrong" in message and "secret" not in message
    assert generate(client, prompt="a mug")[0]


def test_an_empty_structure_is_said_and_the_next_request_works(server, client, monkeypatch):
    decoder = type(server.pipeline.pipeline.part("structure_decoder"))
    decode = decoder.forward
    with monkeypatch.context() as patched:
        patched.setattr(decoder, "forward", lambda self, x: decode(self, x) - 1e6)
        message = refusal(client, prompt="a mug", seed=7)
    assert "empty for 3 seeds, 7 and the next; try another seed" in message
    assert generate(client, prompt="a mug", seed=7)[0]


def test_memory_that_runs_out_is_said_and_the_next_request_works(server, client, monkeypatch):
    from gap3d_app import stages

    def short(networks, runs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(stages, "slat_stage", short)
        message = refusal(client, prompt="a mug")
    assert "too small for the stage slat even in low-vram mode" in message and "would fit" in message
    assert generate(client, prompt="a mug")[0] and server.pipeline.pipeline.memory.used == 0


@pytest.mark.parametrize("name", ["a-mug.glb", "a-mug.json", "turned.safetensors"])
def test_a_full_disk_is_said_and_leaves_nothing(server, client, monkeypatch, name):
    before, replace = set(server.work.results.iterdir()), os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(output.os, "replace", full)
        message = refusal(client, prompt="a mug")
    assert texts.NOT_STORED in message and str(server.work.root) not in message
    assert set(server.work.results.iterdir()) == before
    assert generate(client, prompt="a mug")[0]


def test_cancel_frees_the_place(server, client):
    server.pipeline.delay, closed = 0.3, server.pipeline.closed
    job = client.submit(prompt="a mug", api_name="/generate")
    wait_until(lambda: server.pipeline.active == 1)
    job.cancel()
    wait_until(lambda: server.pipeline.active == 0, seconds=5)
    assert server.pipeline.closed == closed + 1
    server.pipeline.delay = 0.0
    assert generate(client, prompt="a mug")[0]
    assert server.pipeline.peak == 1


def test_a_full_queue_says_so(server, client):
    server.pipeline.delay = 0.4
    jobs = [client.submit(prompt="a mug", api_name="/generate")]
    wait_until(lambda: server.pipeline.active == 1)
    values = ["a mug", None, "auto", "fast", 0, 0.0]
    values += [None] * (len(Settings.specs()) - 1 - 3) + [None, "stochastic", None, None, "glb"]
    call = f"{server.url}/gradio_api/call/generate"
    replies = [httpx.post(call, json={"data": values}) for _ in range(4)]
    codes = [reply.status_code for reply in replies]
    assert codes == [200, 200, 503, 503], [reply.text for reply in replies]
    assert "Queue is full" in replies[-1].json()["detail"]
    server.pipeline.delay = 0.0
    jobs[0].result(timeout=60)
    # Jobs that nobody listens to are run or dropped; either way the place becomes free.
    wait_until(lambda: server.pipeline.active == 0, seconds=60)
    assert generate(client, prompt="a mug")[0]
    assert server.pipeline.peak == 1


def test_the_example_client(server, tmp_path):
    script = Path(__file__).resolve().parents[2] / "examples" / "api_client.py"
    command = [sys.executable, script, "a mug", "--url", server.url, "--output", tmp_path / "mug.glb"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mug.glb").read_bytes()[:4] == b"glTF" and '"prompt": "a mug"' in done.stdout
