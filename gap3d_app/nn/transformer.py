"""Transformer blocks, for dense tokens [B, N, C] and for packed rows [T, C] with `Segments` alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.nn.attention import MultiHeadAttention, Segments
from gap3d_app.nn.norms import LayerNorm32


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear."""

    def __init__(self, channels: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels)
        )

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
        self, x: Tensor, mod: Tensor, context: Tensor, segments: Segments | None = None
    ) -> Tensor:
        """Apply the block.

        Args:
            x: [B, N, C], or packed [T, C] with `segments` whose set b is batch element b.
            mod: [B, C] time embedding, or [B, 6C] ready modulation if `share_mod`.
            context: [B, M, D].
        """
        if not self.share_mod:
            mod = self.adaLN_modulation(mod)
        shift1, scale1, gate1, shift2, scale2, gate2 = _per_token(mod, segments).chunk(6, dim=-1)
        h = modulate(self.norm1(x), shift1, scale1)
        x = x + gate1 * self.self_attn(h, segments=segments)
        x = x + self.cross_attn(self.norm2(x), context, segments=segments)
        h = modulate(self.norm3(x), shift2, scale2)
        return x + gate2 * self.mlp(h)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


def _per_token(mod: Tensor, segments: Segments | None) -> Tensor:
    """[B, K] -> something that broadcasts over the tokens."""
    if segments is None:
        return mod[:, None]
    return rows_of_segments(mod, segments)


def rows_of_segments(values: Tensor, segments: Segments) -> Tensor:
    """Value of its set for every row: [S, K] -> [T, K], or [1, K] when there is one set."""
    if segments.count == 1:
        return values
    if segments.slots is None:
        return values.repeat_interleave(segments.length, 0)
    # Through a one-hot product the backward is a product too, not a scatter with atomics.
    owner = F.one_hot(segments.slots // segments.length, segments.count).to(values.dtype)
    return owner @ values
