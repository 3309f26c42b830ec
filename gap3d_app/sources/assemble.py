"""A pipeline from parts: any set of local folders and hub repositories, recognised by what lies in them.

    assemble(["microsoft/TRELLIS-image-large", "microsoft/TRELLIS-text-xlarge", "runs/gap3d-checkpoint"])

What the given parts need and the machine has (DINOv2, CLIP, Qwen, decoders of another repository) is added; what it
has not is listed with what it would make possible. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gap3d_app.errors import WeightsError
from gap3d_app.hub import PIPELINE
from gap3d_app.models.streaming import INDEX_ENDING, checkpoint_files, stored_tensors
from gap3d_app.sources import catalog, store
from gap3d_app.sources.fit import require_samplers, require_together
from gap3d_app.sources.names import locate, read_json, repository
from gap3d_app.sources.parts import (
    Part,
    grid_dit_part,
    image_encoder_part,
    prompt_encoder_part,
    text_encoder_part,
    trellis_part,
)

ROLES = {
    "sparse_structure_decoder": "structure_decoder",
    "sparse_structure_flow_model": "structure_flow",
    "slat_decoder_gs": "slat_decoder_gs",
    "slat_decoder_rf": "slat_decoder_rf",
    "slat_decoder_mesh": "slat_decoder_mesh",
    "slat_flow_model": "slat_flow",
}
"""TRELLIS's names of the parts and the pipeline's. The flows of a text model get `text_` before theirs."""

SAMPLERS = {"sparse_structure_sampler": "structure_sampler", "slat_sampler": "slat_sampler"}
GRID_SAMPLER = {"args": {}, "params": {"steps": 50, "guidance_scale": 3.0}}
"""The released demo's (gap3d.md 5.1)."""

PRESETS = {"fast": {"grid_steps": 10, "structure_steps": 10, "slat_steps": 6}, "standard": {}}
PRESET_SAMPLERS = {
    "fast": {
        "grid_sampler": {"solver": "ab2", "rescale_t": 2.0, "cfg_interval": [0.5, 1.0]},
        "structure_sampler": {"solver": "ab2", "rescale_t": 1.5},
        "slat_sampler": {"solver": "ab2", "rescale_t": 1.5},
    }
}
"""Fewer steps, by the solver and the times that suited the embedded weights best (docs/performance.md)."""

ENABLES = {
    "image_encoder": ("image prompts", catalog.DINOV2),
    "structure_flow": ("image and GAP3D prompts", catalog.IMAGE_LARGE),
    "slat_flow": ("image and GAP3D prompts", catalog.IMAGE_LARGE),
    "structure_decoder": ("any result", catalog.IMAGE_LARGE),
    "slat_decoder_gs": ("Gaussians", catalog.IMAGE_LARGE),
    "slat_decoder_rf": ("radiance fields", catalog.IMAGE_LARGE),
    "slat_decoder_mesh": ("meshes", catalog.IMAGE_LARGE),
    "text_encoder": ("text prompts through TRELLIS's own text models", catalog.CLIP),
    "text_structure_flow": ("text prompts without GAP3D", "trellis-text-xlarge"),
    "text_slat_flow": ("text prompts without GAP3D", "trellis-text-xlarge"),
    "grid_dit": ("text, and text with a picture, through GAP3D", None),
    "prompt_encoder": ("text, and text with a picture, through GAP3D", None),
}
"""What each part makes possible, and the catalog's name of where it comes from."""


@dataclass
class Assembly:
    """What `assemble` found.

    Attributes:
        name: of the first part, for people.
        folder: of the first part.
        args: samplers, normalisation and, under "models", the parts by role: what Gap3DPipeline reads.
        fingerprint: sha256 (hex) that stands for all files.
        missing: for every role that nothing fills, what it would make possible and how to get it.
    """

    name: str
    folder: Path
    args: dict[str, Any]
    fingerprint: str = ""
    missing: dict[str, str] = field(default_factory=dict)


