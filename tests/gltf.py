"""The official glTF validator for tests.

Needs node and `npm install` in tests/node (`make test` does it); GAP3D_NODE_MODULES names another folder with
the package installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

NODE_DIR = Path(__file__).resolve().parent / "node"


def require_validator() -> dict[str, str]:
    """The environment to run the validator in; skips with a reason when it is missing, fails in CI."""
    modules = Path(os.environ.get("GAP3D_NODE_MODULES", NODE_DIR / "node_modules"))
    reason = None
    if shutil.which("node") is None:
        reason = "needs node for gltf-validator"
    elif not (modules / "gltf-validator").is_dir():
        reason = "needs gltf-validator: npm install --prefix tests/node"
    if reason is not None:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    if modules != NODE_DIR / "node_modules" and not (NODE_DIR / "node_modules").exists():
        # Modules are looked up beside the script only, so the script has to see the other folder there.
        (NODE_DIR / "node_modules").symlink_to(modules, target_is_directory=True)
    return dict(os.environ)


def validate_glbs(paths: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    """gltf-validator reports, one per file: `issues` holds numErrors, numWarnings and messages."""
    command = ["node", str(NODE_DIR / "validate.js"), *[os.fspath(path) for path in paths]]
    done = subprocess.run(command, env=require_validator(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def validate_glb(path: str | os.PathLike) -> dict[str, Any]:
    """The gltf-validator report of one file."""
    return validate_glbs([path])[0]


def assert_clean(report: dict[str, Any]) -> None:
    """No errors and no warnings; the messages are shown otherwise."""
    issues = report["issues"]
    assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, json.dumps(issues["messages"][:10], indent=1)
