"""Packages of npm that tests call.

They need node and `npm install` in tests/node (`make test` does it); GAP3D_NODE_MODULES names another folder with the
packages installed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NODE_DIR = Path(__file__).resolve().parent / "node"


def node_package(name: str) -> Path:
    """The folder of an installed package; the test skips with a reason without it, and fails in CI."""
    modules = Path(os.environ.get("GAP3D_NODE_MODULES", NODE_DIR / "node_modules"))
    reason = None
    if shutil.which("node") is None:
        reason = f"needs node for {name}"
    elif not (modules / name).is_dir():
        reason = f"needs {name}: npm install --prefix tests/node"
    if reason is not None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    if modules != NODE_DIR / "node_modules" and not (NODE_DIR / "node_modules").exists():
        # Modules are looked up beside the script only, so the script has to see the other folder there.
        (NODE_DIR / "node_modules").symlink_to(modules, target_is_directory=True)
    return modules / name
