"""Text prompts through TRELLIS's own text models: which flows they take, and what the flows follow."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from gap3d_app.errors import InputError
from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.geometry.voxels import voxelize
from gap3d_app.models.configs import SLatFlowConfig
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.prompt import Prompt
from tests.geometry.shapes import solid_mesh, torus
from tests.sources import published

STEPS = dict(structure_steps=3, slat_steps=3)


@pytest.fixture(scope="module")
def folders(releases) -> list[Path]:
    return [releases[name] for name in ("image", "text", "dinov2", "clip")]


@pytest.fixture(scope="module")
def pipe(folders) -> Gap3DPipeline:
    return Gap3DPipeline.from_pretrained(folders, device="cpu", dtype="float32")


@pytest.fixture
def picture() -> Image.Image:
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 40, 40, 255), (10, 20, 50, 60))
    return image


def test_words_take_the_text_flows(pipe, picture, monkeypatch):
    seen, run = [], FlowSampler.run

    def spy(self, model, noise, cond, uncond):
        seen.append((type(model.config), model.config.cond_channels, cond, uncond, self.cfg_strength))
        return run(self, model, noise, cond, uncond)

    monkeypatch.setattr(FlowSampler, "run", spy)
    asset = pipe("a red chair", **STEPS)
    states = pipe.part("text_encoder")(["a red chair", ""]).float()
    assert len(seen) == 2 and seen[1][0] is SLatFlowConfig
    for _, channels, cond, uncond, strength in seen:
        assert channels == published.CLIP_SIZES["hidden_size"] and strength == 7.5
        assert torch.allclose(cond, states[:1], atol=1e-6) and torch.allclose(uncond, states[1:], atol=1e-6)
    assert torch.allclose(asset.grid.tokens, states[:1], atol=1e-6)
    assert asset.recipe["settings"]["structure_guidance"] == 7.5 and len(asset.mesh.faces)
    seen.clear()
    pipe("", picture, **STEPS)
    for _, channels, _, uncond, strength in seen:
        assert channels != published.CLIP_SIZES["hidden_size"] and strength == 5.0 and not uncond.any()


def test_other_words_and_seeds_give_other_assets(pipe):
    given = (("a", 0), ("a tall boat", 0), ("a", 1))
    first, words, seed = (pipe(text, seed=number, **STEPS).slat.feats for text, number in given)
    assert not any(a.shape == first.shape and torch.equal(a, first) for a in (words, seed))


def test_one_batch_of_both_kinds(pipe, picture):
    prompts = ["a red chair", Prompt.read("", picture), "a boat"]
    for prompt, asset in zip(prompts, pipe.batch(prompts, **STEPS), strict=True):
        alone = pipe(prompt, **STEPS)
        assert asset.recipe == alone.recipe
        assert torch.equal(asset.occupancy.coords, alone.occupancy.coords)
        assert torch.allclose(asset.slat.feats, alone.slat.feats, atol=1e-3)


def test_a_variant_by_words(pipe):
    shape = solid_mesh(torus(), resolution=24)
    asset = pipe.variant(shape, "a blue ring", **STEPS)
    assert torch.equal(asset.occupancy.coords[:, 1:], voxelize(shape, asset.occupancy.resolution))


def test_words_with_a_picture_are_refused(pipe, picture):
    with pytest.raises(InputError, match="words or a picture, not both"):
        pipe("a chair", picture, **STEPS)


def test_presets_of_text_weights_alone(folders, tmp_path):
    weights = Gap3DPipeline.from_pretrained(folders[:2], device="cpu", dtype="float32")
    assert weights.settings().structure_guidance == 5.0
    del weights.args["structure_sampler"]
    alone = Gap3DPipeline(weights.folder, weights.args, "", torch.device("cpu"), torch.float32)
    assert alone.settings().structure_guidance == 7.5
