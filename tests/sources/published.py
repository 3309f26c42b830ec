"""Folders in the layouts of the published checkpoints, with the networks of `tests.tiny`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gap3d_app.models.checkpoint import build_model, save_model
from gap3d_app.models.clip_text import TextEncoder, TextEncoderConfig
from tests import tiny

KNOWN = tiny.VOCABULARY  # ids of the tokenizer; GAP3D adds three, the public embedding has more rows than ids
PUBLIC_ROWS = KNOWN + 10
CLIP_SIZES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                  vocab_size=KNOWN, max_position_embeddings=12)  # fmt: skip
STEMS = {
    "sparse_structure_decoder": ("structure_decoder", "ckpts/ss_dec"),
    "sparse_structure_flow_model": ("structure_flow", "ckpts/ss_flow_img"),
    "slat_decoder_gs": ("slat_decoder_gs", "ckpts/slat_dec_gs"),
    "slat_decoder_rf": ("slat_decoder_rf", "ckpts/slat_dec_rf"),
    "slat_decoder_mesh": ("slat_decoder_mesh", "ckpts/slat_dec_mesh"),
    "slat_flow_model": ("slat_flow", "ckpts/slat_flow_img"),
}


@pytest.fixture(scope="session")
def releases(tmp_path_factory) -> dict[str, Path]:
    """A folder of every published kind, by the kind's name; do not change them."""
    root = tmp_path_factory.mktemp("published")
    found = {"image": image_pipeline(root / "image"), "text": text_pipeline(root / "text")}
    found["dinov2"], found["clip"] = dinov2(root / "dinov2")[0], clip(root / "clip")[0]
    found["qwen"] = qwen(root / "qwen")[0]
    found["gap3d"] = gap3d(root / "gap3d", found["qwen"])[0]
    return found


@pytest.fixture
def empty_hub_cache(tmp_path, monkeypatch):
    """A cache of the Hugging Face libraries with nothing in it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


def network(role: str, **changes: Any) -> nn.Module:
    """A network of `tests.tiny` with no value left at zero."""
    specs = tiny._specs({key: i for i, key in enumerate(tiny_tokens())})
    sizes = specs["slat_decoder_gs"][1] | {"representation_config": dict(rank=2, dim=4)}
    specs["slat_decoder_rf"] = ("SLatRadianceFieldDecoder", sizes)  # which gap3d-mini has not
    name, args = specs[role]
    torch.manual_seed(len(role))
    return tiny._awake(build_model(name, args | changes)).eval()


def tiny_tokens() -> tuple[str, ...]:
    """Names of the special tokens in the order of their ids."""
    from gap3d_app.models.prompt_tokenizer import SPECIAL_TOKENS

    return SPECIAL_TOKENS


def image_pipeline(folder: Path) -> Path:
    """TRELLIS image-large: pipeline.json and ckpts/."""
    models = {role: network(role) for role, _ in STEMS.values()}
    tiny._bias(models)
    for role, stem in STEMS.values():
        save_model(models[role], folder / stem, dtype=torch.float16)
    return _pipeline(folder, "TrellisImageTo3DPipeline", {k: stem for k, (_, stem) in STEMS.items()},
                     {"image_cond_model": "dinov2_vitl14_reg"}, 5.0)  # fmt: skip


def text_pipeline(folder: Path) -> Path:
    """TRELLIS text: own flows, decoders of the other repository under its old owner's name."""
    models = {key: f"JeffreyXiang/TRELLIS-image-large/{stem}" for key, (_, stem) in STEMS.items() if "decoder" in key}
    for key, role in (("sparse_structure_flow_model", "structure_flow"), ("slat_flow_model", "slat_flow")):
        models[key] = f"ckpts/{role}_txt"
        save_model(network(role, cond_channels=CLIP_SIZES["hidden_size"]), folder / models[key], dtype=torch.float16)
    extra = {"text_cond_model": "openai/clip-vit-large-patch14"}
    return _pipeline(folder, "TrellisTextTo3DPipeline", models, extra, 7.5)


def _pipeline(folder: Path, name: str, models: dict, extra: dict, strength: float) -> Path:
    sampler = tiny._sampler(strength)
    numbers = {"mean": [0.1] * 8, "std": [0.5] * 8}
    args = {"models": models, "sparse_structure_sampler": sampler, "slat_sampler": sampler,
            "slat_normalization": numbers, **extra}  # fmt: skip
    (folder / "pipeline.json").write_text(json.dumps({"name": name, "args": args}))
    return folder


