"""Lists of state-dict keys: networks built without memory must have exactly these entries."""

from __future__ import annotations

from typing import Any

import torch

from gap3d_app.models.checkpoint import build_model
from tests.conformance.golden import Row


def is_key_lists(content: Any) -> bool:
    """Whether a JSON file maps network names to classes, arguments and parameter shapes."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(v, dict) and {"class", "args", "parameters"} <= set(v) for v in content.values())
    )


def check_key_lists(content: dict[str, dict[str, Any]]) -> list[Row]:
    """One row a network; the error is the number of wrong entries."""
    rows = []
    for name, entry in content.items():
        wrong = wrong_entries(entry)
        rows.append(Row(name, float(len(wrong)), 0.0, ", ".join(wrong[:3])))
    failed = [row for row in rows if not row.passed]
    return failed or [Row(f"{len(rows)} networks", 0.0, 0.0)]


def wrong_entries(entry: dict[str, Any]) -> list[str]:
    """Keys with another shape or dtype than listed, missing keys and keys too many."""
    expected = {**entry["parameters"], **entry.get("buffers_in_state_dict", {})}
    with torch.device("meta"):
        model = build_model(entry.get("config_class", entry["class"]), entry["args"])
    wrong = sorted(expected.keys() ^ model.state_dict().keys())
    wrong += [k for k, v in model.state_dict().items() if k in expected and list(v.shape) != expected[k]]
    if "total_params" in entry:
        total = sum(p.numel() for p in model.parameters())
        wrong += [] if total == entry["total_params"] else [f"{total} parameters"]
    if "float16_keys_when_use_fp16" in entry:
        model.to_torso_dtype(torch.float16)
        half = {key for key, value in model.state_dict().items() if value.dtype == torch.float16}
        wrong += sorted(half ^ set(entry["float16_keys_when_use_fp16"]))
    return wrong
