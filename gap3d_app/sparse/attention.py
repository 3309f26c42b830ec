"""Attention and transformer blocks over sparse tensors: thin wrappers that choose the attention sets."""

from __future__ import annotations

from torch import Tensor

from gap3d_app.nn.attention import MultiHeadAttention, Segments
from gap3d_app.nn.transformer import ModulatedCrossBlock, TransformerBlock
from gap3d_app.sparse.tensor import Sites, SparseTensor


def attention_sets(
    sites: Sites, attn_mode: str = "full", window_size: int | None = None, shift_window: int = 0
) -> Segments:
    """Rows that attend to each other: whole batch elements ("full"), or windows of them ("windowed")."""
    if attn_mode == "full":
        return sites.segments
    if attn_mode == "windowed" and window_size:
        return sites.windows(window_size, shift_window)
    raise ValueError(f"attention mode {attn_mode!r} is neither 'full' nor 'windowed' with a window size")


class SparseMultiHeadAttention(MultiHeadAttention):
    """`MultiHeadAttention` on sparse tensors.

    Args:
        channels: C.
        num_heads: H.
        ctx_channels: channels of the context, for cross-attention.
        attn_mode: "full" or "windowed".
        window_size: edge of a window in voxels.
        shift_window: added to the coordinates before they are divided into windows.
        qk_rms_norm: normalise queries and keys per head.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        ctx_channels: int | None = None,
        attn_mode: str = "full",
        window_size: int | None = None,
        shift_window: int = 0,
        qk_rms_norm: bool = False,
    ) -> None:
        super().__init__(channels, num_heads, ctx_channels, qk_rms_norm)
        self.sets = (attn_mode, window_size, shift_window)

    def forward(self, x: SparseTensor, context: SparseTensor | Tensor | None = None) -> SparseTensor:
        """Attend inside `x`, or to a context: dense [B, M, D] or sparse."""
        segments, context_segments = attention_sets(x.sites, *self.sets), None
        if isinstance(context, SparseTensor):
            context, context_segments = context.feats, context.sites.segments
        return x.replace(super().forward(x.feats, context, segments, context_segments))


class SparseTransformerBlock(TransformerBlock):
    """`TransformerBlock` on sparse tensors; see `SparseMultiHeadAttention` for the attention's arguments."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        attn_mode: str = "full",
        window_size: int | None = None,
        shift_window: int = 0,
        qk_rms_norm: bool = False,
    ) -> None:
        super().__init__(channels, num_heads, mlp_ratio, qk_rms_norm)
        self.sets = (attn_mode, window_size, shift_window)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(super().forward(x.feats, attention_sets(x.sites, *self.sets)))


class ModulatedSparseCrossBlock(ModulatedCrossBlock):
    """`ModulatedCrossBlock` on sparse tensors with full attention inside each batch element."""

    def forward(self, x: SparseTensor, mod: Tensor, context: Tensor) -> SparseTensor:
        """x [T, C], mod [B, C] (or [B, 6C] if shared), dense context [B, M, D]."""
        segments = x.sites.segments
        if segments.starts is not None:
            return x.replace(super().forward(x.feats, mod, context, segments))
        # Batch elements of equal length are a dense tensor already.
        dense = x.feats.view(segments.count, segments.length, -1)
        return x.replace(super().forward(dense, mod, context).flatten(0, 1))
