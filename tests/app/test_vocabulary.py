"""Prompts with words that weights were never taught."""

import json
import shutil

import pytest

from gap3d_app import hub
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.vocabulary import Vocabulary

ARGS = {"vocabulary": {"things": "chair, wine glass", "words": "berry chair d fox glass hands in red wine"}}


@pytest.fixture
def small() -> Vocabulary:
    return Vocabulary.of(ARGS)


@pytest.mark.parametrize(
    "text, unknown",
    [
        ("a red chair", []),
        ("Two CHAIRS, please; with red foxes and berries!", ["Two"]),
        ("a hand-made chair's hand", ["made"]),
        ("a blue, blue Steam locomotive in 3D", ["blue", "Steam", "locomotive"]),
        ("红色的椅子", ["红色的椅子"]),
        ("12 red chairs, 100 %", ["12", "100"]),
        ("\U0001f697 and a red chair \U0001f525\ufe0f", ["\U0001f697", "\U0001f525"]),
    ],
)
def test_unknown_words(small, text, unknown):
    assert small.unknown(text) == unknown


def test_the_warning_names_a_few(small):
    assert small.warning("a red wine glass") is None
    sentence = small.warning("two three four five six")
    assert ': "two", "three", "four", "five" and 1 more.' in sentence and "2 kinds" in sentence


def test_weights_taught_by_people_have_none(tiny_weights):
    assert Vocabulary.of(hub.read_pipeline(tiny_weights)) is None


def test_a_run_warns_once(tiny_weights, tmp_path):
    folder = tmp_path / "taught"
    shutil.copytree(tiny_weights, folder)
    content = json.loads((folder / hub.PIPELINE).read_text())
    content["args"] |= ARGS
    (folder / hub.PIPELINE).write_text(json.dumps(content))
    hub.write_manifest(folder)
    pipe = Gap3DPipeline.from_pretrained(str(folder), device="cpu", dtype="float32")
    quick = dict(preset="fast", structure_steps=1, slat_steps=1)
    assert pipe("a red chair", **quick).warnings == []
    (warning,) = pipe("a red locomotive", **quick).warnings
    assert '"locomotive"' in warning and "red" not in warning
