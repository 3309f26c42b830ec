"""Transformer blocks, for dense tokens [B, N, C] and for packed rows [T, C] with `Segments` alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gap3d_app.nn.activations import TanhGELU
from gap3d_app.nn.attention import MultiHeadAttention, PreparedContext, Segments, rows_of_segments
from gap3d_app.nn.norms import LayerNorm32
from gap3d_app.nn.parallel import Result, run_branches


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear."""

    def __init__(self, channels: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), TanhGELU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and perceptron (trellis.md section 4.8); the norms have no parameters."""

    def __init__(
        self, channels: int, num_heads: int, mlp_ratio: float = 4.0, qk_rms_norm: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(channels, eps=1e-6)
        self.attn = MultiHeadAttention(channels, num_heads, qk_rms_norm=qk_rms_norm)
        self.norm2 = LayerNorm32(channels, eps=1e-6)
        self.mlp = FeedForward(channels, mlp_ratio)

    def forward(self, x: Tensor, segments: Segments | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), segments=segments)
        return x + self.mlp(self.norm2(x))


class ModulatedCrossBlock(nn.Module):
    """Block with time modulation and cross-attention (trellis.md section 2.5).

    Only the pre-norm of the cross-attention has parameters, and that branch is neither gated nor modulated.

    Args:
        channels: C.
        ctx_channels: channels of the context.
        num_heads: H.
        mlp_ratio: hidden size of the perceptron over C.
        qk_rms_norm: normalise queries and keys of the self-attention.
        qk_rms_norm_cross: the same for the cross-attention.
        share_mod: the six modulation vectors come ready from the model instead of from an own layer.
    """

    def __init__(
        self,
        channels: int,
        ctx_channels: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
        share_mod: bool = False,
    ) -> None:
        super().__init__()
        self.share_mod = share_mod
        self.norm1 = LayerNorm32(channels, eps=1e-6)
        self.norm2 = LayerNorm32(channels, affine=True, eps=1e-6)
        self.norm3 = LayerNorm32(channels, eps=1e-6)
        self.self_attn = MultiHeadAttention(channels, num_heads, qk_rms_norm=qk_rms_norm)
        self.cross_attn = MultiHeadAttention(
            channels, num_heads, ctx_channels=ctx_channels, qk_rms_norm=qk_rms_norm_cross
        )
        self.mlp = FeedForward(channels, mlp_ratio)
        if not share_mod:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))

    def forward(
        self, x: Tensor, mod: Tensor, context: Tensor | PreparedContext, segments: Segments | None = None
    ) -> Tensor:
        """Apply the block.

        Args:
            x: [B, N, C], or packed [T, C] with `segments` whose set b is batch element b.
            mod: [B, C] time embedding, or [B, 6C] ready modulation if `share_mod`.
            context: [B, M, D], or what `cross_attn.prepare` made of it.
        """
        mod = self.modulation(mod, segments)
        return self.beyond(self.within(x, mod, segments), mod, context, segments)

    def modulation(self, mod: Tensor, segments: Segments | None = None) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the self-attention, then of the perceptron; they broadcast over tokens."""
        if not self.share_mod:
            mod = self.adaLN_modulation(mod)
        return _per_token(mod, segments).chunk(6, dim=-1)

    def within(self, x: Tensor, mod: tuple[Tensor, ...], segments: Segments | None = None) -> Tensor:
        """The self-attention's part of the block, which no condition reaches."""
        shift, scale, gate = mod[:3]
        return torch.addcmul(x, gate, self.self_attn(modulate(self.norm1(x), shift, scale), segments=segments))

    def beyond(
        self,
        x: Tensor,
        mod: tuple[Tensor, ...],
        context: Tensor | PreparedContext,
        segments: Segments | None = None,
    ) -> Tensor:
        """The rest of the block: cross-attention and perceptron."""
        shift, scale, gate = mod[3:]
        if isinstance(context, PreparedContext) and context.constant is not None:
            x = x + _per_token(context.constant, segments)
        else:
            x = x + self.cross_attn(self.norm2(x), context, segments=segments)
        return torch.addcmul(x, gate, self.mlp(modulate(self.norm3(x), shift, scale)))


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    mod: Tensor,
    conditions: list[list[PreparedContext]],
    leave: Callable[[Tensor], Result],
    segments: Segments | None = None,
) -> list[Result]:
    """Chains of `ModulatedCrossBlock`s from the same tokens under several conditions.

    The first self-attention has met no condition yet and is computed once; then the conditions part, and on a
    processor each has its own core (`run_branches`).

    Args:
        blocks: the chain.
        x, mod, segments: as for a block.
        conditions: for every condition one prepared context per block.
        leave: what follows the last block.

    Returns:
        For every condition the result of `leave`.
    """
    first = blocks[0]
    first_mod = first.modulation(mod, segments)
    common = first.within(x, first_mod, segments)

    def branch(contexts: list[PreparedContext]) -> Result:
        h = first.beyond(common, first_mod, contexts[0], segments)
        for block, context in zip(blocks[1:], contexts[1:], strict=True):
            own = block.modulation(mod, segments)
            h = block.beyond(block.within(h, own, segments), own, context, segments)
        return leave(h)

    return run_branches([partial(branch, contexts) for contexts in conditions], x.device)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


def _per_token(mod: Tensor, segments: Segments | None) -> Tensor:
    """[B, K] -> something that broadcasts over the tokens."""
    if segments is None:
        return mod[:, None]
    return rows_of_segments(mod, segments)
