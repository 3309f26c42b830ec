"""The parts of the page that need no server."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

import gap3d_app.ui
from gap3d_app.background import METHODS
from gap3d_app.errors import InputError, WeightsError
from gap3d_app.pipeline import StageEvent
from gap3d_app.settings import Settings
from gap3d_app.ui import fields, runs, server, status, texts, view
from gap3d_app.ui.loading import Loader
from gap3d_app.ui.workdir import WorkDir


@pytest.fixture
def work():
    """A work folder that is removed afterwards."""
    folder = WorkDir(quota_bytes=1000, max_age_s=3600)
    yield folder
    folder.close()


def _fill(work: WorkDir, size: int, age: float) -> str:
    with work.new_result() as (key, folder):
        (folder / "a.glb").write_bytes(b"x" * size)
        for path in (folder / "a.glb", folder):
            os.utime(path, (time.time() - age,) * 2)
    return key


def test_results_have_unguessable_names(work):
    keys = {_fill(work, 10, 0) for _ in range(5)}
    assert len(keys) == 5 and all(len(key) == 32 for key in keys)


def test_a_result_that_cannot_be_filled_leaves_no_folder(work):
    with pytest.raises(OSError), work.new_result() as (key, folder):
        (folder / "a.glb").write_bytes(b"begun")
        raise OSError("disk full")
    assert work.result(key) is None and list(work.results.iterdir()) == []


def test_the_oldest_go_when_the_quota_is_full(work):
    old, middle, new = _fill(work, 400, 300), _fill(work, 400, 200), _fill(work, 400, 100)
    work.sweep()
    assert work.result(old) is None and work.result(middle) and work.result(new)


def test_what_is_too_old_goes(work):
    old = _fill(work, 10, 7200)
    work.sweep()
    assert work.result(old) is None


@pytest.mark.parametrize("key", [None, "", "..", "../results", "/etc", "%2E%2E", "a" * 31 + "/", 7, "A" * 32])
def test_only_own_ids_become_paths(work, key):
    assert work.result(key) is None


def test_uploads_count_and_go_too(work):
    upload = work.uploads / "hash"
    upload.mkdir()
    (upload / "a.png").write_bytes(b"x" * 2000)
    work.sweep()
    assert not upload.exists() and work.uploads.is_dir()


def test_a_failed_load_says_why_and_is_tried_again():
    outcomes = [WeightsError("The file a is missing."), RuntimeError("internals"), "pipeline"]

    def load():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    loader = Loader(load)
    with pytest.raises(WeightsError, match="The file a is missing"):
        list(runs.wait_for_pipeline(loader))
    with pytest.raises(WeightsError, match="could not be loaded") as unexpected:
        list(runs.wait_for_pipeline(loader))
    assert "internals" not in str(unexpected.value)
    list(runs.wait_for_pipeline(loader))
    assert loader.pipeline == "pipeline"


def test_progress_follows_the_events():
    progress = status.Progress()
    progress.begin(Settings(grid_steps=4, structure_steps=4, slat_steps=4))
    shares = [progress.share]
    for stage, of in (("prompt", 1), ("grid", 4), ("structure", 4), ("slat", 4), ("decode", 2), ("mesh", 1)):
        for step in range(1, of + 1):
            progress.observe(StageEvent(stage, step, of, 0.5))
            shares.append(progress.share)
    assert shares == sorted(shares) and 0 == shares[0] < shares[-1] < 1
    assert progress.line == texts.WRITING and progress.seconds["grid"] == 0.5
    progress.end("done", "x")
    assert progress.share == 1.0


def test_a_stage_may_take_fewer_steps_than_planned():
    progress = status.Progress()
    progress.begin(Settings(grid_steps=25))
    progress.observe(StageEvent("grid", 1, 1, 0.1))
    assert "grid" in progress.seconds and progress.share < 1


def test_messages_are_text_not_html():
    progress = status.Progress()
    progress.end("failed", "<script>alert(1)</script>")
    assert "<script>" not in progress.html() and "&lt;script&gt;" in progress.html()
    assert "<b>" not in status.cut_out_html(None, "<b>")
    assert "<b>" not in status.cut_out_html("data:,", "x", "<b>")


@pytest.mark.parametrize(
    ("text", "stem"),
    [("A small red toy airplane!", "a-small-red-toy-airplane"), ("../../etc/passwd", "etc-passwd"), ("", "model"),
     ("椅子", "model"), ("x" * 90, "x" * 40)],
)
def test_file_names_are_plain(text, stem):
    assert runs.file_stem(text) == stem


@pytest.mark.parametrize(
    ("typed", "value"), [("", None), (" 12 ", 12), ("1.5", 1.5), ("nan", "nan"), ("many", "many"), (None, None), (3, 3)]
)
def test_typed_numbers(typed, value):
    got = fields.number(typed)
    assert got == value or (value == "nan" and got != got)


def test_every_setting_has_a_control_or_is_made_by_the_page():
    for spec in Settings.specs().values():
        if spec.kind != "multi":
            assert fields.control(spec).info == spec.help


def test_gradio_writes_no_files_beside_the_source():
    assert not list(Path(gap3d_app.ui.__file__).parent.glob("*.pyi"))


def test_vibe_mode_is_refused(monkeypatch):
    monkeypatch.setenv("GRADIO_VIBE_MODE", "1")
    with pytest.raises(InputError, match="GRADIO_VIBE_MODE"):
        server.launch()


@pytest.mark.parametrize("size", [(0.3, 0.95, 0.3), (0.95, 0.3, 0.8), (0.9, 0.9, 0.9), (0.95, 0.1, 0.1), (40, 9, 20)])
def test_a_model_is_seen_whole_and_large_from_every_side(size):
    half = np.array(size) / 2
    away = view.distance(list(-half), list(half))
    corners = np.stack(np.meshgrid(*[(-x, x) for x in half]), -1).reshape(-1, 3)
    largest = 0.0
    for turn in np.radians(np.arange(0, 360, 5)):
        beta = np.radians(view.BETA)
        eye = np.array([np.cos(turn) * np.sin(beta), np.cos(beta), np.sin(turn) * np.sin(beta)])
        right = np.cross([0, 1, 0], eye) / np.linalg.norm(np.cross([0, 1, 0], eye))
        seen = (corners - away * eye) @ np.stack([right, np.cross(eye, right), -eye]).T
        reach = np.abs(seen[:, :2] / seen[:, 2:]) / np.tan(view.FIELD_OF_VIEW / 2) / [view.ASPECT, 1]
        largest = max(largest, reach.max())
    assert 0.75 < largest < 1


def test_every_cut_out_method_has_words():
    assert set(texts.METHODS) == set(METHODS)
    assert set(texts.METHOD_FOUND) == set(METHODS) - {"auto"}
