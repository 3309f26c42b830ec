"""The guess before the first run, and what is learnt from runs."""

import pytest

from gap3d_app import estimate
from gap3d_app.estimate import Estimate
from gap3d_app.settings import Settings

MINI = {"grid_dit": 23_000_000, "structure_flow": 23_000_000, "slat_flow": 34_000_000}
LARGE = {"grid_dit": 2_500_000_000, "structure_flow": 1_130_000_000, "slat_flow": 1_200_000_000}
STANDARD = Settings(grid_steps=6, structure_steps=10, slat_steps=6)


def test_the_guess_is_near_what_was_measured(monkeypatch):
    """docs/performance.md: about 5.5 s for gap3d-mini on two cores; the released code, 6.5 s of networks on a GPU."""
    monkeypatch.setattr(estimate, "cores", lambda: 2)
    assert 3 < sum(Estimate("cpu", MINI).seconds(STANDARD).values()) < 9
    found = Estimate("cuda", LARGE).seconds(Settings(grid_steps=50, structure_steps=25, slat_steps=25))
    assert 4 < found["grid"] + found["structure"] + found["slat"] < 13
    assert sum(Estimate("cpu", LARGE).seconds(STANDARD).values()) > 600


def test_steps_and_prompts_count():
    guess = Estimate("cuda", LARGE | {"text_structure_flow": 4 * 10**9, "text_slat_flow": 10**9})
    full, fewer = guess.seconds(STANDARD), guess.seconds(Settings(grid_steps=3, structure_steps=10, slat_steps=6))
    assert fewer["grid"] == pytest.approx(full["grid"] / 2) and fewer["slat"] == full["slat"]
    assert guess.seconds(STANDARD, words=False)["grid"] == 0 == guess.seconds(STANDARD, route="text_")["grid"]
    assert guess.seconds(STANDARD, shape=True)["structure"] == 0
    assert guess.seconds(STANDARD, route="text_")["structure"] > 2 * full["structure"]
    assert Estimate("cuda", LARGE, copied=True).seconds(STANDARD)["prompt"] > full["prompt"] + 1


def test_runs_are_remembered_by_the_step():
    found = Estimate("cpu", MINI)
    found.learn(STANDARD, {"grid": 60.0, "structure": 10.0, "slat": 6.0, "files": 2.0, "asset": 0.1})
    more = found.seconds(Settings(grid_steps=12, structure_steps=5, slat_steps=6))
    assert (more["grid"], more["structure"], more["slat"], more["files"]) == (120.0, 5.0, 6.0, 2.0)
    found.learn(STANDARD, {"grid": 0.01, "files": 4.0}, words=False)  # a picture alone says nothing of grid steps
    assert found.seconds(STANDARD)["grid"] == 60.0 and found.seconds(STANDARD)["files"] == 3.0
    assert found.seconds(STANDARD, route="text_")["files"] != 3.0
