"""The real page in a real browser."""

import json
import re
import threading
from pathlib import Path

import pytest
import trimesh
from PIL import Image, ImageDraw

from gap3d_app.geometry.glb import export_glb
from gap3d_app.ui import runs, texts
from tests.browser.visits import DONE, FAILED, PROMPT, REFUSED, RUNNING, VIEWER, Visit
from tests.geometry.shapes import solid_mesh, torus
from tests.ui.serving import serving, wait_until

pytestmark = pytest.mark.browser


def _png(path: Path) -> Path:
    image = Image.new("RGB", (200, 150), (240, 240, 238))
    ImageDraw.Draw(image).ellipse((60, 30, 140, 120), fill=(200, 40, 30))
    image.save(path)
    return path


def test_type_generate_look_download(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "TURNTABLE_FRAMES", 6)
    one = visit()
    page = one.page
    assert texts.IDLE in one.line() and page.is_disabled("#cancel") and page.is_disabled("#download-glb")
    before = one.boxes()
    one.generate("a small red toy airplane")
    page.wait_for_selector(VIEWER)
    wait_until(one.viewer_is_drawn)
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
    margins = one.viewer_margins()
    assert all(len(strip.getcolors(9999)) == 1 for strip in margins), "the model is cut off"
    # A second run replaces the first.
    one.generate("a blue mug")
    page.wait_for_selector("#download-glb:not([disabled])")


def test_nothing_given_is_said_at_the_prompt_and_the_next_run_works(visit):
    one = visit()
    one.page.click("#generate")
    one.page.wait_for_selector(f"#prompt >> text={texts.NOTHING_GIVEN}")
    one.open_settings()
    one.type_setting("grid_steps", "0")
    one.generate("a mug", until="#advanced >> text=Grid steps is 0")
    # The card says it too, because the field may be folded away.
    one.page.wait_for_selector(f"{REFUSED} >> text={texts.REFUSED}: Grid steps is 0")
    assert one.page.is_disabled("#cancel")
    one.type_setting("grid_steps", "2")
    one.generate()


def test_a_prompt_over_the_limit_is_refused_with_the_limit(visit):
    one = visit()
    one.type(PROMPT, "x" * 2001)
    one.page.click("#generate")
    one.page.wait_for_selector("#prompt >> text=the limit is 2,000")
    one.page.wait_for_selector("#cancel[disabled]")  # there is no run that could be cancelled
    one.generate("a mug")


def test_picture_cut_out_and_blend(visit, tmp_path):
    one = visit()
    page = one.page
    assert not page.is_visible("#blend") and not page.is_visible("#background")
    page.set_input_files("#picture input[type=file]", _png(tmp_path / "ball.png"))
    page.wait_for_selector("#cut-out img")
    assert texts.METHOD_FOUND["border"] in page.inner_text("#cut-out")
    outside = page.evaluate(
        "() => { const [a, b] = ['img', '.g-frame'].map(x => document.querySelector('#cut-out ' + x)"
        ".getBoundingClientRect()); return [a.bottom - b.bottom, b.top - a.top, a.right - b.right, b.left - a.left] }"
    )
    assert max(outside) <= 0, "the cut-out is not wholly seen"
    assert page.is_visible("#background") and not page.is_visible("#blend")
    one.type(PROMPT, "the same but blue")
    page.wait_for_selector("#blend", state="visible")
    page.click("#background input")
    page.click(f"text={texts.METHODS['none']}")
    page.wait_for_selector(f"#cut-out >> text={texts.METHOD_FOUND['none']}")
    one.generate()
    one.type(PROMPT, "")
    page.wait_for_selector("#blend", state="hidden")


def test_a_bad_picture_is_explained_and_the_next_run_works(visit, tmp_path):
    one = visit()
    fake = tmp_path / "fake.png"
    fake.write_text("hello")
    one.page.set_input_files("#picture input[type=file]", fake)
    words = "is not a PNG, JPEG or WebP picture"
    one.page.wait_for_selector(f"#cut-out .g-refused >> text={words}")
    one.generate(until=FAILED)
    assert words in one.line()
    one.page.wait_for_selector("#cancel[disabled]")
    one.page.wait_for_selector(f"[data-testid=toast-body] >> text={words}")
    one.page.click("#picture button[aria-label='Remove Image']")
    one.page.wait_for_selector(f"#cut-out >> text={texts.CUT_OUT_EMPTY}")
    one.generate("a mug")


