"""Stage-2 flow: a transformer over the structured latent (trellis.md section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.kernels import kernel_module, triton_fits
from gap3d_app.models.configs import SLatFlowConfig
from gap3d_app.models.prepared import PreparedStep, prepare_contexts, prepare_modulations
from gap3d_app.nn.attention import Segments, rows_of_segments
from gap3d_app.nn.embeddings import TimestepEmbedder
from gap3d_app.nn.modulated_norms import last_norm, modulate
from gap3d_app.nn.norms import LayerNorm32
from gap3d_app.nn.torso import TorsoModule, init_flow
from gap3d_app.nn.transformer import advance, run_blocks
from gap3d_app.sparse.attention import ModulatedSparseCrossBlock
from gap3d_app.sparse.conv import SparseConv3d
from gap3d_app.sparse.resample import SparseDownsample, SparseUpsample, unpooled_conv, unpooled_products
from gap3d_app.sparse.tensor import SparseTensor


def activate(norm: LayerNorm32, x: Tensor, mod: Tensor | None = None, fused: bool = False) -> Tensor:
    """SiLU of the norm of x [T, C], modulated by scale and shift [T or 1, 2 C]; by one kernel if `fused` and it can."""
    if fused and x.is_cuda:
        kernel = kernel_module("gap3d_app.nn.triton_norm_silu", triton_fits)
        if kernel is not None and kernel.applies_to_rows(x, mod):
            return kernel.norm_silu_rows(x, norm, mod)
    x = norm(x)
    if mod is not None:
        scale, shift = mod.chunk(2, dim=-1)
        x = modulate(x, shift, scale)
    return F.silu(x)


class SparseResBlock3d(nn.Module):
    """Time-modulated residual block, optionally pooling or un-pooling first.

    The time embedding splits into scale, then shift: the other order than in the transformer blocks.

    Attributes:
        fused: whether norms and activations may be one kernel, see `activate`.
    """

    fused = False

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int | None = None,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.norm1 = LayerNorm32(channels, affine=True, eps=1e-6)
        self.norm2 = LayerNorm32(out_channels, eps=1e-6)
        self.conv1 = SparseConv3d(channels, out_channels)
        self.conv2 = SparseConv3d(out_channels, out_channels)
        nn.init.zeros_(self.conv2.conv.weight)
        nn.init.zeros_(self.conv2.conv.bias)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Linear(channels, out_channels)
        self.resample = SparseDownsample() if downsample else SparseUpsample() if upsample else nn.Identity()

    def forward(self, x: SparseTensor, emb: Tensor) -> SparseTensor:
        """x [T, C], emb [B, C_emb] -> [T', C_out] on the resampled sites."""
        return self.modulated(x, self.emb_layers(emb))

    def modulated(self, x: SparseTensor, mod: Tensor) -> SparseTensor:
        """The block with the result of `emb_layers` [B or 1, 2 C_out] ready."""
        if isinstance(self.resample, SparseUpsample):
            # Norm, activation and skip act on single voxels: before the copying they have fewer rows.
            source = x.replace(activate(self.norm1, x.feats, fused=self.fused))
            h = unpooled_conv(source, self.conv1, self.resample.factor)
            skip = self.resample(x.replace(self.skip_connection(x.feats))).feats
        else:
            x = self.resample(x)
            h = self.conv1(x.replace(activate(self.norm1, x.feats, fused=self.fused)))
            skip = self.skip_connection(x.feats)
        h = h.replace(activate(self.norm2, h.feats, rows_of_segments(mod, h.sites.segments), self.fused))
        return h.replace(self.conv2(h).feats + skip)


class SLatFlowModel(TorsoModule):
    """Velocity of the structured latent. Module names give the public state-dict keys.

    With `share_mod` the transformer blocks share one modulation layer and the residual blocks keep their own
    (the public code fails on that combination).

    Attributes:
        fused: whether the last norm may be one kernel.
    """

    fused = False
    config_class = SLatFlowConfig
    torso = ("input_blocks", "blocks", "out_blocks")
    advance = staticmethod(advance)

    def __init__(self, config: SLatFlowConfig) -> None:
        super().__init__()
        self.config = c = config
        levels = list(c.io_block_channels or [])
        if 2 ** len(levels) != c.patch_size:
            raise ValueError(f"patch size {c.patch_size} needs {math.log2(c.patch_size):g} io_block_channels")
        width = c.model_channels
        self.t_embedder = TimestepEmbedder(width)
        if c.share_mod:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.input_layer = nn.Linear(c.in_channels, levels[0] if levels else width)
        self.input_blocks, self.out_blocks = nn.ModuleList(), nn.ModuleList()
        joined = 2 if c.use_skip_connection else 1
        for level, narrow in enumerate(levels):
            wide = (levels + [width])[level + 1]
            same = [SparseResBlock3d(narrow, width) for _ in range(c.num_io_res_blocks - 1)]
            self.input_blocks.extend([*same, SparseResBlock3d(narrow, width, wide, downsample=True)])
        for level, narrow in reversed(list(enumerate(levels))):
            wide = (levels + [width])[level + 1]
            self.out_blocks.append(SparseResBlock3d(joined * wide, width, narrow, upsample=True))
            self.out_blocks.extend(
                SparseResBlock3d(joined * narrow, width, narrow) for _ in range(c.num_io_res_blocks - 1)
            )
        self.blocks = nn.ModuleList(
            ModulatedSparseCrossBlock(
                width, c.cond_channels, c.heads, c.mlp_ratio, c.qk_rms_norm, c.qk_rms_norm_cross, c.share_mod
            )
            for _ in range(c.num_blocks)
        )
        self.out_norm = LayerNorm32(levels[0] if levels else width, eps=1e-5)
        self.out_layer = nn.Linear(levels[0] if levels else width, c.out_channels)
        init_flow(self)

    @classmethod
    def from_args(cls, **args: Any) -> SLatFlowModel:
        """Build from the arguments of a public configuration file."""
        return cls(SLatFlowConfig.from_args(args))

    def forward(self, x: SparseTensor, t: Tensor, cond: Tensor) -> SparseTensor:
        """Predict the velocity.

        Args:
            x: feats [T, C_in] at the full resolution.
            t: [B] 1000 times the flow time.
            cond: [B, L, D] condition tokens.

        Returns:
            feats [T, C_out] on the same sites, in the dtype of `x`.
        """
        dtype = self.torso_dtype
        emb = self.t_embedder(t)
        mod = (self.adaLN_modulation(emb) if self.config.share_mod else emb).to(dtype)
        levels = [block.emb_layers(emb.to(dtype)) for block in (*self.input_blocks, *self.out_blocks)]
        h, skips = self._enter(x, levels)
        cond = cond.to(dtype)
        for block in self.blocks:
            h = block(h, mod, cond)
        return self._leave(h, levels, skips, x.dtype)

    def prepare(
        self, conditions: list[Tensor], times: Tensor, uniform: list[bool] | None = None
    ) -> list[list[PreparedStep]]:
        """What conditions [B, L, D] and times [S, B or 1] contribute: for every step one value per condition.

        Args:
            uniform: what `all_tokens_equal` says of every condition, for a caller that has asked already.
        """
        emb = self.t_embedder(times.flatten())
        contexts = prepare_contexts(self.blocks, [cond.to(self.torso_dtype) for cond in conditions], uniform)
        mods = prepare_modulations(self, emb).unflatten(1, times.shape).transpose(0, 1).contiguous()
        narrow = emb.to(self.torso_dtype)
        levels = [block.emb_layers(narrow) for block in (*self.input_blocks, *self.out_blocks)]
        levels = torch.cat(levels, dim=-1).unflatten(0, times.shape) if levels else [None] * len(times)
        return [[PreparedStep(mod, part, level) for part in contexts] for mod, level in zip(mods, levels, strict=True)]

    def velocities(self, x: SparseTensor, prepared: list[PreparedStep]) -> list[SparseTensor]:
        """`forward` for several conditions of one step; what does not depend on them is computed once."""
        step, levels = prepared[0], []
        if step.levels is not None:
            blocks = (*self.input_blocks, *self.out_blocks)
            levels = step.levels.split([block.emb_layers[1].out_features for block in blocks], dim=-1)
        h, skips = self._enter(x, levels)
        segments: Segments | None = h.sites.segments
        tokens = h.feats
        if segments.starts is None:
            # Batch elements of equal length are a dense tensor already.
            tokens, segments = tokens.view(segments.count, segments.length, -1), None

        def leave(end: Tensor) -> SparseTensor:
            return self._leave(h.replace(end.reshape(h.feats.shape)), levels, skips, x.dtype)

        contexts = [part.contexts for part in prepared]
        return run_blocks(self.blocks, tokens, step.mods.unbind(0), contexts, leave, segments, advance=self.advance)

    def _enter(self, x: SparseTensor, levels: Sequence[Tensor]) -> tuple[SparseTensor, list[Tensor]]:
        """The first transformer block's tokens, and the skips' features.

        levels: what `emb_layers` of every residual block made of the time, way in first.
        """
        dtype = self.torso_dtype
        h, skips = x.replace(self.input_layer(x.feats).to(dtype)), []
        for block, mod in zip(self.input_blocks, levels, strict=False):
            h = block.modulated(h, mod)
            skips.append(h.feats)
            if isinstance(block.resample, SparseDownsample):
                # The way out needs it. Its size comes from the device, which here has little to do before it answers.
                unpooled_products(h.sites, block.resample.factor)
        return h.replace(h.feats + h.sites.position_embedding(self.config.model_channels).to(dtype)), skips

    def _leave(
        self, h: SparseTensor, levels: Sequence[Tensor], skips: list[Tensor], dtype: torch.dtype
    ) -> SparseTensor:
        own = levels[len(self.input_blocks) :]
        for block, mod, skip in zip(self.out_blocks, own, reversed(skips), strict=True):
            if self.config.use_skip_connection:
                h = h.replace(torch.cat([h.feats, skip], dim=1))
            h = block.modulated(h, mod)
        # Unlike in the other models this norm sees the torso's dtype.
        (feats,) = last_norm(h.feats[None], self.out_norm, h.feats.dtype, dtype, self.fused)
        return h.replace(self.out_layer(feats))
