"""The page for those who cannot see it well or use no mouse: axe, the keyboard, names, what is said aloud."""

import pytest
from PIL import Image

from gap3d_app.ui import texts
from tests.browser.visits import DONE, PROMPT, RUNNING, VIEWER
from tests.node_packages import node_package
from tests.ui.serving import wait_until

pytestmark = pytest.mark.browser

FADE_MS = 400  # buttons fade between their colours when they become active or not


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    return (node_package("axe-core") / "axe.min.js").read_text("utf-8")


def _offences(page, axe: str) -> list[str]:
    """What axe-core calls serious or critical."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
            for node in one["nodes"]]


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (1280, "dark"), (360, "light")])
def test_axe_finds_nothing_serious(visit, server, axe, width, scheme):
    one = visit(width=width, color_scheme=scheme)
    page = one.page
    page.wait_for_selector("#viewer .empty[role=img]")
    assert _offences(page, axe) == []
    page.locator("#example-pictures img").first.click()
    page.wait_for_selector("#cut-out img")
    one.type(PROMPT, "make it blue")
    page.wait_for_selector("#blend", state="visible")
    one.open_settings()
    server.pipeline.delay = 0.3
    one.generate(until=RUNNING)
    page.wait_for_selector("#tiles img")
    page.wait_for_selector("#cancel:not([disabled])")
    page.wait_for_timeout(FADE_MS)
    assert _offences(page, axe) == []
    server.pipeline.delay = 0.0
    page.wait_for_selector(DONE)
    page.wait_for_selector(f"{VIEWER}[tabindex='0']")
    page.wait_for_selector("#download-glb:not([disabled])")
    page.wait_for_selector("#cancel[disabled]")
    page.wait_for_timeout(FADE_MS)
    assert _offences(page, axe) == []
    one.type(PROMPT, "x" * 2001)
    page.click("#generate")
    page.wait_for_selector("#prompt >> text=the limit is 2,000")
    page.wait_for_function("() => !document.querySelector('.pending')")  # the status pales until the answer is there
    page.wait_for_timeout(FADE_MS)
    assert _offences(page, axe) == []


def test_axe_finds_nothing_serious_about_listed_files(visit, axe, tmp_path):
    one = visit()
    one.open_settings()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "side.png")
    one.attach("#views", tmp_path / "side.png")
    add = one.page.get_by_role("button", name=f"{texts.MORE_FILES}: {texts.VIEWS_LABEL}")
    add.wait_for()
    assert _offences(one.page, axe) == []
    one.settle("#advanced")
    with one.page.expect_file_chooser(timeout=10_000) as chooser:
        add.press("Enter")
    assert chooser.value.is_multiple()


def test_the_keyboard_is_enough(visit):
    one = visit()
    page = one.page
    page.focus(PROMPT)
    page.keyboard.type("a mug")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "generate":
            break
    else:
        pytest.fail("Generate cannot be reached with Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    wait_until(one.viewer_is_drawn)
    page.focus(VIEWER)
    for key in ("ArrowLeft", "Alt+ArrowUp"):  # turns, zooms
        before = one.viewer().tobytes()
        page.keyboard.press(key, delay=300)
        wait_until(lambda before=before: one.viewer().tobytes() != before)


def test_every_control_has_a_name(visit):
    one = visit()
    one.open_settings()
    nameless = one.page.evaluate(
        "() => [...document.querySelectorAll('.g-page button, .g-page input:not([type=file]), .g-page textarea')]"
        ".filter(e => e.checkVisibility()).filter(e => !(e.innerText || '').trim() && !e.labels?.length && "
        "!e.ariaLabel && !e.title && !e.getAttribute('aria-labelledby')).map(e => e.outerHTML.slice(0, 160))"
    )
    assert nameless == []


def test_stages_are_said_once_in_a_region_that_stays(visit):
    one = visit()
    assert one.page.text_content("#said[role=status]") == ""
    one.page.evaluate(
        "() => { const region = window.region = document.querySelector('#said'); window.heard = [];"
        "new MutationObserver(() => window.heard.push(region.textContent)).observe(region, {childList: true}) }"
    )
    one.generate("a mug")
    wait_until(lambda: (one.page.text_content("#said") or "").startswith("Done in"))
    heard = one.page.evaluate("window.heard")
    assert one.page.evaluate("window.region === document.querySelector('#said')")
    stages = [word for word in heard[:-1] if word]
    assert texts.STAGES["structure"] in stages and len(stages) == len(set(stages))
    assert set(stages) <= set(texts.STAGES.values())
