"""Assets and their representations as plain arrays and numbers: for another process, or for a folder.

Arrays of NumPy, because tensors that cross processes lie in memory that goes with the one that made them.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gap3d_app.asset import Asset
from gap3d_app.output import write_atomic
from gap3d_app.values import Gaussians, Mesh, RadianceField

NAME = "turned.safetensors"
KINDS = {kind.__name__: kind for kind in (Mesh, Gaussians, RadianceField)}
RESULTS, FACTS = ("mesh", "gaussians", "radiance"), ("recipe", "seconds", "warnings")

Parted = tuple[str, dict[str, np.ndarray], dict[str, Any]]
"""Name of the class, arrays, and what else it holds, by field."""


def parted(value: Mesh | Gaussians | RadianceField) -> Parted:
    """A representation as plain values, in the host's memory."""
    entries = {field.name: getattr(value, field.name) for field in fields(value)}
    arrays = {k: v.detach().cpu().contiguous().numpy() for k, v in entries.items() if isinstance(v, Tensor)}
    numbers = {k: v for k, v in entries.items() if v is not None and not isinstance(v, Tensor)}
    return type(value).__name__, arrays, numbers


def joined(parts: Parted) -> Mesh | Gaussians | RadianceField:
    """What `parted` took apart."""
    kind, arrays, numbers = parts
    return KINDS[kind](**{key: torch.from_numpy(array) for key, array in arrays.items()}, **numbers)


def packed(asset: Asset) -> dict[str, Any]:
    """What files are made of, as plain values; without the values of the stages before."""
    results = {name: getattr(asset, name) for name in RESULTS}
    plain = {name: parted(value) for name, value in results.items() if value is not None}
    return plain | {name: getattr(asset, name) for name in FACTS}


def unpacked(plain: dict[str, Any]) -> Asset:
    """The asset that `packed` took apart."""
    return Asset(**{name: joined(value) if name in RESULTS else value for name, value in plain.items()})


def keep(asset: Asset, folder: Path) -> Path:
    """Write what turntables show into a result's folder, for one that somebody may ask for later.

    Raises:
        OutputError: the file cannot be written.
    """
    from safetensors.numpy import save

    kind, arrays, numbers = parted(asset.turned)
    facts = {"kind": kind, "numbers": json.dumps(numbers), "shading": asset.shading}
    return write_atomic(folder / NAME, save(arrays, metadata=facts))


def kept(folder: Path) -> tuple[Mesh | Gaussians | RadianceField, str]:
    """What `keep` wrote, and its shading."""
    from safetensors import safe_open

    with safe_open(folder / NAME, framework="numpy") as file:
        facts, arrays = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    return joined((facts["kind"], arrays, json.loads(facts["numbers"]))), facts["shading"]
