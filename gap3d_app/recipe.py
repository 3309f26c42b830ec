"""What an asset can be made again from: prompt, settings, seeds, weights, versions."""

from __future__ import annotations

import hashlib
import platform
from typing import Any

import torch

from gap3d_app import __version__
from gap3d_app.background import CutOut
from gap3d_app.stages import Run


def write_recipe(run: Run, weights: dict[str, str], dtype: torch.dtype) -> dict[str, Any]:
    """The recipe of a finished run, JSON-ready; `weights` has their name and their manifest's sha256."""
    settings = run.settings.as_dict()
    del settings["formats"]  # which files are written does not change what is in them
    prompt = run.prompt
    recipe = {
        "prompt": prompt.text,
        "image": None if prompt.picture is None else _picture(prompt.picture),
        "settings": settings,
        "structure_seed": run.structure_seed,
        "weights": weights,
        "versions": {"gap3d_app": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": run.slat.feats.device.type,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if len(prompt.pictures) > 1:
        recipe["image"] = [_picture(cut) for cut in prompt.pictures]
        recipe["multi_image"] = prompt.multi_image
    if run.grid is None:  # the latent was given
        feats = run.slat.feats.float().cpu().contiguous().numpy()
        recipe["slat"] = {"voxels": len(feats), "feats_sha256": hashlib.sha256(feats.tobytes()).hexdigest()}
    if prompt.mesh is not None:
        voxels = run.occupancy.coords[:, 1:].cpu().contiguous().numpy()
        recipe["mesh"] = {"voxels": len(voxels), "voxels_sha256": hashlib.sha256(voxels.tobytes()).hexdigest()}
    return recipe


def _picture(cut: CutOut) -> dict[str, Any]:
    facts = {"sha256": cut.sha256, "background": cut.method}
    return {**facts, "exact_preprocessing": True} if cut.exact else facts
