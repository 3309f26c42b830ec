"""What a result's folder keeps of an asset for a turntable that somebody may ask for later."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from torch import Tensor

from gap3d_app.output import write_atomic
from gap3d_app.values import Gaussians, Mesh, RadianceField

NAME = "turned.safetensors"
KINDS = {kind.__name__: kind for kind in (Mesh, Gaussians, RadianceField)}


def keep(value: Mesh | Gaussians | RadianceField, folder: Path) -> Path:
    """Write the value's tensors, and its numbers beside them.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.torch import save

    entries = {field.name: getattr(value, field.name) for field in fields(value)}
    tensors = {k: v.detach().cpu().contiguous() for k, v in entries.items() if isinstance(v, Tensor)}
    numbers = {k: v for k, v in entries.items() if v is not None and not isinstance(v, Tensor)}
    facts = {"kind": type(value).__name__, "numbers": json.dumps(numbers)}
    return write_atomic(folder / NAME, save(tensors, metadata=facts))


def kept(folder: Path) -> Mesh | Gaussians | RadianceField:
    """What `keep` wrote."""
    from safetensors import safe_open

    with safe_open(folder / NAME, framework="pt") as file:
        facts, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    return KINDS[facts["kind"]](**tensors, **json.loads(facts["numbers"]))