def assemble(given: str | Path | list[str | Path] | tuple[str | Path, ...]) -> Assembly:
    """Recognise the parts and fill the roles of a pipeline.

    Args:
        given: local folders, "owner/name" of the hub, or short names of the catalog.

    Raises:
        WeightsError: a part is not here, is not recognised, or the parts have nothing to decode with.
    """
    given = list(given) if isinstance(given, list | tuple) else [given]
    if not given:
        raise WeightsError("Name at least one folder or repository of weights.")
    folders = [locate(item) for item in given]
    kinds: dict[str, Path] = {}
    for folder in folders:
        kind = kind_of(folder)
        if kind in kinds:
            both = f"{kinds[kind].name!r} and {folder.name!r}"
            raise WeightsError(f"The weights {both} are of one kind; give one of them.")
        kinds[kind] = folder
    for kind, repo in _companions(kinds).items():
        folder = store.find(repo)
        if folder is not None and not store.missing_files(catalog.by_repo(repo)):
            kinds.setdefault(kind, folder)
    first = folders[0]
    assembly = Assembly(_name(first, str(given[0])), first, {"models": {}})
    _fill_trellis(assembly, kinds)
    _fill_encoders(assembly.args["models"], kinds)
    _note_missing(assembly)
    assembly.args |= {"presets": PRESETS, "preset_samplers": PRESET_SAMPLERS}
    parts: dict[str, Part] = assembly.args["models"]
    assembly.args["missing"] = assembly.missing
    assembly.fingerprint = store.fingerprint(file for part in parts.values() for file in part.files)
    return assembly


def kind_of(folder: Path) -> str:
    """"image", "text" (TRELLIS pipelines), "gap3d", "qwen", "dinov2" or "clip".

    Raises:
        WeightsError: none of them.
    """
    if (folder / PIPELINE).is_file():
        name = str(read_json(folder / PIPELINE).get("name"))
        kinds = {"TrellisImageTo3DPipeline": "image", "TrellisTextTo3DPipeline": "text"}
        if name in kinds:
            return kinds[name]
        raise WeightsError(
            f"The weights {folder.name!r} are of another family: {PIPELINE} names {name[:60]!r}; known parts are "
            f"{' and '.join(kinds)}, and weights of this app are given alone."
        )
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if "gen_vision_tower" in config:  # what makes the release build its transformer (gap3d.md 2.5)
            return "gap3d"
        kinds = {"qwen2_5_vl": "qwen", "dinov2_with_registers": "dinov2", "clip": "clip", "clip_text_model": "clip"}
        found = config.get("model_type")
        if found in kinds:
            return kinds[found]
        raise WeightsError(
            f"The weights {folder.name!r} are of another family: config.json names the kind {str(found)[:60]!r}; known "
            f"are {', '.join(kinds)}."
        )
    if {"pos_embed", "register_tokens"} <= stored_tensors(checkpoint_files(folder)).keys():
        return "dinov2"
    raise WeightsError(f"The folder {folder.name!r} holds neither {PIPELINE} nor config.json; give a weights folder.")


def _companions(kinds: dict[str, Path]) -> dict[str, str]:
    """Repositories that the given kinds make useful, by kind."""
    names = {"image": catalog.IMAGE_LARGE, "dinov2": catalog.DINOV2}
    if "text" in kinds:
        names["clip"] = catalog.CLIP
    if "gap3d" in kinds:
        names["qwen"] = catalog.QWEN
    return {kind: catalog.source(name).repo for kind, name in names.items() if kind not in kinds}


def _name(folder: Path, given: str) -> str:
    """"TRELLIS-image-large" for a repository, else the folder's name."""
    return folder.resolve().name if Path(given).is_dir() else (repository(given) or given).split("/")[-1]


def _fill_trellis(assembly: Assembly, kinds: dict[str, Path]) -> None:
    """Parts and samplers of the image pipeline, then of the text pipeline.

    An image pipeline's decoders serve the text pipeline, whose own are the same files.
    """
    args, parts, stems = assembly.args, assembly.args["models"], {}
    for kind in ("image", "text"):
        if kind not in kinds:
            continue
        folder, prefix = kinds[kind], "text_" if kind == "text" else ""
        try:
            content = read_json(folder / PIPELINE)["args"]
            listed = dict(content["models"])
            args.setdefault("slat_normalization", content["slat_normalization"])
            for theirs, ours in SAMPLERS.items():
                args[prefix + ours] = content[theirs]
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"The file {PIPELINE} of {folder.name!r} is not TRELLIS's: it lacks {error}.") from None
        require_samplers(args, folder)
        for theirs, value in listed.items():
            if theirs not in ROLES:
                raise WeightsError(f"The file {PIPELINE} of {folder.name!r} names the unknown part {theirs!r}.")
            role = prefix + ROLES[theirs] if theirs.endswith("flow_model") else ROLES[theirs]
            stem = _stem(folder, str(value), kinds.get("image"))
            if stem is not None and role not in parts:
                parts[role], stems[role] = trellis_part(stem), stem
    for role, name in catalog.ENCODERS.items():
        stem = kinds["image"] / name if "image" in kinds else None
        if stem and _is_model(stem):
            parts[role], stems[role] = trellis_part(stem), stem
    if stems:
        require_together(stems, args["slat_normalization"])