def dinov2(folder: Path) -> tuple[Path, nn.Module]:
    """DINOv2 with registers as transformers publishes it, and the network in it."""
    model = network("image_encoder")
    folder.mkdir(parents=True)
    config = model.config.to_args() | {"model_type": "dinov2_with_registers", "drop_path_rate": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder, model


def torch_hub_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names of DINOv2's tensors to torch.hub's; query, key and value are one matrix there."""
    result = {}
    for key, value in state.items():
        key = key.replace("encoder.layer.", "blocks.").replace("attention.output.dense", "attn.proj")
        for i in (1, 2):
            key = key.replace(f"layer_scale{i}.lambda1", f"ls{i}.gamma")
        for part in ("query", "key", "value"):
            key = key.replace(f"attention.attention.{part}", "attn.qkv")
        key = key.replace("patch_embeddings.projection", "patch_embed.proj").replace("layernorm", "norm")
        key = key.replace("embeddings.", "").replace("position_embeddings", "pos_embed")
        result[key] = torch.cat([result[key], value]) if key in result else value
    return result


def clip(folder: Path) -> tuple[Path, nn.Module]:
    """CLIP: a text tower beside what the app does not read, and the tower."""
    folder.mkdir(parents=True)
    torch.manual_seed(5)
    model = tiny._awake(TextEncoder(TextEncoderConfig(**CLIP_SIZES)).eval())
    content = {"model_type": "clip", "text_config": CLIP_SIZES | {"hidden_act": "quick_gelu"}, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(content))
    state = model.state_dict() | {"logit_scale": torch.ones(()), "vision_model.a": torch.ones(2)}
    state["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(state, folder / "model.safetensors")
    tiny._write_tokenizer(folder / "tokenizer.json")
    return folder, model


def language(**changes: Any) -> nn.Module:
    """The prompt encoder with Qwen's numbering of GAP3D's tokens."""
    name, args = tiny._specs({key: i for i, key in enumerate(tiny_tokens())})["prompt_encoder"]
    args["text_config"] = args["text_config"] | {"vocab_size": KNOWN + 3}
    torch.manual_seed(9)
    return build_model(name, args | {"img_start_token_id": KNOWN, "query_token_id": KNOWN + 2} | changes).eval()


def qwen(folder: Path, newer: bool = False) -> tuple[Path, dict[str, Tensor]]:
    """Qwen2.5-VL in shards with an index, as older or newer libraries write it, and its tensors by older names."""
    model = language()
    state = {k: v for k, v in model.state_dict().items() if k != "model.latent_queries"}
    state["model.embed_tokens.weight"] = torch.randn(PUBLIC_ROWS, tiny.CHANNELS)
    named = {newer_name(k) if newer else k: v for k, v in state.items()}
    write_shards(folder, named, 3)
    text = model.config.text_config
    rope = {"type": "mrope", "mrope_section": list(text.mrope_section)}
    flat = vars(text) | {"mrope_section": None, "vocab_size": PUBLIC_ROWS, "rope_scaling": rope}
    vision = vars(model.config.vision_config)
    config = {**flat, "model_type": "qwen2_5_vl", "vision_config": vision, "image_token_id": 5, "pad_token_id": 0}
    if newer:  # sizes of the decoder in an object of their own, the rope's numbers together
        rope |= {"rope_theta": flat.pop("rope_theta")}
        flat |= {"rope_parameters": rope, "pad_token_id": 0}
        del flat["rope_scaling"]
        config = {"model_type": "qwen2_5_vl", "text_config": flat, "vision_config": vision, "image_token_id": 5}
    (folder / "config.json").write_text(json.dumps(config))
    tiny._write_tokenizer(folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in tiny_tokens()[-3:]]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder, state


def newer_name(key: str) -> str:
    """A name of Qwen's part as libraries since 4.52 write it."""
    if key.startswith("visual."):
        return "model." + key
    own = key.startswith(("model.layers.", "model.norm.", "model.embed_tokens."))
    return key.replace("model.", "model.language_model.", 1) if own else key


def gap3d(folder: Path, qwen_folder: Path, ffn_dim: int = 64, frozen: bool = True) -> tuple[Path, dict[str, Tensor]]:
    """A released GAP3D folder: sharded, everything under one root; with the frozen networks or without."""
    dit, tower = network("grid_dit", ffn_dim=ffn_dim), network("image_encoder")
    state = {"model.dit." + k: v for k, v in dit.state_dict().items()}
    words = language().state_dict()
    # Frozen values that a loader must not take when it has the public ones: it would show.
    words = {k: torch.full_like(v, torch.nan) if k.startswith(("model.layers", "visual")) else v
             for k, v in words.items()}  # fmt: skip
    kept = words if frozen else {k: words[k] for k in ("model.latent_queries", "model.embed_tokens.weight")}
    state |= kept
    if frozen:
        hub = torch_hub_names(tower.state_dict())
        state |= {"model.gen_vision_tower.vision_tower." + k: v for k, v in hub.items()}
        state["lm_head.weight"] = words["model.embed_tokens.weight"].clone()
    write_shards(folder, state, 4)
    config = json.loads((qwen_folder / "config.json").read_text())
    config |= {"model_type": "blip3o_qwen", "gen_vision_tower": "dinov2_vitl14_reg", "vocab_size": KNOWN + 3}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((qwen_folder / "tokenizer.json").read_bytes())
    return folder, state


def write_shards(folder: Path, state: dict[str, Tensor], count: int) -> None:
    """`model-0000k-of-0000n.safetensors` with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = sorted(state)
    weight_map = {}
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        own = keys[number::count]
        save_file({key: state[key].contiguous() for key in own}, folder / name)
        weight_map |= dict.fromkeys(own, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
