"""One served page per module."""

from pathlib import Path

import pytest

from tests import tiny
from tests.ui.serving import serving


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """A complete weights folder with random networks."""
    return tiny.build(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def server(tiny_weights):
    """The page on toy weights, two requests may wait."""
    with serving(tiny_weights, max_waiting=2) as running:
        yield running


@pytest.fixture(autouse=True)
def _full_speed(request):
    """Every test begins with an idle, fast server."""
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        running.pipeline.delay, running.pipeline.failure = 0.0, None
    yield
