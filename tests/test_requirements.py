"""What `make setup` installs: pinned, for every system, without torchvision and without CUDA packages."""

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "linux-arm": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64"},
}
UNWANTED = ("torchvision", "torchaudio", "nvidia-", "cuda-", "triton", "cupy", "nvdiffrast", "onnxruntime-gpu")


def read(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (REPO / name).read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def for_system(requirements: list[Requirement], system: str) -> list[Requirement]:
    environment = {**SYSTEMS[system], "extra": ""}
    return [one for one in requirements if one.marker is None or one.marker.evaluate(environment)]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-cuda.txt", "requirements-dev.txt"])
def test_every_version_is_pinned(name):
    for one in read(name):
        assert [s.operator for s in one.specifier] == ["=="], one


def test_torch_comes_first():
    assert str(read("requirements.txt")[0]) == "torch==2.13.0"


@pytest.mark.parametrize("system", SYSTEMS)
def test_spconv_is_for_linux_on_x86_64(system):
    names = {one.name for one in for_system(read("requirements.txt"), system)}
    assert ("spconv" in names) == (system == "linux") and {"torch", "gradio", "transformers"} <= names


def test_cuda_differs_only_where_it_must():
    """The same packages, other builds of torch and spconv, and what these and gsplat need."""
    plain, cuda = ({one.name: str(one.specifier) for one in read(f"requirements{kind}.txt")} for kind in ("", "-cuda"))
    assert set(plain) - set(cuda) == {"spconv"}
    more = {"spconv-cu126", "cumm-cu126", "ccimport", "pccm", "fire", "lark", "termcolor", "gsplat"}
    assert set(cuda) - set(plain) == more and plain["spconv"] == cuda["spconv-cu126"]
    different = {name for name in set(plain) & set(cuda) if plain[name] != cuda[name]}
    assert different == {"torch", "transformers", "huggingface_hub"}
    assert "nvdiffrast" not in cuda and "nvdiffrast 0.4.0" in (REPO / "requirements-cuda.txt").read_text("utf-8")


def test_nothing_unwanted_is_drawn_in():
    """Follows what the installed packages ask for; torch's own wheel is the user's choice (TORCH_INDEX)."""
    waiting = [one for one in for_system(read("requirements.txt"), "linux") if one.name != "torch"]
    seen: dict[str, str] = {}
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in seen or name == "torch":
            continue
        seen[name] = str(one)
        assert not name.startswith(UNWANTED), f"{name} is drawn in"
        try:
            asked = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:  # for another system or Python
            continue
        extras = ["", *one.extras]
        waiting += [x for x in asked if x.marker is None or any(x.marker.evaluate({"extra": e}) for e in extras)]
    assert {"gradio", "transformers", "spconv"} <= set(seen) and len(seen) > 30
