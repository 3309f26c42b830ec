"""Golden files: reading, comparing, and one printed row per file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


@dataclass
class Golden:
    """One golden file.

    Attributes:
        path: where it was read.
        meta: its metadata; strings of JSON objects and lists are decoded.
        tensors: all entries by full name.
        content: the decoded content of a JSON file, None for safetensors.
    """

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    content: Any = None

    @property
    def name(self) -> str:
        """File name without ending."""
        return self.path.stem

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Entries whose name starts with `prefix.`, without it."""
        start = prefix + "."
        return {key[len(start) :]: value for key, value in self.tensors.items() if key.startswith(start)}

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.part("weights")

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.part("inputs")

    @property
    def outputs(self) -> dict[str, Tensor]:
        return self.part("outputs")


@dataclass
class Row:
    """Comparison of one output.

    Attributes:
        name: the output.
        error: largest absolute error; NaN or infinity never pass.
        tolerance: largest allowed error.
        note: what else there is to say.
    """

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance

    @property
    def badness(self) -> float:
        """Error over tolerance; above 1 fails."""
        if math.isnan(self.error):
            return math.inf
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.tolerance


def read(path: Path) -> Golden:
    """Read a `.safetensors` or `.json` file."""
    if path.suffix == ".json":
        return Golden(path, content=json.loads(path.read_text(encoding="utf-8")))
    with safe_open(path, framework="pt") as content:
        meta = {key: _decoded(value) for key, value in (content.metadata() or {}).items()}
        return Golden(path, meta, {key: content.get_tensor(key) for key in content.keys()})


def _decoded(text: str) -> Any:
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def compare(name: str, got: Tensor | None, expected: Tensor, tolerance: float) -> Row:
    """Largest absolute difference of two tensors of the same shape."""
    if got is None:
        return Row(name, math.inf, tolerance, "not computed")
    if tuple(got.shape) != tuple(expected.shape):
        return Row(name, math.inf, tolerance, f"shape {list(got.shape)}, expected {list(expected.shape)}")
    if expected.numel() == 0:
        return Row(name, 0.0, tolerance)
    error = (got.detach().cpu().double() - expected.double()).abs().max().item()
    return Row(name, error, tolerance)


def compare_all(golden: Golden, got: dict[str, Tensor], tolerances: dict[str, float]) -> list[Row]:
    """A row for every expected output; outputs that were not computed fail."""
    return [
        compare(name, got.get(name), expected, float(tolerances.get(name, 0.0)))
        for name, expected in golden.outputs.items()
    ]


def worst(rows: list[Row]) -> Row:
    """The row that is nearest to failing, or fails most."""
    return max(rows, key=lambda row: (not row.passed, row.badness))


def golden_files(folders: list[Path]) -> list[Path]:
    """The golden files of the given folders (or files), sub-folders included, in order of their names."""
    files: list[Path] = []
    for folder in folders:
        if folder.is_file():
            files.append(folder)
            continue
        found = [*folder.rglob("*.safetensors"), *folder.rglob("*.json")]
        files += sorted(found)
    return files


