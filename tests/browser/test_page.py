"""The real page in a real browser."""

import io
import re
import threading
from pathlib import Path

import pytest
import trimesh
from PIL import Image, ImageDraw

from gap3d_app.ui import runs, texts
from tests.ui.serving import serving, wait_until

pytestmark = pytest.mark.browser

DONE, FAILED = ".g-status[data-state=done]", ".g-status[data-state=failed]"
RUNNING = ".g-status[data-state=running]"
PROMPT, VIEWER = "#prompt textarea", "#viewer canvas"


class Visit:
    """One visitor's page, with what it asked of which host and what it complained about."""

    def __init__(self, browser, server, width: int = 1280, **context) -> None:
        self.server, self.foreign, self.errors, self.dialogs = server, [], [], []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self._request(request.url))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.goto(server.url)
        self.page.wait_for_selector(PROMPT)
        self.page.wait_for_timeout(300)  # listeners are attached shortly after the first paint

    def _request(self, url: str) -> None:
        if not url.startswith((self.server.url + "/", "data:", "blob:")):
            self.foreign.append(url)

    def _console(self, message) -> None:
        # Without a graphics card the viewer says that it falls back to WebGL; refused requests are the test's own.
        harmless = "WebGPU" in message.text or "status of 422" in message.text
        if message.type == "error" and not harmless:
            self.errors.append(message.text)

    def generate(self, prompt: str | None = None, until: str = DONE) -> None:
        """Type, press Generate and wait for the end of the run."""
        if prompt is not None:
            self.page.fill(PROMPT, prompt)
        self.page.click("#generate")
        self.page.wait_for_selector(until)

    def line(self) -> str:
        """What the progress card says."""
        return self.page.inner_text(".g-line")

    def boxes(self) -> dict:
        """Place and size of the result's parts on the whole page."""
        return self.page.evaluate(
            "() => Object.fromEntries(['#viewer', '#status', '#tiles', '#download-glb'].map(name => {"
            "const box = document.querySelector(name).getBoundingClientRect();"
            "return [name, [box.left, box.top + scrollY, box.width, box.height].map(Math.round)]}))"
        )


@pytest.fixture(scope="module")
def visit(browser, server):
    """Open the page; every visit must stay on its host and be free of errors."""
    visits = []

    def start(**options) -> Visit:
        visits.append(Visit(browser, server, **options))
        return visits[-1]

    start.visits = visits
    yield start
    for one in visits:
        one.context.close()


@pytest.fixture(autouse=True)
def _clean(visit):
    """Every visit of the test must have stayed on its host and be free of errors."""
    visit.visits.clear()
    yield
    for one in visit.visits:
        assert one.foreign == [] and one.errors == [] and one.dialogs == []
        one.context.close()
    visit.visits.clear()


def _png(path: Path) -> Path:
    image = Image.new("RGB", (200, 150), (240, 240, 238))
    ImageDraw.Draw(image).ellipse((60, 30, 140, 120), fill=(200, 40, 30))
    image.save(path)
    return path


def _viewer_is_drawn(page) -> bool:
    picture = Image.open(io.BytesIO(page.locator("#viewer").screenshot())).convert("RGB")
    picture = picture.crop((20, 50, picture.width - 20, picture.height - 20))
    return len(picture.getcolors(picture.width * picture.height)) > 50


