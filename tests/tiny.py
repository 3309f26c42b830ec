"""A complete weights folder with random networks of a few thousand parameters.

    python -m tests.tiny DIR

The classes, files and roles are those of weights/gap3d-mini, the sizes are toys, the results are noise: a run
takes about a second, so that tests and work on the page need no trained weights.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from gap3d_app import hub
from gap3d_app.models.checkpoint import build_model, save_model

RESOLUTION = 8  # voxels per axis; the mesh is extracted at four times that
CHANNELS = 32  # of the token grid and of the language model
VOCABULARY = 320
SENTENCES = [
    "You are a helpful assistant. Please generate image based on the following caption: ",
    "Create a precise replica of: but: make it blue", "a small red toy airplane", "a tall wooden chair",
]


def build(folder: Path, seed: int = 0) -> Path:
    """Write the folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokens = _write_tokenizer(folder / "tokenizer.json")
        models = {role: _awake(build_model(*spec)).eval() for role, spec in _specs(tokens).items()}
        _bias(models)
        for role, model in models.items():
            save_model(model, folder / role, dtype=torch.bfloat16)
    pipeline = {
        "name": "Gap3DPipeline",
        "args": {
            "models": {role: role for role in models},
            "tokenizer": "tokenizer.json",
            "grid_sampler": {"args": {}, "params": {"steps": 6, "guidance_scale": 3.0}},
            "structure_sampler": _sampler(5.0),
            "slat_sampler": _sampler(3.0),
            "slat_normalization": {"mean": [0.1] * 8, "std": [0.5] * 8},
            "presets": {"fast": {"grid_steps": 3, "structure_steps": 3, "slat_steps": 3}, "standard": {}},
        },
    }
    (folder / hub.PIPELINE).write_text(json.dumps(pipeline, indent=2) + "\n")
    hub.write_manifest(folder)
    return folder


def _sampler(strength: float) -> dict:
    return {
        "name": "FlowEulerGuidanceIntervalSampler",
        "args": {"sigma_min": 1e-5},
        "params": {"steps": 6, "cfg_strength": strength, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0},
    }


def _specs(tokens: dict[str, int]) -> dict[str, tuple[str, dict]]:
    """Class name and arguments of every role."""
    grid = dict(cond_channels=CHANNELS, model_channels=32, num_blocks=1, num_heads=2, mlp_ratio=2, share_mod=True,
                in_channels=8, out_channels=8, qk_rms_norm=True)
    voxels = dict(resolution=RESOLUTION, model_channels=32, latent_channels=8, num_blocks=1, num_heads=2,
                  mlp_ratio=2, attn_mode="swin", window_size=8)
    text = dict(vocab_size=VOCABULARY, hidden_size=CHANNELS, intermediate_size=64, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=1, mrope_section=[2, 3, 3], max_position_embeddings=512)
    vision = dict(depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=CHANNELS,
                  window_size=56, fullatt_block_indexes=[0])
    return {
        "prompt_encoder": ("PromptEncoder", dict(
            text_config=text, vision_config=vision, n_query=4, image_size=56, model_max_length=512,
            pad_token_id=tokens["<|endoftext|>"], image_token_id=tokens["<|image_pad|>"],
            img_start_token_id=tokens["[IMG]"], query_token_id=tokens["<image>"],
        )),
        "grid_dit": ("GridDiT", dict(
            input_size=4, in_channels=CHANNELS, dim=32, n_layers=1, n_heads=2, ffn_dim=64,
            latent_embedding_size=CHANNELS,
        )),
        "image_encoder": ("ImageEncoder", dict(
            image_size=56, patch_size=14, hidden_size=CHANNELS, num_hidden_layers=1, num_attention_heads=2,
        )),
        "structure_flow": ("SparseStructureFlowModel", dict(resolution=4, patch_size=1, **grid)),
        "structure_decoder": ("SparseStructureDecoder", dict(
            latent_channels=8, channels=[16, 8], num_res_blocks=1, num_res_blocks_middle=1,
        )),
        "slat_flow": ("SLatFlowModel", dict(
            resolution=RESOLUTION, patch_size=2, num_io_res_blocks=1, io_block_channels=[16], **grid,
        )),
        "slat_decoder_gs": ("SLatGaussianDecoder", dict(
            representation_config=dict(num_gaussians=4, scaling_bias=0.02, opacity_bias=0.7), **voxels,
        )),
        "slat_decoder_mesh": ("SLatMeshDecoder", dict(
            representation_config=dict(use_color=True), upsample_channels=[32, 32], **voxels,
        )),
    }


def _write_tokenizer(path: Path) -> dict[str, int]:
    """Train a byte-level BPE on a few sentences; returns the ids of the special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from gap3d_app.models.prompt_tokenizer import SPECIAL_TOKENS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.save(str(path))
    return {name: tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}


@torch.no_grad()
def _awake(model: nn.Module) -> nn.Module:
    """Networks start with zero outputs and closed gates; open them so that prompts change the result."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.05)
    return model


@torch.no_grad()
def _bias(models: dict[str, nn.Module]) -> None:
    """About one voxel in seven occupied; a closed surface near the voxels' border."""
    decoder = models["structure_decoder"]
    logits = decoder(torch.randn(4, 8, 4, 4, 4))
    decoder.out_layer[-1].bias -= logits.quantile(0.85)
    models["slat_decoder_mesh"].out_layer.weight *= 0.2


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
