"""The official glTF validator for tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.node_packages import NODE_DIR, node_package


def require_validator() -> None:
    """Skip with a reason when the validator is missing, fail in CI."""
    node_package("gltf-validator")


def validate_glbs(paths: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    """gltf-validator reports, one per file: `issues` holds numErrors, numWarnings and messages."""
    require_validator()
    command = ["node", str(NODE_DIR / "validate.js"), *[os.fspath(path) for path in paths]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def validate_glb(path: str | os.PathLike) -> dict[str, Any]:
    """The gltf-validator report of one file."""
    return validate_glbs([path])[0]


def assert_clean(report: dict[str, Any]) -> None:
    """No errors and no warnings; the messages are shown otherwise."""
    issues = report["issues"]
    assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, json.dumps(issues["messages"][:10], indent=1)
