"""Fixtures shared by all tests, and which folders are left out on a machine without the page's packages."""

import importlib.util
import os
from pathlib import Path

import pytest

import gap3d_app  # noqa: F401  before torch, because it says how torch's threads wait
from tests.compilations import compilations  # noqa: F401
from tests.sources.published import empty_hub_cache, releases  # noqa: F401
from tests.varlen import varlen_on_cpu  # noqa: F401

REPO = Path(__file__).resolve().parent.parent

# A machine that only runs `pytest -m gpu` need not have the page's packages, but every folder is collected.
collect_ignore = [] if importlib.util.find_spec("gradio") else ["ui", "browser"]


def pytest_report_header() -> str | None:
    """Say so when folders are left out."""
    return f"gradio is not installed: {' and '.join(collect_ignore)} left out" if collect_ignore else None


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with golden files and real assets that are not part of the repository."""
    folder = Path(os.environ.get("GAP3D_SHARED", REPO.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared folder (set GAP3D_SHARED); {folder.name!r} is not beside the checkout")
    return folder
