"""Toy weights in the app's own layout."""

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """A complete weights folder with random networks; do not change it."""
    return tiny.build(tmp_path_factory.mktemp("weights") / "tiny")
