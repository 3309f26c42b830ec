"""Radiance fields as NumPy archives (.npz): one array per field of `RadianceField`, float16 and int16."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from gap3d_app.errors import InputError
from gap3d_app.output import write_atomic
from gap3d_app.values import RadianceField

ARRAYS = {"coords": np.int16, "trivec": np.float16, "density": np.float16, "features_dc": np.float16}
"""Arrays of a file, named and shaped as in `RadianceField`; `resolution` [] and `aabb` [6] lie beside them."""


def save_radiance(field: RadianceField, path: str | Path) -> Path:
    """Write a radiance field; the file appears whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    arrays = {name: getattr(field, name).detach().cpu().numpy().astype(kind) for name, kind in ARRAYS.items()}
    arrays |= {"resolution": np.int64(field.resolution), "aabb": np.asarray(field.aabb, np.float32)}
    return write_atomic(path, lambda part: np.savez(part, **arrays))


def load_radiance(path: str | Path) -> RadianceField:
    """Read what `save_radiance` wrote, as float32 on the CPU.

    Raises:
        InputError: the file cannot be read or is not of this form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: torch.from_numpy(file[name].astype(np.float32)) for name in ARRAYS}
            values["coords"] = values["coords"].int()
            return RadianceField(**values, resolution=int(file["resolution"]), aabb=tuple(file["aabb"].tolist()))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{Path(path).name} is not a radiance field of this app ({error}); give its .npz.") from None