def test_an_input_that_cannot_be_used_leaves_the_last_result(visit, tmp_path):
    one = visit()
    one.generate("a mug")
    one.page.wait_for_selector("#download-glb:not([disabled])")
    fake = tmp_path / "fake.png"
    fake.write_text("hello")
    one.page.set_input_files("#picture input[type=file]", fake)
    one.page.wait_for_selector("#cut-out .g-refused")
    one.page.click("#generate")
    one.page.wait_for_selector(FAILED)
    one.page.wait_for_selector("#cancel[disabled]")
    assert one.page.is_enabled("#download-glb") and one.page.is_visible(VIEWER) and one.page.is_enabled("#turntable")


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
    second.type(PROMPT, "a chair")
    second.page.click("#generate")
    queue = second.page.locator("#status >> text=/queue/i").first
    queue.wait_for()
    box, clips = queue.bounding_box(), second.page.evaluate(
        "() => { const e = document.querySelector('#status [data-testid=status-tracker]');"
        "return getComputedStyle(e).overflow !== 'visible' && e.getBoundingClientRect().height < 10 }"
    )
    assert box["height"] > 5 and not clips, "the line about the queue is cut off"
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


def test_the_page_is_up_before_the_model(browser, tiny_weights):
    with serving(tiny_weights, gated=True) as slow:
        one = Visit(browser, slow)
        one.type(PROMPT, "a mug")
        one.page.click("#generate")
        one.page.wait_for_selector(f".g-status[data-state=loading] >> text={texts.LOADING}")
        threading.Timer(0.3, slow.gate.set).start()
        one.page.wait_for_selector(DONE)
        assert one.foreign == [] and one.errors == []
        one.context.close()


def test_controls_follow_the_chosen_model(browser, tiny_weights, releases, tmp_path):
    """Words only for one of two models; the other one takes pictures, in the folded part several."""
    several = [releases[name] for name in ("image", "dinov2")]
    with serving(tiny_weights, several) as both:
        one = Visit(browser, both)
        page = one.page
        page.set_input_files("#picture input[type=file]", _png(tmp_path / "ball.png"))
        one.type(PROMPT, "make it blue")
        page.wait_for_selector("#blend", state="visible")
        assert "About" in page.inner_text("#cost") and "of weight files" in page.inner_text("#model-note")
        one.open_settings()
        page.click("#model input")
        page.click("text=image: a picture")
        for gone in ("#prompt", "#blend", "#set-grid_steps"):
            page.wait_for_selector(gone, state="hidden")
        assert "Full-size public weights" in page.inner_text("#model-note")
        one.settle("#advanced")  # the folded part is drawn anew
        one.attach("#views", *[_png(tmp_path / name) for name in ("a.png", "b.png")])
        page.uncheck("#randomise input")
        one.type_setting("structure_steps", "2")
        one.type_setting("slat_steps", "2")
        one.generate()
        page.wait_for_selector("#download-recipe:not([disabled])")
        with page.expect_download() as download:
            page.click("#download-recipe")
        download.value.save_as(tmp_path / "a.json")
        recipe = json.loads((tmp_path / "a.json").read_text())
        assert len(recipe["image"]) == 3 and recipe["weights"]["name"] == "image"
        assert one.foreign == [] and one.errors == []
        one.context.close()


def test_a_mesh_is_kept(visit, tmp_path):
    export_glb(solid_mesh(torus(), resolution=24), tmp_path / "ring.glb", texture_size=64, recipe={})
    one = visit()
    one.open_settings()
    one.attach("#mesh", tmp_path / "ring.glb")
    one.generate("a blue ring")
    one.page.wait_for_selector("#download-recipe:not([disabled])")
    with one.page.expect_download() as download:
        one.page.click("#download-recipe")
    download.value.save_as(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["mesh"]["voxels"] > 10
