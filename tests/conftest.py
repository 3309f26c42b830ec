"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

import gap3d_app  # noqa: F401  before torch, because it says how torch's threads wait

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with golden files and real assets that are not part of the repository."""
    folder = Path(os.environ.get("GAP3D_SHARED", REPO.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared folder (set GAP3D_SHARED); {folder.name!r} is not beside the checkout")
    return folder
