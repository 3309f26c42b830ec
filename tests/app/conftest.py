"""Toy weights for the tests of the app."""

from pathlib import Path

import pytest

from gap3d_app.pipeline import Gap3DPipeline
from tests import tiny


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """A complete weights folder with random networks; do not change it."""
    return tiny.build(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_weights) -> Gap3DPipeline:
    """A pipeline on the toy weights, float32 on the CPU."""
    return Gap3DPipeline.from_pretrained(tiny_weights, device="cpu", dtype="float32")
