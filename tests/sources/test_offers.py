"""What a machine can offer, and what is said of it."""

import shutil

import pytest

from gap3d_app import hub
from gap3d_app.errors import WeightsError
from gap3d_app.sources import catalog
from gap3d_app.sources.offers import offer, offers
from tests.sources.test_assemble import install

REPOS = {catalog.source(name).repo: folder for name, folder in (
    ("trellis-image-large", "image"), ("trellis-text-base", "text"), ("dinov2", "dinov2"), ("clip", "clip"),
    ("qwen", "qwen"),
)}  # fmt: skip

pytestmark = pytest.mark.usefixtures("empty_hub_cache")


@pytest.fixture(autouse=True)
def embedded(tiny_weights, monkeypatch):
    monkeypatch.setattr(hub, "EMBEDDED", tiny_weights.parent)


def test_the_embedded_weights_alone():
    (only,) = offers("tiny")
    assert only.label == "tiny: words, a picture, or both" and only.grid and not only.radiance
    assert "of weight files." in only.note and set(only.sizes) == only.roles


def test_everything_that_is_here_is_offered(releases):
    for repo, name in REPOS.items():
        install(repo, releases[name])
    found = {one.key: one for one in offers("tiny")}
    assert list(found) == ["tiny", "trellis-image-large", "trellis-text-base"]
    image, text = found["trellis-image-large"], found["trellis-text-base"]
    assert image.label == "TRELLIS image-large: a picture" and text.label == "TRELLIS text-base: words or a picture"
    assert image.radiance and not image.grid and not text.both
    assert "Full-size public weights" in image.note and "Apache-2.0, MIT" in image.note
    own = offer([str(releases["gap3d"]), "trellis-image-large"])
    assert own.both and own.grid and "Qwen Research License (research only, no commercial use)" in own.note
    assert "checkpoint is your own" in own.note


def test_what_could_make_nothing_is_not_offered(releases):
    install("microsoft/TRELLIS-image-large", releases["image"])
    assert [one.key for one in offers("tiny")] == ["tiny"]  # without its encoder
    install("microsoft/TRELLIS-text-base", releases["text"])
    assert [one.key for one in offers("tiny")] == ["tiny"]  # without CLIP
    assert offers("trellis-image-large")[0].label == "TRELLIS image-large: nothing yet"  # it was asked for by name


def test_given_weights_come_first(releases, tiny_weights):
    names = f"{releases['image']},{releases['dinov2']}"
    found = offers(names)
    assert [one.key for one in found] == ["image+dinov2", "tiny"] and found[0].names == names
    assert found[0].label == "image: a picture"
    with pytest.raises(WeightsError, match="no weights folder 'nothing'"):
        offer(f"{names},nothing")


def test_damaged_weights_are_offered_so_that_loading_says_why(tiny_weights, tmp_path):
    folder = shutil.copytree(tiny_weights, tmp_path / "broken")
    (folder / "pipeline.json").write_text("{")
    assert offer(folder).both and offer(folder).title == offer(folder).key == "broken"
