"""Whole runs with published layouts: what is there works, what is not is named."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gap3d_app.cli import main
from gap3d_app.errors import WeightsError
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.prompt import Prompt
from tests.sources import published

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("empty_hub_cache")
STEPS = dict(grid_steps=2, structure_steps=3, slat_steps=3)


@pytest.fixture
def picture() -> Image.Image:
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 40, 40, 255), (10, 20, 50, 60))
    return image


def test_a_picture_without_gap3d(releases, picture):
    pipe = Gap3DPipeline.from_pretrained([releases["image"], releases["dinov2"]], device="cpu", dtype="float32")
    asset = pipe(image=picture, structure_steps=3, slat_steps=3)
    assert len(asset.mesh.faces) and asset.recipe["weights"]["name"] == "image"
    assert len(asset.recipe["weights"]["manifest_sha256"]) == 64
    assert pipe.settings().structure_guidance == 5.0
    with pytest.raises(WeightsError, match="have no prompt_encoder; it would enable text.*weights pull trellis-text"):
        pipe("a red chair")


def test_without_the_image_encoder(releases, picture):
    pipe = Gap3DPipeline.from_pretrained(releases["image"], device="cpu")
    with pytest.raises(WeightsError, match="have no image_encoder; it would enable image prompts.*pull dinov2"):
        pipe(image=picture)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_words_and_pictures_through_gap3d(releases, picture, dtype):
    several = [releases[name] for name in ("image", "dinov2", "qwen", "gap3d")]
    pipe = Gap3DPipeline.from_pretrained(several, device="cpu", dtype=dtype).preload()
    assert pipe.settings().grid_steps == 50
    for prompt, image in (("a red chair", None), ("make it blue", picture)):
        pipe.part("prompt_encoder").config.image_size = 56  # the checkpoint's 448 pixels are 256 tokens a picture
        assert len(pipe(prompt, image, **STEPS).mesh.faces)


def test_the_prompt_encoder_reads_the_whole_picture(releases, monkeypatch):
    """Shorter side to its size, the middle, colours as they are (gap3d.md 5.4); the image encoder sees the object."""
    several = [releases[name] for name in ("image", "dinov2", "qwen", "gap3d")]
    pipe = Gap3DPipeline.from_pretrained(several, device="cpu", dtype="float32")
    photo = Image.new("RGB", (140, 90), (240, 240, 238))
    photo.paste((200, 40, 40), (20, 20, 60, 70))
    for exact in (False, True):
        read, encoder = [], pipe.part("prompt_encoder")
        encoder.config.image_size = 56
        monkeypatch.setattr(encoder, "forward", lambda texts, pictures, read=read: read.append(pictures) or
                            torch.zeros(len(texts), 4, 32))  # fmt: skip
        pipe("make it blue", photo, exact_preprocessing=exact, **STEPS)
        assert [picture.tobytes() for picture in read[0]] == [photo.tobytes()]
    cut = Prompt.read("", photo).picture
    assert cut.method == "border" and cut.whole.tobytes() == photo.tobytes()
    clear = Image.new("RGBA", (64, 64), (10, 200, 10, 0))
    clear.paste((200, 40, 40, 255), (10, 20, 50, 60))
    seen = [Prompt.read("", clear, exact_preprocessing=exact).picture.whole.getpixel((0, 0)) for exact in (False, True)]
    assert seen == [(0, 0, 0), (10, 200, 10)]


@pytest.mark.parametrize("names", [("image", "dinov2", "qwen", "gap3d"), ("image", "text", "clip")])
def test_the_fast_preset_takes_the_better_solver(releases, monkeypatch, names):
    """By GAP3D and by TRELLIS's text models; the standard preset stays as published."""
    pipe = Gap3DPipeline.from_pretrained([releases[name] for name in names], device="cpu", dtype="float32")
    samplers, run = [], FlowSampler.run

    def noted(sampler, *given):
        samplers.append(sampler)
        return run(sampler, *given)

    monkeypatch.setattr(FlowSampler, "run", noted)
    for preset, solver in (("standard", "euler"), ("fast", "ab2")):
        samplers.clear()
        steps = {} if preset == "fast" else STEPS
        assert len(pipe("a red chair", preset=preset, **steps).mesh.faces)
        assert {sampler.solver for sampler in samplers} == {solver}
    assert [sampler.steps for sampler in samplers] == [10, 10, 6][-len(samplers) :]
    assert all(tuple(sampler.cfg_interval) == (0.5, 1.0) for sampler in samplers)
    assert [sampler.cfg_strength for sampler in samplers][-2:] == [7.5 if "text" in names else 5.0] * 2