def _stem(folder: Path, value: str, image: Path | None) -> Path | None:
    """Where a model of pipeline.json lies: below the folder, else "owner/name/path" of another repository.

    None when it is not here. Image weights that were given stand for the public ones.

    Raises:
        WeightsError: the path leaves the folder.
    """
    pieces = Path(value).parts
    if Path(value).is_absolute() or ".." in pieces:
        raise WeightsError(f"The file {PIPELINE} of {folder.name!r} names {value!r}, which is outside the folder.")
    stems = [folder / value]
    if len(pieces) > 2:
        repo = catalog.MIRRORS.get("/".join(pieces[:2]), "/".join(pieces[:2]))
        other = image if image and repo == catalog.source(catalog.IMAGE_LARGE).repo else store.find(repo)
        stems += [other.joinpath(*pieces[2:])] if other else []
    return next((stem for stem in stems if _is_model(stem)), None)


def _is_model(stem: Path) -> bool:
    """Whether a configuration and weights, in one file or several, lie at a stem."""
    endings = [stem.with_name(stem.name + ending).is_file() for ending in (".json", ".safetensors", INDEX_ENDING)]
    return endings[0] and any(endings[1:])


def _fill_encoders(parts: dict[str, Part], kinds: dict[str, Path]) -> None:
    if "dinov2" in kinds or "gap3d" in kinds:
        folder = kinds.get("dinov2") or kinds["gap3d"]
        if "dinov2" in kinds or _has_tower(folder):
            parts["image_encoder"] = image_encoder_part(folder)
    if "clip" in kinds:
        parts["text_encoder"] = text_encoder_part(kinds["clip"])
    if "gap3d" in kinds:
        parts["grid_dit"] = grid_dit_part(kinds["gap3d"])
        if "qwen" in kinds or _has_language(kinds["gap3d"]):
            parts["prompt_encoder"] = prompt_encoder_part(kinds["gap3d"], kinds.get("qwen"))


def _has_tower(gap3d: Path) -> bool:
    return _has_key(gap3d, "model.gen_vision_tower.")


def _has_language(gap3d: Path) -> bool:
    """Whether the checkpoint holds the frozen language model with its tokenizer, as the release saves it."""
    layers = _has_key(gap3d, "model.layers.") or _has_key(gap3d, "model.language_model.layers.")
    return layers and (gap3d / "tokenizer.json").is_file()


def _has_key(folder: Path, prefix: str) -> bool:
    return any(k.removeprefix("module.").startswith(prefix) for k in stored_tensors(checkpoint_files(folder)))


def remedy(args: dict[str, Any], role: str) -> str:
    """What a part that a pipeline lacks would make possible, and the way to it.

    Args:
        args: the pipeline's, assembled or read from a folder.
    """
    what = f"it would enable {ENABLES[role][0]}; " if role in ENABLES else ""
    return args.get("missing", {}).get(role, f"{what}use other weights")


def _note_missing(assembly: Assembly) -> None:
    """Name the empty roles; refuse what could make nothing at all.

    Raises:
        WeightsError: no structure, or no flow, can be decoded.
    """
    parts = assembly.args["models"]
    if "grid_dit" in parts:
        assembly.args |= {"grid_sampler": GRID_SAMPLER, "whole_pictures": True}
    for role, (what, where) in ENABLES.items():
        if role in parts:
            continue
        if where is not None:
            how = f"python -m gap3d_app weights pull {where}"
        elif role == "prompt_encoder" and "grid_dit" in parts:
            how = "python -m gap3d_app weights pull qwen"
        else:
            how = "a GAP3D checkpoint folder (none is published)"
            if "text_slat_flow" not in parts:
                how += ", or use TRELLIS's text models: python -m gap3d_app weights pull trellis-text-xlarge"
        assembly.missing[role] = f"it would enable {what}; get it with {how}"
    for role in ("structure_decoder", "slat_decoder_mesh"):
        if role in assembly.missing:
            raise WeightsError(f"The weights {assembly.name!r} have no {role}; {assembly.missing[role]}.")
