"""What the README tells a newcomer to type is there and works."""

import re
import shlex
from pathlib import Path

import pytest

from gap3d_app import hub
from gap3d_app.cli import _parser
from tests import tiny

REPO = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "train/README.md")


def blocks(text: str) -> list[str]:
    """Indented and fenced code of a page, line by line."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    indented = re.findall(r"^(?: {4}\S.*\n)+", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return [line.strip() for block in fenced + indented for line in block.splitlines() if line.strip()]


COMMANDS = [
    (page, line) for page in PAGES for line in blocks((REPO / page).read_text("utf-8"))
    if line.startswith(("python ", "make ", "accelerate "))
]


def test_there_are_commands():
    assert any(line.startswith("make app") for _, line in COMMANDS) and len(COMMANDS) > 6


@pytest.mark.parametrize("page, line", COMMANDS, ids=lambda value: value[:60])
def test_commands_exist(page, line):
    words = shlex.split(line.split("  #")[0], comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.M)
        assert [word for word in words[1:] if "=" not in word][0] in targets
    elif words[:3] == ["python", "-m", "gap3d_app"]:
        if "--help" not in words:
            assert callable(_parser().parse_args(words[3:]).run)
    elif "-m" in words:
        module = REPO / Path(*words[words.index("-m") + 1].split("."))
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    else:
        assert (REPO / words[1]).is_file()
    for option, path in zip(words, words[1:], strict=False):
        if option in ("--image", "--config") and "<" not in path:
            assert (REPO / path).is_file(), path


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (REPO / page).read_text("utf-8")):
        if "://" not in target:
            assert (REPO / page).parent.joinpath(target).exists(), target


def test_the_python_lines_work(tmp_path, monkeypatch):
    weights = tiny.build(tmp_path / "weights" / "gap3d-mini")
    monkeypatch.setattr(hub, "EMBEDDED", weights.parent)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", (REPO / "README.md").read_text("utf-8"), re.M | re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "chair.glb").read_bytes()[:4] == b"glTF"


def test_the_folder_of_the_embedded_weights_is_a_name_too(monkeypatch):
    if not (REPO / "weights" / "gap3d-mini" / hub.PIPELINE).is_file():
        pytest.skip("weights/gap3d-mini is not in this checkout")
    monkeypatch.chdir(REPO)
    assert hub.resolve("weights/gap3d-mini").resolve() == hub.resolve("gap3d-mini")
