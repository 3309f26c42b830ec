"""The networks that GAP3D's golden files describe, with their weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gap3d_app.models.gap3d_checkpoint import split_checkpoint
from gap3d_app.models.grid_dit import GridDiT, GridDiTConfig
from gap3d_app.models.image_encoder import ImageEncoder, ImageEncoderConfig
from gap3d_app.models.vlm import PromptEncoder, PromptEncoderConfig
from tests.conformance.golden import Golden


def dit_of(weights: dict[str, Tensor], constructor: dict[str, Any], partial: bool = False) -> GridDiT:
    """The network with its weights; `partial` files hold only those that matter."""
    model = GridDiT(GridDiTConfig(**constructor))
    if partial:
        unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
        assert not unexpected, unexpected
    else:
        model.load_state_dict(weights)
    return model.eval()


def encoder_of(golden: Golden, max_length: int = 512) -> PromptEncoder:
    """The tiny language model and vision tower of an end-to-end file."""
    sizes, fixed = golden.meta["constructor"]["qwen"], golden.meta["constructor"]["qwen_fixed"]
    text_names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    text = {name: sizes[name] for name in (*text_names, "num_attention_heads", "num_key_value_heads")}
    text |= {"mrope_section": sizes["mrope"], "rope_theta": fixed["rope_theta"]}
    vision = {"depth": sizes["vdepth"], "hidden_size": sizes["vhidden"], "intermediate_size": sizes["vinter"]}
    vision |= {"num_heads": sizes["vheads"], "patch_size": sizes["vpatch"], "window_size": sizes["vwindow"]}
    vision |= {"out_hidden_size": sizes["hidden_size"], **fixed["vision"]}
    config = PromptEncoderConfig(
        text_config=text | {"rms_norm_eps": fixed["rms_norm_eps"]},
        vision_config=vision,
        n_query=sizes["n_query"],
        image_size=sizes["vpatch"] * vision["spatial_merge_size"],
        model_max_length=max_length,
        pad_token_id=sizes["pad"],
        image_token_id=sizes["und"],
        img_start_token_id=sizes["img_start"],
        query_token_id=sizes["image"],
    )
    encoder = PromptEncoder(config)
    state = split_checkpoint(golden.weights)["prompt_encoder"]
    problems = encoder.load_state_dict(state, strict=False)
    # Files without pictures leave the vision tower out.
    missing = [key for key in problems.missing_keys if not key.startswith("visual.")]
    assert not missing and not problems.unexpected_keys, (missing, problems.unexpected_keys)
    return encoder.eval()


def tower_of(golden: Golden) -> ImageEncoder:
    """The image encoder of an end-to-end file."""
    sizes = golden.meta["constructor"]["dino"]
    tower = ImageEncoder(tower_config(sizes, sizes["ln_eps"]))
    tower.load_state_dict(split_checkpoint(golden.weights)["image_encoder"])
    return tower.eval()


def tower_config(sizes: dict[str, Any], eps: float) -> ImageEncoderConfig:
    """torch.hub's constructor names to ours."""
    return ImageEncoderConfig(
        hidden_size=sizes["embed_dim"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["num_heads"],
        mlp_ratio=sizes["mlp_ratio"],
        image_size=sizes["img_size"],
        patch_size=sizes["patch_size"],
        num_register_tokens=sizes["num_register_tokens"],
        layer_norm_eps=eps,
    )
