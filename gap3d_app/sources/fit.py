"""Whether the parts of a pipeline belong together, from their configurations alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gap3d_app.errors import WeightsError
from gap3d_app.models.checkpoint import model_class, read_config

CLASSES = {
    "structure_flow": "SparseStructureFlowModel", "structure_decoder": "SparseStructureDecoder",
    "structure_encoder": "SparseStructureEncoder", "slat_flow": "SLatFlowModel", "slat_encoder": "SLatEncoder",
    "slat_decoder_gs": "SLatGaussianDecoder", "slat_decoder_rf": "SLatRadianceFieldDecoder",
    "slat_decoder_mesh": "SLatMeshDecoder",
}  # fmt: skip
"""Class of the network in a role; the text models' flows have the same."""

NOT_THEIRS = (KeyError, IndexError, ValueError, TypeError, AttributeError, ZeroDivisionError, OverflowError)
"""What code that reads a published layout meets in files of another one."""


@contextmanager
def layout_of(name: str) -> Iterator[None]:
    """Files of another layout, met inside, are named.

    Raises:
        WeightsError: for what the files do not have as it should be.
    """
    try:
        yield
    except NOT_THEIRS as error:
        what = f"they lack {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise WeightsError(
            f"The weights {name!r} are of another family or damaged: {what}; docs/weights.md says which can be used."
        ) from error


def require_samplers(args: Mapping[str, Any], folder: Path) -> None:
    """Look at what pipeline.json says beside its models.

    Raises:
        WeightsError: a sampler or the normalisation has another form.
    """
    def refuse(name: str, form: str) -> None:
        raise WeightsError(f"The pipeline.json of {folder.name!r} has another {name} than {form}; get the file again.")

    for name, value in args.items():
        if name.endswith("_sampler"):
            parts = [value.get(key, {}) for key in ("args", "params")] if isinstance(value, dict) else [None]
            if not all(isinstance(part, dict) for part in parts):
                refuse(name, "args and params by name")
    numbers = args.get("slat_normalization")
    lists = [numbers.get(key) for key in ("mean", "std")] if isinstance(numbers, dict) else [None]
    for values in lists:
        if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
            refuse("slat_normalization", "the lists mean and std")
    if len(lists[0]) != len(lists[1]):
        refuse("slat_normalization", "lists of one length")


def require_together(stems: Mapping[str, Path], normalization: Mapping[str, list]) -> None:
    """Compare classes and latent channels of TRELLIS's networks.

    Args:
        stems: files by role.
        normalization: of pipeline.json.

    Raises:
        WeightsError: a network is not of the class of its role, or its latent has other channels than its partner's.
    """
    configs = {}
    for role, stem in stems.items():
        name, configs[role] = read_config(stem)
        expected = CLASSES[role.removeprefix("text_")]
        if model_class(name).__name__ != expected:
            raise WeightsError(f"The network {stem.name!r} is a {name}; as {role} a {expected} is needed.")
    for kind in ("structure", "slat"):
        flows = [role for role in configs if role.removeprefix("text_") == f"{kind}_flow"]
        others = [role for role in configs if role.startswith(kind) and role not in flows]
        for flow in flows:
            channels = configs[flow].get("in_channels")
            for other in others:
                found = configs[other].get("latent_channels", channels)
                if found != channels:
                    raise WeightsError(
                        f"The {flow} {stems[flow].name!r} makes latents of {channels} channels, the {other} "
                        f"{stems[other].name!r} has {found}; give parts of one release."
                    )
            if kind == "slat" and channels != len(normalization["mean"]):
                raise WeightsError(
                    f"The {flow} {stems[flow].name!r} makes latents of {channels} channels, but pipeline.json "
                    f"normalises {len(normalization['mean'])}; give parts of one release."
                )
