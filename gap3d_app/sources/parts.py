"""One network each, from the files of a published layout: what to read, under which names, in which sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gap3d_app.errors import WeightsError
from gap3d_app.models.checkpoint import build_model, read_config, weight_files
from gap3d_app.models.gap3d_checkpoint import split_checkpoint
from gap3d_app.models.streaming import StoredTensor, checkpoint_files, joined, load_streamed, stored_tensors
from gap3d_app.sources.fit import NOT_THEIRS, layout_of
from gap3d_app.sources.names import read_json

EMBEDDING = "model.embed_tokens.weight"
NEW_TOKENS = 3
"""Rows that GAP3D adds to Qwen's vocabulary: [IMG], [/IMG], <image> (gap3d.md 2.2)."""


@dataclass(frozen=True)
class Part:
    """A network that can be loaded.

    Attributes:
        name: of the weights, for messages.
        files: the weight files that it reads.
        build: of (where the weights go, dtype) gives the network; dtype None means float32.
        read: what it reads, by the network's keys; from the files' headers alone.
        width: bytes of one of its numbers on a graphics card.
        released: dtype on a graphics card, where any other than float32 was asked for; None for that one.
    """

    name: str
    files: tuple[Path, ...]
    build: Callable[[torch.device, torch.dtype | None], nn.Module]
    read: Callable[[], dict[str, StoredTensor]]
    width: int = 2
    released: torch.dtype | None = None

    def load(self, device: torch.device, dtype: torch.dtype | None, home: torch.device | None = None) -> nn.Module:
        """Stream the weights.

        Args:
            device: where the network will compute.
            dtype: of the large matrices; None means float32.
            home: where the weights go, when that is not the device.

        Raises:
            WeightsError: files are missing or damaged, or do not fit the network.
        """
        if dtype is not None and device.type == "cuda":
            dtype = self.released or dtype
        with layout_of(self.name):
            return self.build(home or device, dtype)

    @property
    def size(self) -> int:
        """Bytes of the network on a graphics card."""
        with layout_of(self.name):
            return self.width * sum(prod(tensor.shape) for tensor in self.read().values())


