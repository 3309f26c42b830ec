"""Toy sizes of all training stages, and a folder of their runs on six packed assets.

Muon is off: its bfloat16 steps are very slow on a CPU.
"""

from dataclasses import replace
from pathlib import Path

import torch

from train.data.packed import PackedAssets
from train.generated_grids import make_grids, write_grids
from train.grid_alignment import GridAlignmentStage
from train.image_encoder import ImageEncoderStage
from train.language_model import LanguageModelStage
from train.loop import LoopConfig, Stage, run
from train.probe import ProbeStage
from train.slat_flow import SLatFlowStage
from train.slat_vae import SLatVaeStage
from train.structure_flow import StructureFlowStage
from train.structure_vae import StructureVaeStage

C = 32  # channels of the token grid and of the language model
VOXELS = dict(resolution=32, model_channels=32, num_blocks=1, num_heads=2, mlp_ratio=2, latent_channels=8,
              attn_mode="swin", window_size=8)
FLOW = dict(in_channels=8, out_channels=8, model_channels=32, cond_channels=C, num_blocks=1, num_heads=2, mlp_ratio=2,
            share_mod=True, qk_rms_norm=True)
STRUCTURE = dict(latent_channels=8, num_res_blocks=0, num_res_blocks_middle=1)
MODELS = {
    "image_encoder": dict(image_size=224, patch_size=56, hidden_size=C, num_hidden_layers=1, num_attention_heads=2),
    "language_model": dict(
        text_config=dict(hidden_size=C, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1, mrope_section=[2, 3, 3], max_position_embeddings=512),
        vision_config=dict(depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=C, patch_size=56,
                           window_size=224, fullatt_block_indexes=[0]),
        n_query=4, image_size=224, model_max_length=256,
    ),
    "structure_vae": dict(encoder=dict(channels=[4, 8, 8], **STRUCTURE), decoder=dict(channels=[8, 8, 4], **STRUCTURE)),
    "slat_vae": dict(
        encoder=dict(in_channels=206, **VOXELS),
        gaussian_decoder=dict(representation_config=dict(num_gaussians=4, scaling_bias=0.02), **VOXELS),
        mesh_decoder=dict(representation_config=dict(use_color=True), upsample_channels=[32, 32], **VOXELS),
    ),
    "structure_flow": dict(resolution=8, patch_size=1, **FLOW),
    "slat_flow": dict(resolution=32, patch_size=2, num_io_res_blocks=1, io_block_channels=[16], **FLOW),
    "grid_alignment": dict(input_size=4, in_channels=C, dim=32, n_layers=1, n_heads=2, n_kv_heads=2, ffn_dim=64,
                           norm_eps=1e-5, latent_embedding_size=C),
}  # fmt: skip
GRID_SETTINGS = {
    "grid_sampler": {"args": {}, "params": {"steps": 2, "solver": "ab2"}},
    "edit_guidance": {"strength": 1.33, "limit": 0.15, "interval": [0.8, 1.0], "words": "the same"},
}
NEEDS = {
    "structure_flow": ("image_encoder", "structure_vae"),
    "slat_flow": ("image_encoder", "slat_vae"),
    "grid_alignment": ("image_encoder", "language_model"),
}
WRITES = {
    "image_encoder": ["image_encoder"],
    "language_model": ["prompt_encoder", "tokenizer"],
    "structure_vae": ["structure_encoder", "structure_decoder"],
    "slat_vae": ["slat_encoder", "slat_decoder_gs", "slat_decoder_mesh"],
    "probe": ["probe"],
    "structure_flow": ["structure_flow"],
    "slat_flow": ["slat_flow", "slat_normalization"],
    "grid_alignment": ["grid_dit", "prompt_encoder"],
}
TUNES = {"structure_tuning": "structure_flow", "slat_tuning": "slat_flow"}
LOOP = LoopConfig(steps=1, batch_size=4, muon_lr=0.0, warmup=1, log_every=1, sample_every=1)


class Runs:
    """A runs folder whose stages are trained for one step when a test first asks for them."""

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder = data, folder
        self.metrics: dict[str, dict[str, float]] = {}

    def part(self, name: str) -> str:
        """Stem of a trained network, as in the configs."""
        run_name = next(k for k, parts in WRITES.items() if name in parts)
        return str(self.folder / run_name / "model" / name)

    def stage(self, name: str, out: Path) -> Stage:
        """A fresh stage with toy sizes; the stages it reads are trained before."""
        for needed in NEEDS.get(name, ()):
            self.trained(needed)
        torch.manual_seed(1)
        data = {"data": str(self.data), "test": str(self.data), "device": "cpu"}
        model, p = MODELS.get(name), self.part
        condition = {"drop": 0.1, "noise": 0.6}
        if name == "image_encoder":
            return ImageEncoderStage(model, **data, views=2, noise=0.5)
        if name == "language_model":
            settings = dict(stress=4.0, views=2, tokenizer=out / "tokenizer.json", vocabulary=400)
            return LanguageModelStage(model, **data, **settings)
        if name == "structure_vae":
            return StructureVaeStage(model, **data, kl_weight=1e-3)
        if name == "slat_vae":
            return SLatVaeStage(model, **data, kl_weight=1e-4, crop=3, max_voxels=20000)
        if name == "probe":
            return ProbeStage(8, **data, views=2)
        if name == "structure_flow":
            parts = {k: p(k) for k in ("image_encoder", "structure_encoder", "structure_decoder")}
            return StructureFlowStage(model, **data, parts=parts, condition=condition, views=2)
        if name == "slat_flow":
            parts = {"image_encoder": p("image_encoder"), "slat_encoder": p("slat_encoder")}
            parts["slat_decoder"] = p("slat_decoder_gs")
            settings = dict(views=2, max_voxels=20000, times={"mean": 0.5, "std": 1.4})
            return SLatFlowStage(model, **data, parts=parts, condition=condition, **settings)
        language = self.folder / "language_model" / "model"  # grid_alignment writes a prompt_encoder of its own
        parts = {"image_encoder": p("image_encoder"), "prompt_encoder": str(language / "prompt_encoder")}
        parts["tokenizer"] = str(language / "tokenizer.json")
        objective = {"sample_time": "uniform", "drop_probability": 0.1}
        return GridAlignmentStage(model, **data, parts=parts, objective=objective, stress=4.0, views=2)

    def grid_parts(self) -> dict[str, str]:
        """What `make_grids` needs."""
        parts = {k: str(self.trained("grid_alignment") / "model" / k) for k in ("prompt_encoder", "grid_dit")}
        return parts | {"tokenizer": str(self.folder / "language_model" / "model" / "tokenizer.json")}

    def grids(self) -> Path:
        """Generated grids of all assets."""
        path = self.folder / "generated_grids" / "grids.safetensors"
        if not path.exists():
            data = PackedAssets(self.data, "cpu", views=2)
            write_grids(make_grids(data, self.grid_parts(), GRID_SETTINGS, 4, 0, "cpu"), path.parent)
        return path

    def trained(self, name: str) -> Path:
        """Folder of the stage's finished run; a tuning stage's is a run of the flow it goes on with."""
        out = self.folder / name
        if name in TUNES and name not in self.metrics:
            stage = self.stage(TUNES[name], out)
            self.metrics[name] = run(stage, replace(LOOP, init={"flow": self.part(TUNES[name])}), out)
        if name not in self.metrics:
            self.metrics[name] = run(self.stage(name, out), LOOP, out)
        return out
