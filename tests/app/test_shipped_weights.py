"""The embedded weights: whole, small, and good for an asset from words, from a picture, and from both."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from gap3d_app import hub
from gap3d_app.pipeline import Gap3DPipeline

FOLDER = hub.EMBEDDED / "gap3d-mini"
pytestmark = pytest.mark.skipif(
    not (FOLDER / hub.PIPELINE).is_file(), reason="weights/gap3d-mini is not in this checkout"
)


@pytest.fixture(scope="module")
def mini() -> Gap3DPipeline:
    return Gap3DPipeline.from_pretrained("gap3d-mini", device="cpu")


def test_folder():
    assert hub.verify(FOLDER)
    entries = json.loads((FOLDER / hub.MANIFEST).read_text())
    sizes = {name: entry["bytes"] for name, entry in entries.items()}
    assert sum(sizes.values()) <= 120e6 and max(sizes.values()) < 10e6
    assert (FOLDER / "README.md").is_file()


def test_text(mini, tmp_path):
    asset = mini("a small red toy airplane", preset="fast")
    facts = asset.facts()
    assert facts["watertight"] and facts["main_part"] > 0.5
    assert len(asset.occupancy) < 0.35 * asset.occupancy.resolution**3
    assert asset.save(tmp_path / "airplane.glb").stat().st_size > 10_000


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROMPTS = [line for line in (EXAMPLES / "prompts.txt").read_text("utf-8").splitlines() if line.strip()]


@pytest.mark.parametrize("example", [*PROMPTS, *sorted(path.name for path in EXAMPLES.glob("*.png"))])
def test_examples_of_the_page(mini, example):
    given = {"image": EXAMPLES / example} if example.endswith(".png") else {"prompt": example}
    asset = mini(**given, preset="fast", formats=["glb"])
    facts = asset.facts()
    assert facts["watertight"] and facts["faces"] > 1000 and not asset.warnings
    low, high = facts["bounds"]
    assert max(b - a for a, b in zip(low, high, strict=True)) > 0.4, "next to nothing"


def test_words_that_were_never_taught(mini):
    asset = mini("a steam locomotive", preset="fast")
    (warning,) = asset.warnings
    assert '"steam", "locomotive"' in warning and "89 kinds" in warning


def test_picture_and_both(mini):
    image = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(image).rectangle((90, 120, 210, 240), fill=(180, 120, 60))
    alone = mini(None, image, preset="fast")
    both = mini("make it blue", image, preset="fast")
    for asset in (alone, both):
        assert not asset.mesh.is_empty and not asset.warnings


@pytest.mark.parametrize("name", ["teapot", "penguin"])
def test_edits_of_size(mini, name):
    """Words beside a picture change the proportions as they say."""
    def height(prompt: str) -> float:
        coords = mini(prompt, EXAMPLES / f"{name}.png", preset="fast", formats=["glb"]).occupancy.coords[:, 1:]
        x, y, z = (coords.amax(0) - coords.amin(0) + 1).tolist()
        return z / max(x, y)

    usual = height("")
    assert height("a taller one") > 1.1 * usual and height("a wider one") < 0.9 * usual
