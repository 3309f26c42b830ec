"""Stage-1 flow: a transformer over the dense structure latent (trellis.md section 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gap3d_app.models.configs import StructureFlowConfig
from gap3d_app.models.prepared import PreparedStep, prepare_contexts, prepare_modulations
from gap3d_app.nn.embeddings import TimestepEmbedder, grid_position_embedding
from gap3d_app.nn.modulated_norms import last_norm
from gap3d_app.nn.norms import LayerNorm32
from gap3d_app.nn.torso import TorsoModule, init_flow
from gap3d_app.nn.transformer import ModulatedCrossBlock, advance, run_blocks


class SparseStructureFlowModel(TorsoModule):
    """Velocity of the structure latent. Module names give the public state-dict keys.

    Attributes:
        fused: whether the last norm may be one kernel.
    """

    fused = False
    config_class = StructureFlowConfig
    advance = staticmethod(advance)

    def __init__(self, config: StructureFlowConfig) -> None:
        super().__init__()
        self.config = c = config
        volume = c.patch_size**3
        self.t_embedder = TimestepEmbedder(c.model_channels)
        if c.share_mod:
            width = c.model_channels
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        table = grid_position_embedding(c.resolution // c.patch_size, c.model_channels)
        self.register_buffer("pos_emb", table)
        self.input_layer = nn.Linear(c.in_channels * volume, c.model_channels)
        self.blocks = nn.ModuleList(
            ModulatedCrossBlock(
                c.model_channels,
                c.cond_channels,
                c.heads,
                c.mlp_ratio,
                c.qk_rms_norm,
                c.qk_rms_norm_cross,
                c.share_mod,
            )
            for _ in range(c.num_blocks)
        )
        self.out_norm = LayerNorm32(c.model_channels, eps=1e-5)
        self.out_layer = nn.Linear(c.model_channels, c.out_channels * volume)
        init_flow(self)

    @classmethod
    def from_args(cls, **args: Any) -> SparseStructureFlowModel:
        """Build from the arguments of a public configuration file."""
        return cls(StructureFlowConfig.from_args(args))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Predict the velocity.

        Args:
            x: [B, C_in, R, R, R] state.
            t: [B] 1000 times the flow time.
            cond: [B, L, D] condition tokens.

        Returns:
            [B, C_out, R, R, R] in the dtype of `x`.
        """
        h, mod = self._enter(x, t)
        cond = cond.to(self.torso_dtype)
        for block in self.blocks:
            h = block(h, mod, cond)
        return self._leave(h, x.dtype)

    def prepare(
        self, conditions: list[Tensor], times: Tensor, uniform: list[bool] | None = None
    ) -> list[list[PreparedStep]]:
        """What conditions [B, L, D] and times [S, B or 1] contribute: for every step one value per condition.

        Args:
            uniform: what `all_tokens_equal` says of every condition, for a caller that has asked already.
        """
        contexts = prepare_contexts(self.blocks, [cond.to(self.torso_dtype) for cond in conditions], uniform)
        mods = prepare_modulations(self, self.t_embedder(times.flatten())).unflatten(1, times.shape)
        return [[PreparedStep(mod, part) for part in contexts] for mod in mods.transpose(0, 1).contiguous()]

    def velocities(self, x: Tensor, prepared: list[PreparedStep]) -> list[Tensor]:
        """`forward` for several conditions of one step; what does not depend on them is computed once."""
        h = self._embed(x).to(self.torso_dtype)
        mods, contexts = prepared[0].mods.unbind(0), [part.contexts for part in prepared]
        return run_blocks(self.blocks, h, mods, contexts, lambda h: self._leave(h, x.dtype), advance=self.advance)

    def _embed(self, x: Tensor) -> Tensor:
        return self.input_layer(patchify(x, self.config.patch_size)) + self.pos_emb

    def _enter(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The first block's tokens and the modulation."""
        mod = self.t_embedder(t)
        if self.config.share_mod:
            mod = self.adaLN_modulation(mod)
        return self._embed(x).to(self.torso_dtype), mod.to(self.torso_dtype)

    def _leave(self, h: Tensor, dtype: torch.dtype) -> Tensor:
        h = last_norm(h, self.out_norm, dtype, dtype, self.fused)
        c = self.config
        return unpatchify(self.out_layer(h), c.patch_size, c.resolution // c.patch_size)


def patchify(x: Tensor, patch: int) -> Tensor:
    """[B, C, X, Y, Z] -> [B, N, C*p^3]; z fastest; a token is ordered channel, then offset x, y, z."""
    batch, channels, *sizes = x.shape
    split = [part for size in sizes for part in (size // patch, patch)]
    x = x.reshape(batch, channels, *split).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(batch, -1, channels * patch**3)


def unpatchify(tokens: Tensor, patch: int, grid: int) -> Tensor:
    """Inverse of `patchify` for a cube of `grid` tokens per axis."""
    batch, _, width = tokens.shape
    x = tokens.view(batch, grid, grid, grid, width // patch**3, patch, patch, patch)
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, -1, *[grid * patch] * 3)


def occupied_coords(logits: Tensor, threshold: float = 0.0) -> Tensor:
    """Voxels with a logit over the threshold: [B, 1, X, Y, Z] -> [V, 4] int32 (batch, x, y, z), sorted."""
    return torch.argwhere(logits[:, 0] > threshold).int()
