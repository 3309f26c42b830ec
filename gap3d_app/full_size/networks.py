"""Full-size networks with random weights, made on the device in the dtypes of the public files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import gap3d_app.models
from gap3d_app.models.checkpoint import build_model, read_config
from gap3d_app.nn.torso import TorsoModule
from gap3d_app.sparse.tensor import SparseTensor

CONFIGS = Path(gap3d_app.models.__file__).parent / "configs"
FILES = {
    "grid": "gap3d_grid_dit",
    "structure": "ss_flow_img_dit_L_16l8_fp16",
    "structure_decoder": "ss_dec_conv3d_16l8_fp16",
    "slat": "slat_flow_img_dit_L_64l8p2_fp16",
    "gaussians": "slat_dec_gs_swin8_B_64l8gs32_fp16",
    "radiance": "slat_dec_rf_swin8_B_64l8r16_fp16",
    "mesh": "slat_dec_mesh_swin8_B_64l8m256c_fp16",
}
COND_TOKENS = 1374
"""Tokens of an image condition (trellis.md 1.2)."""
PROMPT_TOKENS = 64
"""Query tokens of a text prompt (gap3d.md 2.3)."""

FLOW_SAMPLER = {
    "args": {"sigma_min": 1e-5},
    "params": {"steps": 25, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0},
}
"""Of both flows, as pipeline.json of TRELLIS has it (trellis.md 1.4)."""


def random_network(stage: str, device: torch.device, seed: int = 0) -> nn.Module:
    """The network of a stage of `FILES`: the grid transformer in bfloat16, the torsos of the others in float16.

    Matrices and biases are normal with deviation 0.02, as in the measured released code.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model = build_model(*read_config(CONFIGS / FILES[stage])).eval().requires_grad_(False)
    randomize(model)
    return model.to_torso_dtype(torch.float16) if isinstance(model, TorsoModule) else model.to(torch.bfloat16)


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Random values, also where networks start with zeros: norms keep their gains."""
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):  # of the cross attention, one value per head: closed at zero
            parameter.normal_(std=0.5)
        elif name.endswith("bias") or (parameter.ndim > 1 and not name.endswith("gamma")):
            parameter.normal_(std=0.02)


def shell(voxels: int, device: torch.device, resolution: int = 64) -> Tensor:
    """A spherical shell two voxels thick: [voxels, 4] int32 (0, x, y, z), sorted.

    The `voxels` cells nearest to the sphere whose area is half their number.
    """
    radius = (voxels / (8 * torch.pi)) ** 0.5
    axis = torch.arange(resolution, dtype=torch.float64, device=device) - (resolution - 1) / 2
    square = axis.square()
    distance = (square[:, None, None] + square[:, None] + square).sqrt() - radius
    nearest = distance.abs().flatten().argsort(stable=True)[:voxels].sort().values
    plane = resolution * resolution
    rows = [torch.zeros_like(nearest), nearest // plane, nearest // resolution % resolution, nearest % resolution]
    return torch.stack(rows, dim=1).int()


def random_latent(coords: Tensor, channels: int = 8, seed: int = 0) -> SparseTensor:
    """Standard normal features on voxels [V, 4], the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return SparseTensor(torch.randn(len(coords), channels, generator=generator).to(coords.device), coords)