def trellis_part(stem: Path) -> Part:
    """A TRELLIS network from `<stem>.json` and `<stem>.safetensors`.

    The files hold float32 and float16 values; a dtype of None gives float32 throughout, which is exact. On a graphics
    card any other dtype means float16, in which these networks were trained and released (trellis.md 2.6).
    """
    def read() -> dict[str, StoredTensor]:
        return stored_tensors(weight_files(stem))

    def build(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        name, args = read_config(stem)
        return load_streamed(lambda: build_model(name, args), read(), device, dtype, stem.name)

    return Part(stem.name, tuple(weight_files(stem)), build, read, released=torch.float16)


def image_encoder_part(folder: Path) -> Part:
    """DINOv2 with registers, from transformers' layout or from torch.hub's names in safetensors; always float32.

    A GAP3D checkpoint carries a copy under names of its own; it is taken from there too.
    """
    def read() -> dict[str, StoredTensor]:
        from gap3d_app.models.image_encoder import from_torch_hub

        tensors = stored_tensors(checkpoint_files(folder))
        if any(key.removeprefix("module.").startswith("model.") for key in tensors):
            return split_checkpoint(tensors).get("image_encoder", {})
        return from_torch_hub(tensors) if "pos_embed" in tensors else tensors

    def build(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        from gap3d_app.models.image_encoder import ImageEncoder, ImageEncoderConfig

        tensors = read()
        config = ImageEncoderConfig(**_image_sizes(folder, tensors, [f.name for f in fields(ImageEncoderConfig)]))
        return load_streamed(lambda: ImageEncoder(config), tensors, device, None, folder.name)

    return Part(folder.name, tuple(checkpoint_files(folder)), build, read, width=4)


def _image_sizes(folder: Path, tensors: dict[str, StoredTensor], known: list[str]) -> dict[str, Any]:
    """What config.json says, where it is DINOv2's; else sizes from the tensors (heads of 64 channels)."""
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if config.get("model_type") == "dinov2_with_registers":
            return {key: value for key, value in config.items() if key in known}
    try:
        width, positions = tensors["embeddings.position_embeddings"].shape[2:0:-1]
        patch = tensors["embeddings.patch_embeddings.projection.weight"].shape[-1]
        return {
            "hidden_size": width,
            "num_hidden_layers": len({key.split(".")[2] for key in tensors if key.startswith("encoder.layer.")}),
            "num_attention_heads": max(1, width // 64),
            "image_size": int((positions - 1) ** 0.5) * patch,
            "patch_size": patch,
            "num_register_tokens": tensors["embeddings.register_tokens"].shape[1],
        }
    except KeyError as error:
        raise WeightsError(f"The weights {folder.name!r} are no DINOv2 with registers: they lack {error}.") from None


def text_encoder_part(folder: Path) -> Part:
    """The text tower of a CLIP repository, always float32."""
    def read() -> dict[str, StoredTensor]:
        return {  # old files hold the numbers 0..76 as a buffer too
            key: value for key, value in stored_tensors(checkpoint_files(folder)).items()
            if key.startswith("text_model.") and not key.endswith("position_ids")
        }

    def build(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        from gap3d_app.models.clip_text import TextEncoder, TextEncoderConfig

        content = read_json(folder / "config.json")
        content = content.get("text_config") or content
        config = TextEncoderConfig(**{f.name: content[f.name] for f in fields(TextEncoderConfig) if f.name in content})
        model = load_streamed(lambda: TextEncoder(config), read(), device, None, folder.name)
        return model.read_tokenizer(folder / "tokenizer.json")

    return Part(folder.name, tuple(checkpoint_files(folder)), build, read, width=4)


def grid_dit_part(folder: Path) -> Part:
    """GAP3D's transformer; its sizes are those of its tensors, for the release stores no others (gap3d.md 2.5)."""
    def networks() -> dict[str, dict[str, StoredTensor]]:
        return split_checkpoint(stored_tensors(checkpoint_files(folder)))

    def read() -> dict[str, StoredTensor]:
        return networks().get("grid_dit", {})

    def build(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        from gap3d_app.models.grid_dit import GridDiT, GridDiTConfig

        found = networks()
        tensors = found.get("grid_dit", {})
        try:
            config = GridDiTConfig.from_state_dict(tensors, input_size=_grid_side(found.get("image_encoder", {})))
        except KeyError as error:
            raise WeightsError(f"The weights {folder.name!r} are no GAP3D checkpoint: they lack {error}.") from None
        except ValueError as error:
            raise WeightsError(f"The weights {folder.name!r} have another shape: {error}.") from None
        _require_width(found.get("prompt_encoder", {}), config.latent_embedding_size, folder.name)
        return load_streamed(lambda: GridDiT(config), tensors, device, dtype, folder.name)

    return Part(folder.name, tuple(checkpoint_files(folder)), build, read)


def _require_width(prompt_encoder: dict[str, StoredTensor], width: int, name: str) -> None:
    """Refuse a transformer that takes other latents than the checkpoint's queries collect."""
    key = "model.latent_queries"
    queries = prompt_encoder.get(key)
    if queries is not None and queries.shape[-1:] != (width,):
        raise WeightsError(
            f"The weights {name!r} have shape {list(queries.shape)} for {key!r}, but their caption_projection "
            f"takes {width} channels; give the files of one checkpoint."
        )


def _grid_side(tower: dict[str, StoredTensor]) -> int:
    """Patches a side: the tower's positions in the checkpoint give them; 37 when it holds no tower."""
    table = tower.get("embeddings.position_embeddings")
    return 37 if table is None else int((table.shape[1] - 1) ** 0.5)


def prompt_encoder_part(gap3d: Path, qwen: Path | None) -> Part:
    """Qwen2.5-VL with GAP3D's queries.

    With a folder of public Qwen weights, only the queries and the row of [IMG] come from the checkpoint
    (gap3d.md 10.4); without, everything does.
    """
    base, name = qwen or gap3d, gap3d.name if qwen is None else f"{gap3d.name} with {qwen.name}"

    def read() -> dict[str, StoredTensor]:
        trained = split_checkpoint(stored_tensors(checkpoint_files(gap3d))).get("prompt_encoder", {})
        if qwen is None:
            return trained
        public = split_checkpoint(stored_tensors(checkpoint_files(qwen))).get("prompt_encoder", {})
        if EMBEDDING not in public:
            raise WeightsError(f"The weights {qwen.name!r} are no Qwen2.5-VL: they lack {EMBEDDING!r}.")
        return with_trained_rows(public, trained, gap3d.name)

    def build(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
        from gap3d_app.models.prompt_tokenizer import PromptTokenizer
        from gap3d_app.models.vlm import PromptEncoder

        tensors = read()
        config = _prompt_config(read_json(base / "config.json"), tensors, base.name)
        model = load_streamed(lambda: PromptEncoder(config), tensors, device, dtype, name)
        model.tokenizer = PromptTokenizer.from_file(base / "tokenizer.json", config)
        return model

    files = checkpoint_files(gap3d) + (checkpoint_files(qwen) if qwen else [])
    return Part(name, tuple(files), build, read)


def with_trained_rows(
    public: dict[str, StoredTensor], trained: dict[str, StoredTensor], name: str
) -> dict[str, StoredTensor]:
    """Public tensors with GAP3D's queries and embedding rows.

    Of the new rows only that of [IMG] is ever read; the checkpoint's other two are equal to it.

    Raises:
        WeightsError: the checkpoint lacks what it should add, or fits another language model.
    """
    embedding, queries = EMBEDDING, "model.latent_queries"
    for key, rank in ((embedding, 2), (queries, 3)):
        if key not in trained:
            raise WeightsError(f"The weights {name!r} are no GAP3D checkpoint: they lack {key!r}.")
        for tensors, whose in ((trained, name), (public, "public")):
            if key in tensors and len(tensors[key].shape) != rank:
                found = list(tensors[key].shape)
                raise WeightsError(f"The weights {whose!r} have shape {found} for {key!r}, expected {rank} axes.")
    old, new = public[embedding].shape, trained[embedding].shape
    known = new[0] - NEW_TOKENS
    if old[1] != new[1] or not 0 < known <= old[0]:
        raise WeightsError(
            f"The weights {name!r} are for another language model: {embedding!r} has shape {list(new)}, "
            f"the public weights {list(old)}."
        )
    row = trained[embedding].rows(known, known + 1)
    table = joined([public[embedding].rows(0, known), *[row] * NEW_TOKENS])
    return {**public, embedding: table, queries: trained[queries]}


def _prompt_config(config: dict[str, Any], tensors: dict[str, StoredTensor], name: str) -> Any:
    """Sizes from config.json (flat, or with a text_config as newer libraries write it) and from the tensors."""
    from gap3d_app.models.qwen_layers import TextConfig, VisionConfig
    from gap3d_app.models.vlm import PromptEncoderConfig

    text = {**config, **(config.get("text_config") or {})}
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    vision = dict(config.get("vision_config") or {})
    vision.setdefault("in_channels", vision.get("in_chans", 3))
    try:
        rows = tensors[EMBEDDING].shape[0]
        text |= {"vocab_size": rows, "rope_theta": text.get("rope_theta", rope.get("rope_theta", 1e6))}
        text |= {"mrope_section": rope["mrope_section"]}
        # A name that a config leaves out has the default of the 3B model; a wrong size shows in a shape.
        return PromptEncoderConfig(
            text_config=TextConfig(**{f.name: text[f.name] for f in fields(TextConfig) if f.name in text}),
            vision_config=VisionConfig(**{f.name: vision[f.name] for f in fields(VisionConfig) if f.name in vision}),
            n_query=tensors["model.latent_queries"].shape[1],
            image_token_id=config.get("image_token_id", 151655),
            pad_token_id=151643 if text.get("pad_token_id") is None else text["pad_token_id"],
            img_start_token_id=rows - NEW_TOKENS,
            query_token_id=rows - 1,
        )
    except NOT_THEIRS as error:
        raise WeightsError(f"The configuration of {name!r} is not that of a Qwen2.5-VL: {error}.") from None
