"""The published weights that the app can use: repositories, pinned revisions, sizes, licences.

Sizes of TRELLIS's files are exact (trellis.md 2.1, 3, 5, 6), the others rounded; downloads take the exact size and
checksum of every file from the hub, at the pinned revision.
"""

from __future__ import annotations

from dataclasses import dataclass

from gap3d_app.errors import InputError


@dataclass(frozen=True)
class Source:
    """One repository of the hub.

    Attributes:
        name: short name on the command line.
        repo: "owner/name" on the hub.
        revision: commit, 40 hex digits.
        files: the files that are needed.
        size: bytes of these files and the extra ones, to within a few kilobytes.
        licence: in words, with what matters to a user.
        gives: what these weights make possible.
        needs: names of sources without which they do nothing.
        extra: files that are downloaded too, but which most programs leave out and most prompts do without.
    """

    name: str
    repo: str
    revision: str
    files: tuple[str, ...]
    size: int
    licence: str
    gives: str
    needs: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


def _models(*stems: str) -> tuple[str, ...]:
    return ("pipeline.json", *(f"ckpts/{stem}.{ending}" for stem in stems for ending in ("json", "safetensors")))


def _text(size: str, letter: str, revision: str, structure: int, slat: int) -> Source:
    return Source(
        f"trellis-text-{size}", f"microsoft/TRELLIS-text-{size}", revision,
        _models(f"ss_flow_txt_dit_{letter}_16l8_fp16", f"slat_flow_txt_dit_{letter}_64l8p2_fp16"),
        structure + slat, "MIT", f"text prompts without GAP3D ({size} model)", ("trellis-image-large", "clip"),
    )  # fmt: skip


IMAGE_LARGE, DINOV2, QWEN, CLIP = "trellis-image-large", "dinov2", "qwen", "clip"

ENCODERS = {"structure_encoder": "ckpts/ss_enc_conv3d_16l8_fp16", "slat_encoder": "ckpts/slat_enc_swin8_B_64l8_fp16"}
"""Networks of image-large that its pipeline.json does not name (trellis.md 1.5), by the pipeline's role."""

SOURCES = (
    Source(
        IMAGE_LARGE, "microsoft/TRELLIS-image-large", "25e0d31ffbebe4b5a97464dd851910efc3002d96",
        _models(
            "ss_dec_conv3d_16l8_fp16", "ss_flow_img_dit_L_16l8_fp16", "slat_flow_img_dit_L_64l8p2_fp16",
            "slat_dec_gs_swin8_B_64l8gs32_fp16", "slat_dec_rf_swin8_B_64l8r16_fp16",
            "slat_dec_mesh_swin8_B_64l8m256c_fp16",
        ),
        147_591_972 + 1_130_770_840 + 1_203_755_136 + 171_450_952 + 171_450_488 + 181_903_412
        + 119_068_016 + 173_242_816,
        "MIT", "structure, surface and decoders of every full-size prompt", (DINOV2,),
        tuple(f"{stem}.{ending}" for stem in ENCODERS.values() for ending in ("json", "safetensors")),
    ),
    _text("base", "B", "f8e8cf00c40d53dea26b718e49169ce83cf24c67", 327_736_456, 372_419_896),
    _text("large", "L", "4aad9f4a110329a410974d7f41ce5333a9a1fc87", 1_105_604_976, 1_178_589_272),
    _text("xlarge", "XL", "e0b00432b8e3a8ecee0df806ab1df9f7281f2be4", 1_976_327_512, 2_151_142_688),
    Source(
        DINOV2, "facebook/dinov2-with-registers-large", "e4c89a4e05589de9b3e188688a303d0f3c04d0f3",
        ("config.json", "model.safetensors"), 1_217_530_000, "Apache-2.0", "image prompts",
    ),
    Source(
        CLIP, "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41",
        ("config.json", "tokenizer.json", "model.safetensors"), 1_712_770_000, "MIT", "TRELLIS's own text models",
    ),
    Source(
        QWEN, "Qwen/Qwen2.5-VL-3B-Instruct", "66285546d2b821cf421d4f5eb2576359d3770cd3",
        ("config.json", "tokenizer.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
         "model-00002-of-00002.safetensors"),
        7_516_350_000, "Qwen Research License: research only, no commercial use",
        "text, and text with a picture, through a GAP3D checkpoint",
    ),
)  # fmt: skip

MIRRORS = {"JeffreyXiang/TRELLIS-image-large": "microsoft/TRELLIS-image-large"}
"""Repositories that published files name, and where the same files are now (trellis.md 1.5)."""


def source(name: str) -> Source:
    """A source by its short name or its repository.

    Raises:
        InputError: it is not in the catalog.
    """
    for entry in SOURCES:
        if name in (entry.name, entry.repo):
            return entry
    raise InputError(f"There are no public weights {name!r}; known are {', '.join(s.name for s in SOURCES)}.")


def by_repo(repo: str) -> Source | None:
    """The catalog's entry for "owner/name", mirrors included, or None."""
    repo = MIRRORS.get(repo, repo)
    return next((entry for entry in SOURCES if entry.repo == repo), None)


def human(size: float) -> str:
    """A number of bytes as people write it: 3.30 GB, 41 MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
