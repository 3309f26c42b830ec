"""What a newcomer does, with the embedded weights: start the page, type, look, download."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import trimesh

from gap3d_app import hub
from tests.browser.visits import DONE, PROMPT, VIEWER, Visit
from tests.gltf import assert_clean, validate_glb
from tests.ui.serving import wait_until

REPO = Path(__file__).resolve().parents[2]
PATIENCE_S = 120  # for a machine that does other things at the same time

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (hub.EMBEDDED / "gap3d-mini" / hub.PIPELINE).is_file(), reason="weights/gap3d-mini is not in this checkout"
    ),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(url: str, process: subprocess.Popen) -> bool:
    assert process.poll() is None, "the page ended by itself"
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def shipped():
    """`python -m gap3d_app app` as a process."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gap3d_app", "app", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=REPO, env=dict(os.environ), stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: _answers(url, process), seconds=PATIENCE_S)
            yield SimpleNamespace(url=url)
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def visit(browser, shipped):
    """A page that must stay on its host and be free of errors."""
    one = Visit(browser, shipped)
    one.page.set_default_timeout(1000 * PATIENCE_S)
    yield one
    assert one.foreign == [] and one.errors == [] and one.dialogs == []
    one.context.close()


def test_a_small_red_toy_airplane(visit, tmp_path):
    page = visit.page
    visit.type(PROMPT, "a small red toy airplane")
    page.check("#preset input[value=fast]")
    before = time.monotonic()
    page.click("#generate")
    page.wait_for_selector(DONE)
    page.wait_for_selector(VIEWER)
    wait_until(visit.viewer_is_drawn, seconds=PATIENCE_S)
    print(f"drawn after {time.monotonic() - before:.1f} s")
    page.wait_for_selector("#download-glb:not([disabled])")
    with page.expect_download() as download:
        page.click("#download-glb")
    target = tmp_path / download.value.suggested_filename
    download.value.save_as(target)
    assert target.name == "a-small-red-toy-airplane.glb"
    assert_clean(validate_glb(target))
    assert len(trimesh.load(target, force="mesh").faces) > 1000
    if os.environ.get("GAP3D_SCREENSHOT"):  # the README's picture of the page
        page.wait_for_timeout(1000)
        page.screenshot(path=os.environ["GAP3D_SCREENSHOT"], full_page=True)


def test_an_example_picture(visit):
    page = visit.page
    assert page.locator("#example-pictures img").count() == len(list((REPO / "examples").glob("*.png"))) > 0
    page.locator("#example-pictures img").first.click()
    page.wait_for_selector("#cut-out img")
    page.check("#preset input[value=fast]")
    visit.generate()
    assert page.get_attribute(PROMPT, "value") in (None, "")
    page.wait_for_selector("#download-glb:not([disabled])")


def test_words_that_were_never_taught(visit):
    """The page says what the weights know, and which words of a prompt they do not."""
    page = visit.page
    known = page.locator("#model-note details")
    known.locator("summary").click()
    assert "teapot, teddy bear" in known.inner_text()
    page.check("#preset input[value=fast]")
    visit.generate("a blue steam locomotive")
    line = page.inner_text("#status .g-line")
    assert '"steam", "locomotive"' in line and "blue" not in line
