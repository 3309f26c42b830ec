"""The scripts in examples/ that are not tested beside what they show."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gap3d_app import hub
from tests import tiny

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_generate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hub, "EMBEDDED", tiny.build(tmp_path / "weights" / "gap3d-mini").parent)
    monkeypatch.setattr(sys, "argv", ["generate.py", "a red chair", str(tmp_path / "chair.glb")])
    runpy.run_path(str(EXAMPLES / "generate.py"), run_name="__main__")
    assert (tmp_path / "chair.glb").read_bytes()[:4] == b"glTF" and (tmp_path / "chair.json").is_file()
    assert "structure" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chair"])
def test_pictures_are_the_projects_own_renders(name):
    script = runpy.run_path(str(EXAMPLES / "make_pictures.py"))
    assert {path.stem for path in EXAMPLES.glob("*.png")} == set(script["PICTURES"])
    stored = np.asarray(Image.open(EXAMPLES / f"{name}.png"), int)
    drawn = np.asarray(script["draw"](script["PICTURES"][name]), int)
    assert drawn.shape == stored.shape and np.abs(drawn - stored).mean() < 1
