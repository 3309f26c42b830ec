"""Analytic operation counts of the stages (performance.md 2.1): products only, two operations per multiply-add.

A guided prediction whose null branch is folded needs neither queries nor attention to the condition, and keys and
values of the condition count once a run instead of once an evaluation; `folded` says which way is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models.configs import FlowConfig, SLatVaeConfig, StructureVaeConfig
from gap3d_app.models.grid_dit import GridDiTConfig
from gap3d_app.nn.attention import Segments
from gap3d_app.sparse.conv import neighbour_map
from gap3d_app.sparse.resample import pooled_sites
from gap3d_app.sparse.tensor import Sites


def guided_steps(sampler: FlowSampler) -> int:
    """Steps that need the unconditional prediction too."""
    return sum(sampler.guided(float(t)) for t in sampler.times[:-1])


@dataclass(frozen=True)
class Evaluation:
    """Operations of one network evaluation.

    Attributes:
        common: what every evaluation needs.
        across: queries, attention and output projection of the cross-attention.
        condition: keys and values of the condition.
    """

    common: float
    across: float
    condition: float

    def run(self, sampler: FlowSampler, folded: bool) -> float:
        """Operations of a whole sampling run."""
        guided = guided_steps(sampler)
        evaluations = sampler.steps + guided
        if folded:
            return evaluations * self.common + sampler.steps * self.across + self.condition
        return evaluations * (self.common + self.across + self.condition)


def grid_evaluation(config: GridDiTConfig, cond_tokens: int) -> Evaluation:
    """One prediction for one sample; both attentions share the output projection."""
    tokens, dim, layers = 1 + config.num_register_tokens + config.input_size**2, config.dim, config.n_layers
    linear = layers * (4 * dim * dim + 3 * dim * config.ffn_dim) + 2 * dim * config.in_channels
    common = 2 * tokens * linear + layers * 4 * tokens**2 * dim
    across = layers * (2 * tokens * dim * dim + 4 * tokens * cond_tokens * dim)
    condition = cond_tokens * (layers * 4 * dim * dim + 2 * dim * (config.latent_embedding_size + dim))
    return Evaluation(common, across, condition)


def flow_evaluation(config: FlowConfig, tokens: int, cond_tokens: int) -> Evaluation:
    """The transformer blocks of a TRELLIS flow for one sample."""
    dim, layers = config.model_channels, config.num_blocks
    common = layers * (24 * tokens * dim * dim + 4 * tokens**2 * dim)
    across = layers * (4 * tokens * dim * dim + 4 * tokens * cond_tokens * dim)
    return Evaluation(common, across, layers * 4 * cond_tokens * config.cond_channels * dim)


def slat_evaluation(config: FlowConfig, sites: Sites, cond_tokens: int) -> Evaluation:
    """`flow_evaluation` on the pooled voxels, and the residual blocks around it (existing neighbours only)."""
    coarse, _ = pooled_sites(sites)
    blocks = flow_evaluation(config, len(coarse), cond_tokens)
    narrow, wide = config.io_block_channels[0], config.model_channels
    plain = config.num_io_res_blocks - 1
    fine_pairs, coarse_pairs = neighbour_pairs(sites), neighbour_pairs(coarse)
    down = 2 * coarse_pairs * (narrow * wide + wide * wide)
    up = 2 * fine_pairs * (2 * wide * narrow + narrow * narrow)
    rest = plain * 2 * fine_pairs * (2 * narrow * narrow + 3 * narrow * narrow)
    return Evaluation(blocks.common + down + up + rest, blocks.across, blocks.condition)


def neighbour_pairs(sites: Sites) -> int:
    """Pairs (voxel, existing neighbour), itself included."""
    return int((neighbour_map(sites) < len(sites)).sum())


def structure_decoder(config: StructureVaeConfig, latent: int = 16) -> float:
    """The dense decoder: 3x3x3 convolutions at all voxels."""
    total, side, channels = 0.0, latent, config.channels
    total += 54 * side**3 * config.latent_channels * channels[0]
    total += 54 * side**3 * config.num_res_blocks_middle * 2 * channels[0] ** 2
    for level, width in enumerate(channels):
        total += 54 * side**3 * config.num_res_blocks * 2 * width * width
        if level + 1 < len(channels):
            total += 54 * side**3 * width * 8 * channels[level + 1]
            side *= 2
    return total + 54 * side**3 * channels[-1] * config.out_channels


def decoder_trunk(config: SLatVaeConfig, sites: Sites, out_channels: int) -> float:
    """Transformer blocks with attention in windows, and the output layer of a latent's decoder."""
    dim, voxels = config.model_channels, len(sites)
    inside = [window_pairs(sites.windows(config.window_size, shift)) for shift in (0, config.window_size // 2)]
    attention = sum(4 * inside[index % 2] * dim for index in range(config.num_blocks))
    return config.num_blocks * 24 * voxels * dim * dim + attention + 2 * voxels * dim * out_channels


def window_pairs(segments: Segments) -> int:
    """Pairs of rows that attend to each other."""
    if segments.starts is None:
        return segments.count * segments.length**2
    sizes: Tensor = segments.starts.diff().long()
    return int(torch.sum(sizes * sizes))


def mesh_upsampling(widths: list[int], pairs: list[int], voxels: list[int], folded: bool) -> float:
    """Both subdivision blocks.

    Args:
        widths: channels before the first, between, and behind the second block.
        pairs: neighbour pairs at the resolution behind each block.
        voxels: rows behind each block.
        folded: the first convolution meets only 8 different neighbours per voxel.
    """
    total = 0.0
    for before, after, met, rows in zip(widths[:-1], widths[1:], pairs, voxels, strict=True):
        first = 8 * rows if folded else met
        total += 2 * (first * before * after + met * after * after + rows // 8 * before * after)
    return total
