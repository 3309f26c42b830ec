"""The words that weights are said to know: those of all training texts, and those that the embedded weights carry."""

import json

import pytest

from gap3d_app import hub
from gap3d_app.vocabulary import Vocabulary
from train.data.procedural.captions import captions
from train.data.procedural.edits import sample_edit
from train.data.procedural.spec import sample_spec
from train.data.procedural.words import taught_words
from train.data.prompts import UNCHANGED

SHIPPED = hub.EMBEDDED / "gap3d-mini" / hub.PIPELINE


@pytest.fixture(scope="module")
def taught() -> dict[str, str]:
    return taught_words()


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_text_is_known(taught, split):
    known = Vocabulary.of({"vocabulary": taught})
    texts = [text for index in range(300) for text in captions(sample_spec(77, index, split))]
    texts += [sample_edit(77, index, split)[2] for index in range(300)]
    assert {word for text in [*texts, *UNCHANGED] for word in known.unknown(text)} == set()
    assert known.unknown("a steam locomotive") == ["steam", "locomotive"]


@pytest.mark.skipif(not SHIPPED.is_file(), reason="weights/gap3d-mini is not in this checkout")
def test_embedded_weights_carry_them(taught):
    assert json.loads(SHIPPED.read_text())["args"]["vocabulary"] == taught