def test_type_generate_look_download(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "TURNTABLE_FRAMES", 6)
    one = visit()
    page = one.page
    assert texts.IDLE in one.line() and page.is_disabled("#cancel") and page.is_disabled("#download-glb")
    before = one.boxes()
    one.generate("a small red toy airplane")
    page.wait_for_selector(VIEWER)
    wait_until(lambda: _viewer_is_drawn(page))
    assert re.fullmatch(r"Done in \d+\.\d s", one.line())
    times = page.locator(".g-time").all_inner_texts()
    assert len(times) == len(texts.STAGES) + 1 and all(re.fullmatch(r"\d+\.\d s", time) for time in times)
    alts = page.locator("#tiles img").evaluate_all("images => images.map(i => [i.alt, i.naturalWidth])")
    assert len(alts) == 3 and all(alt and width > 0 for alt, width in alts)
    assert one.boxes() == before, "the result area jumped"
    for button, ending, check in (
        ("#download-glb", ".glb", lambda path: len(trimesh.load(path, file_type="glb", force="mesh").faces)),
        ("#download-ply", ".ply", lambda path: path.read_bytes().startswith(b"ply")),
        ("#download-recipe", ".json", lambda path: b"a small red toy airplane" in path.read_bytes()),
        ("#turntable", ".mp4", lambda path: b"ftyp" in path.read_bytes()[:16]),
    ):
        page.wait_for_selector(f"{button}:not([disabled])")
        with page.expect_download(timeout=60_000) as download:
            page.click(button)
        assert download.value.suggested_filename == "a-small-red-toy-airplane" + ending
        target = tmp_path / ("a" + ending)
        download.value.save_as(target)
        assert check(target)
    # A second run replaces the first.
    one.generate("a blue mug")
    page.wait_for_selector("#download-glb:not([disabled])")


def test_nothing_given_is_said_at_the_prompt_and_the_next_run_works(visit):
    one = visit()
    one.page.click("#generate")
    one.page.wait_for_selector(f"#prompt >> text={texts.NOTHING_GIVEN}")
    one.page.click("#advanced button")
    one.page.wait_for_timeout(300)  # controls are built when the accordion opens
    one.page.fill("#set-grid_steps textarea, #set-grid_steps input", "0")
    one.page.fill(PROMPT, "a mug")
    one.page.wait_for_timeout(300)  # a click right after a refused one is dropped
    one.page.click("#generate")
    one.page.wait_for_selector("text=Setting grid_steps is 0")
    one.page.fill("#set-grid_steps textarea, #set-grid_steps input", "2")
    one.page.wait_for_timeout(300)
    one.generate()


def test_a_prompt_over_the_limit_is_refused_with_the_limit(visit):
    one = visit()
    one.page.fill(PROMPT, "x" * 2001)
    one.page.click("#generate")
    one.page.wait_for_selector("#prompt >> text=the limit is 2,000")
    one.page.wait_for_timeout(300)
    one.generate("a mug")


def test_picture_cut_out_and_blend(visit, tmp_path):
    one = visit()
    page = one.page
    assert not page.is_visible("#blend") and not page.is_visible("#background")
    page.set_input_files("#picture input[type=file]", _png(tmp_path / "ball.png"))
    page.wait_for_selector("#cut-out img")
    assert texts.METHOD_FOUND["border"] in page.inner_text("#cut-out")
    assert page.is_visible("#background") and not page.is_visible("#blend")
    page.fill(PROMPT, "the same but blue")
    page.wait_for_selector("#blend", state="visible")
    page.click("#background input")
    page.click(f"text={texts.METHODS['none']}")
    page.wait_for_selector(f"#cut-out >> text={texts.METHOD_FOUND['none']}")
    one.generate()
    page.fill(PROMPT, "")
    page.wait_for_selector("#blend", state="hidden")


def test_a_bad_picture_is_explained_and_the_next_run_works(visit, tmp_path):
    one = visit()
    fake = tmp_path / "fake.png"
    fake.write_text("hello")
    one.page.set_input_files("#picture input[type=file]", fake)
    words = "is not a PNG, JPEG or WebP picture"
    one.page.wait_for_selector(f"#cut-out >> text={words}")
    one.generate(until=FAILED)
    assert words in one.line()
    one.page.wait_for_selector(f"[data-testid=toast-body] >> text={words}")
    one.page.click("#picture button[aria-label='Remove Image']")
    one.page.wait_for_selector(f"#cut-out >> text={texts.CUT_OUT_EMPTY}")
    one.generate("a mug")


