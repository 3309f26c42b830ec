"""Structure VAE: dense convolutional encoder and decoder of occupancy grids (trellis.md section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gap3d_app.models.configs import StructureVaeConfig
from gap3d_app.nn.conv3d import Conv3d
from gap3d_app.nn.norms import ChannelLayerNorm32, GroupNorm32, norm_silu
from gap3d_app.nn.torso import TorsoModule


class ResBlock3d(nn.Module):
    """norm, SiLU, 3^3 convolution, twice, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm32(channels)
        self.norm2 = ChannelLayerNorm32(channels)
        self.conv1 = Conv3d(channels, channels, 3, padding=1)
        # The branch starts at zero, so a fresh network is a chain of identities.
        self.conv2 = zero_init(Conv3d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        # The norm leaves channels last, and the convolution keeps them: only x tells in whose memory layout this runs.
        last = x.is_contiguous(memory_format=torch.channels_last_3d)
        h = self.conv1(norm_silu(self.norm1, x, fused=last))
        return x + self.conv2(norm_silu(self.norm2, h, fused=last))


class DownsampleBlock3d(nn.Module):
    """Halves every axis with a strided 2^3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UpsampleBlock3d(nn.Module):
    """Doubles every axis with a 3^3 convolution to 8 times the channels and a 3D pixel shuffle."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle_3d(self.conv(x))


def pixel_shuffle_3d(x: Tensor) -> Tensor:
    """[B, 8C, X, Y, Z] -> [B, C, 2X, 2Y, 2Z]; channel 8c + 4i + 2j + k goes to sub-voxel (i, j, k) of c.

    In half precision channels_last_3d memory stays so: the blocks that follow are made for it.
    """
    batch, channels, *sizes = x.shape
    parts, doubled = x.view(batch, channels // 8, 2, 2, 2, *sizes), [2 * size for size in sizes]
    if x.dtype in (torch.float16, torch.bfloat16) and x.is_contiguous(memory_format=torch.channels_last_3d):
        return parts.permute(0, 5, 2, 6, 3, 7, 4, 1).reshape(batch, *doubled, channels // 8).movedim(-1, 1)
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels // 8, *doubled)


def zero_init(module: nn.Module) -> nn.Module:
    """The module with all its parameters set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class _StructureCoder(TorsoModule):
    config_class = StructureVaeConfig
    torso = ("blocks", "middle_block")

    def __init__(self, config: StructureVaeConfig) -> None:
        super().__init__()
        if config.norm_type not in ("layer", "group"):
            raise ValueError(f"norm_type {config.norm_type!r} is neither 'layer' nor 'group'")
        self.config = config

    @classmethod
    def from_args(cls, **args: Any) -> Any:
        """Build from the arguments of a public configuration file."""
        return cls(StructureVaeConfig.from_args(args))

    def _middle(self, channels: int) -> nn.Sequential:
        return nn.Sequential(*(ResBlock3d(channels) for _ in range(self.config.num_res_blocks_middle)))

    def _levels(self, resample: type[nn.Module]) -> nn.ModuleList:
        channels, blocks = self.config.channels, nn.ModuleList()
        for level, width in enumerate(channels):
            blocks.extend(ResBlock3d(width) for _ in range(self.config.num_res_blocks))
            if level + 1 < len(channels):
                blocks.append(resample(width, channels[level + 1]))
        return blocks

    def _head(self, channels: int, out_channels: int) -> nn.Sequential:
        group = self.config.norm_type == "group"
        norm = GroupNorm32(32, channels) if group else ChannelLayerNorm32(channels)
        return nn.Sequential(norm, nn.SiLU(), Conv3d(channels, out_channels, 3, padding=1))

    def _out(self, h: Tensor, dtype: torch.dtype) -> Tensor:
        """`out_layer` in `dtype`, contiguous."""
        norm, _, conv = self.out_layer
        return conv(norm_silu(norm, h, dtype)).contiguous()


class SparseStructureEncoder(_StructureCoder):
    """Occupancy [B, C_in, R, R, R] -> posterior of the latent at R / 2^(levels - 1)."""

    def __init__(self, config: StructureVaeConfig) -> None:
        super().__init__(config)
        c = config
        self.input_layer = Conv3d(c.in_channels, c.channels[0], 3, padding=1)
        self.blocks = self._levels(DownsampleBlock3d)
        self.middle_block = self._middle(c.channels[-1])
        self.out_layer = self._head(c.channels[-1], 2 * c.latent_channels)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [B, C_latent, r, r, r], of a 0/1 occupancy volume."""
        h = self.input_layer(_channels_last(x)).to(self.torso_dtype)
        for block in self.blocks:
            h = block(h)
        h = self.middle_block(h)
        return self._out(h, x.dtype).chunk(2, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """The posterior's mean."""
        return self.posterior(x)[0]


class SparseStructureDecoder(_StructureCoder):
    """Latent [B, C_latent, r, r, r] -> occupancy logits [B, C_out, R, R, R]."""

    def __init__(self, config: StructureVaeConfig) -> None:
        super().__init__(config)
        c = config
        self.input_layer = Conv3d(c.latent_channels, c.channels[0], 3, padding=1)
        self.middle_block = self._middle(c.channels[0])
        self.blocks = self._levels(UpsampleBlock3d)
        self.out_layer = self._head(c.channels[-1], c.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits in the dtype of `x`; a voxel is occupied where they are positive."""
        h = self.input_layer(_channels_last(x)).to(self.torso_dtype)
        h = self.middle_block(h)
        for block in self.blocks:
            h = block(h)
        return self._out(h, x.dtype)


def _channels_last(x: Tensor) -> Tensor:
    """Channels innermost in memory: faster convolutions, and a norm over channels without copies."""
    return x.contiguous(memory_format=torch.channels_last_3d)