def test_the_grid_in_half_precision(releases):
    """The network computes in bfloat16, the state between its steps stays float32."""
    from gap3d_app.models.grid_sampling import draw_grid_noise, generate_grid, grid_sampler

    several = [releases[name] for name in ("image", "qwen", "gap3d")]
    cond = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    results = []
    for dtype in ("float32", "bfloat16"):
        dit = Gap3DPipeline.from_pretrained(several, device="cpu", dtype=dtype).part("grid_dit")
        assert dit.model.cls_embed.weight.dtype == getattr(torch, dtype)
        noise = draw_grid_noise(dit.config, torch.Generator().manual_seed(0))
        results.append(generate_grid(dit, cond, noise, grid_sampler(8, 3.0)))
    exact, narrow = results
    assert narrow.dtype == torch.float32 and not torch.equal(narrow, narrow.bfloat16().float())
    assert (narrow - exact).norm() < 0.05 * exact.norm()


def test_an_encoder_of_another_family(releases, tmp_path, picture):
    wide = shutil.copytree(releases["dinov2"], tmp_path / "wide")
    model = published.network("image_encoder", hidden_size=48, num_attention_heads=3)
    save_file(model.state_dict(), wide / "model.safetensors")
    config = json.loads((wide / "config.json").read_text()) | {"hidden_size": 48, "num_attention_heads": 3}
    (wide / "config.json").write_text(json.dumps(config))
    pipe = Gap3DPipeline.from_pretrained([releases["image"], wide], device="cpu", dtype="float32")
    with pytest.raises(WeightsError, match="another family than the structure_flow: it gives 48 channels, 32 are exp"):
        pipe(image=picture, **STEPS)


@pytest.mark.parametrize("files, words", [
    ({"pipeline.json": '{"name": "Trellis2ImageTo3DPipeline", "args": {"models": {}}}'}, "names 'Trellis2ImageTo3DPip"),
    ({"config.json": '{"model_type": "llama"}'}, "config.json names the kind 'llama'; known are qwen2_5_vl, dinov2"),
    ({"config.json": '{"gen_vision_tower": "x"}', "model.safetensors": {"model.dit.a": torch.ones(2)}},
     "are no GAP3D checkpoint: they lack '"),
])
def test_a_checkpoint_of_the_wrong_family(releases, tmp_path, files, words, capsys):
    """One sentence, from every door."""
    folder = tmp_path / "other"
    folder.mkdir()
    for name, content in files.items():
        save_file(content, folder / name) if isinstance(content, dict) else (folder / name).write_text(content)
    names = [releases["image"], releases["qwen"], folder]
    with pytest.raises(WeightsError, match=words):
        Gap3DPipeline.from_pretrained(names, device="cpu").preload()
    given = ["--weights", ",".join(map(str, names)), "--device", "cpu", "--quiet"]
    assert main(["generate", "a chair", "-o", str(tmp_path / "a.glb"), *given]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_command_line(releases, tmp_path, picture, capsys):
    picture.save(tmp_path / "in.png")
    out, names = tmp_path / "out.glb", f"{releases['image']},{releases['dinov2']}"
    options = ["generate", "--image", str(tmp_path / "in.png"), "-o", str(out), "--quiet", "--device", "cpu"]
    steps = ["--structure-steps", "2", "--slat-steps", "2"]
    assert main([*options, *steps, "--weights", names]) == 0, capsys.readouterr().err
    assert out.read_bytes()[:4] == b"glTF"
    capsys.readouterr()
    for given, words in (
        ("trellis-image-large", "are not on this machine; get them (3.30 GB)"),
        ("trellis-image-large,nothing", "are not on this machine"),
        (f"{releases['image']},nothing", "There is no weights folder 'nothing'"),
    ):
        assert main([*options, "--weights", given]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1 and err.startswith("gap3d: ")


def test_names_cost_nothing_at_a_cold_start():
    """What every `generate` imports of all this: no torch, no downloader, no HTTP."""
    code = "import sys, gap3d_app.cli, gap3d_app.sources.names; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "numpy", "huggingface_hub", "httpx", "transformers", "safetensors"}
    code = "import sys, gap3d_app.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert "huggingface_hub" not in done.stdout and "gap3d_app.sources.assemble" not in done.stdout


def test_doctor_as_a_command(tmp_path):
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "gap3d_app", "doctor"]
    text = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=True).stdout
    assert "what runs here" in text and "weights pull trellis-image-large" in text
    done = subprocess.run([*command, "--json"], cwd=REPO, env=env, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"machine", "torch", "packages", "weights", "setups"} <= set(found)
    assert {setup["runs"] for setup in found["setups"]} <= {"yes", "no", "low-vram", "slowly", "with one"}
