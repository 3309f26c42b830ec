"""What the doctor says of machines that are made up."""

import pytest

from gap3d_app import doctor
from gap3d_app.sources import catalog

GB = 10**9


def judged(name: str, card: float = 0, memory: float = 256, here: tuple[str, ...] | None = None, build="13.0") -> dict:
    """The doctor's word on one setup, for a machine with these gigabytes and weights."""
    setup = next(s for s in doctor.SETUPS if s.name == name)
    devices = [{"name": "card", "memory": int(card * GB), "free": int(card * GB)}] if card else []
    found = {
        "torch": {"error": None, "devices": devices, "why_no_gpu": "torch is built for the CPU only"},
        "machine": {"memory": int(memory * GB)},
        "weights": {s.name: "here" if here is None or s.name in here else "absent" for s in catalog.SOURCES},
    }
    return doctor._judge(setup, found)


@pytest.mark.parametrize("name", ["image-large", "text-base", "text-xlarge"])
def test_a_large_card_with_all_weights(name):
    assert judged(name, card=24)["runs"] == "yes" and judged(name, card=24)["why"] == []


def test_gap3d_needs_a_checkpoint_of_ones_own():
    found = judged("gap3d", card=80)
    assert found["runs"] == "with one" and "none is published" in found["why"][0]
    small = judged("gap3d", card=12, memory=16)
    assert small["runs"] == "no" and "the graphics card has 12.00 GB" in small["why"][0]


def test_a_small_card():
    small = judged("image-large", card=6, memory=32)
    assert small["runs"] == "low-vram" and "low-vram mode, with 7.52 GB of the host's memory" in small["why"][0]
    assert judged("image-large", card=4, memory=32)["runs"] == "slowly"
    assert judged("image-large", card=6, memory=7)["runs"] == "no"


def test_missing_weights_are_named_with_their_command():
    found = judged("image-large", card=24, here=("dinov2",))
    assert found["runs"] == "no" and len(found["why"]) == 1
    assert "trellis-image-large (3.30 GB) are missing: python -m gap3d_app weights pull trellis" in found["why"][0]


def test_no_card():
    slow = judged("image-large", memory=32)
    assert slow["runs"] == "slowly" and "no graphics card (torch is built for the CPU only)" in slow["why"][0]
    small = judged("image-large", memory=8)
    assert small["runs"] == "no" and "there are 8.00 GB" in small["why"][0]


def test_examine_says_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    found = doctor.examine()
    assert found["weights"]["qwen"] == "absent" and found["machine"]["cores"] > 0 and found["machine"]["disk_free"]
    assert found["packages"]["gradio"]["version"] and found["torch"]["version"]
    mini = found["setups"][0]
    assert mini["name"] == "gap3d-mini" and mini["runs"] == "yes" or mini["why"]
    text = doctor.report(found)
    assert all(setup["name"] in text for setup in found["setups"]) and "research licence" in text
