"""Headless Chromium and the page; without a browser the tests skip, in CI they fail."""

import os
import shutil

import pytest

from tests.browser.visits import Visit
from tests.ui.conftest import _full_speed, server, tiny_weights  # noqa: F401

NAMES = ("chromium", "chromium-browser", "google-chrome")
# WebGL without a graphics card.
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    """A headless browser."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        _missing("needs Chromium (for Debian: apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("needs playwright (pip install -r requirements-dev.txt)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, server):  # noqa: F811
    """Open the page; every visit must stay on its host and be free of errors."""
    visits = []

    def start(**options) -> Visit:
        visits.append(Visit(browser, server, **options))
        return visits[-1]

    yield start
    for one in visits:
        assert one.foreign == [] and one.errors == [] and one.dialogs == []
        one.context.close()