def test_cancel_stops_within_a_step_and_frees_the_place(visit, server):
    one = visit()
    server.pipeline.delay, closed = 0.4, server.pipeline.closed
    one.generate("a mug", until=f"{RUNNING} >> text=Token grid: step")
    one.page.wait_for_selector("#cancel:not([disabled])")
    one.page.click("#cancel")
    wait_until(lambda: server.pipeline.active == 0, seconds=3)
    assert server.pipeline.closed == closed + 1
    one.page.wait_for_selector(f"text={texts.CANCELLED}")
    assert one.page.is_disabled("#cancel")
    server.pipeline.delay = 0.0
    one.generate()
    assert server.pipeline.peak == 1


def test_a_closed_tab_frees_the_place(visit, server):
    one = visit()
    server.pipeline.delay = 0.4
    one.generate("a mug", until=RUNNING)
    wait_until(lambda: server.pipeline.active == 1)
    one.page.close()
    wait_until(lambda: server.pipeline.active == 0, seconds=10)


def test_a_waiting_visitor_sees_the_queue_and_can_leave_it(visit, server):
    first, second = visit(), visit()
    server.pipeline.delay = 0.4
    first.generate("a mug", until=RUNNING)
    second.page.fill(PROMPT, "a chair")
    second.page.click("#generate")
    second.page.wait_for_selector("#status >> text=/queue/i")
    finished = server.pipeline.finished
    second.page.click("#cancel:not([disabled])")
    server.pipeline.delay = 0.0
    first.page.wait_for_selector(DONE)
    first.page.wait_for_timeout(500)
    assert server.pipeline.finished == finished + 1 and server.pipeline.active == 0


def test_typed_html_stays_text(visit, server):
    one = visit()
    from gap3d_app.errors import InputError

    server.pipeline.failure = InputError("<img src=x onerror=alert(1)> cannot be made.")
    one.generate("<img src=x onerror=alert(1)>", until=FAILED)
    assert "<img src=x onerror=alert(1)> cannot be made." in one.line()
    one.page.wait_for_selector("[data-testid=toast-body]")
    assert one.page.locator("[data-testid=toast-body] img, #status img").count() == 0


def test_an_unforeseen_error_tells_nothing(visit, server):
    one = visit()
    server.pipeline.failure = RuntimeError("secret")
    one.generate("a mug", until=FAILED)
    assert "Something went wrong" in one.line() and "secret" not in one.page.content()
    one.generate()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_within_its_width(visit, scheme):
    one = visit(width=360, color_scheme=scheme)
    one.generate("a mug")
    one.page.wait_for_selector(VIEWER)
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 360
    outside = one.page.evaluate(
        "() => [...document.querySelectorAll('.g-composer *, .g-result *')].filter(e => e.checkVisibility() && "
        "e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right > 361 && !e.closest('svg'))"
        ".map(e => e.tagName + '.' + e.className)"
    )
    assert outside == []
    assert one.page.evaluate("document.documentElement.scrollTop > 0 || window.scrollY > 0"), "not scrolled to result"


def test_every_control_has_a_name(visit):
    one = visit()
    one.page.click("#advanced button")
    nameless = one.page.evaluate(
        "() => [...document.querySelectorAll('.g-page button, .g-page input:not([type=file]), .g-page textarea')]"
        ".filter(e => e.checkVisibility()).filter(e => !(e.innerText || '').trim() && !e.labels?.length && "
        "!e.ariaLabel && !e.title && !e.getAttribute('aria-labelledby')).map(e => e.outerHTML.slice(0, 160))"
    )
    assert nameless == []


def test_the_page_is_up_before_the_model(browser, tiny_weights):
    with serving(tiny_weights, gated=True) as slow:
        one = Visit(browser, slow)
        one.page.fill(PROMPT, "a mug")
        one.page.click("#generate")
        one.page.wait_for_selector(f".g-status[data-state=loading] >> text={texts.LOADING}")
        threading.Timer(0.3, slow.gate.set).start()
        one.page.wait_for_selector(DONE)
        assert one.foreign == [] and one.errors == []
        one.context.close()
