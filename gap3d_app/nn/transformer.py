"""Transformer blocks, for dense tokens [B, N, C] and for packed rows [T, C] with `Segments` alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from gap3d_app.nn.activations import TanhGELU, linear_gelu
from gap3d_app.nn.attention import MultiHeadAttention, PreparedContext, Segments, rows_of_segments
from gap3d_app.nn.modulated_norms import gated_sum_norm, joined_sum_norm, modulated_norm
from gap3d_app.nn.norms import LayerNorm32
from gap3d_app.nn.parallel import Result, run_branches
from gap3d_app.nn.parts import part_ends


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear.

    Attributes:
        fused: whether the first product may apply the GELU; off in what is measured as a reference.
        tuned: whether that product's algorithm is chosen by measurement.
    """

    fused, tuned = True, False

    def __init__(self, channels: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), TanhGELU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused:
            return self.mlp(x)
        first, gelu, last = self.mlp
        return last(linear_gelu(first, gelu, x, self.tuned))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and perceptron (trellis.md section 4.8); the norms have no parameters."""

    def __init__(self, channels: int, num_heads: int, mlp_ratio: float = 4.0, qk_rms_norm: bool = False) -> None:
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

    Attributes:
        fused: whether norms are kernels together with what stands around them, see `modulated_norms`.
    """

    fused = False

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
        mod = self.modulation(mod)
        return self.beyond(self.within(x, mod, segments), mod, [context], segments)

    def modulation(self, mod: Tensor) -> Tensor:
        """[..., C] time embedding -> [..., 6C]: shift, scale, gate of the self-attention, then of the perceptron."""
        return mod if self.share_mod else self.adaLN_modulation(mod)

    def enter(self, x: Tensor, mod: Tensor, segments: Segments | None = None) -> Tensor:
        """What the self-attention reads of x; mod [B or 1, 6C]. The norm has no parameters, so it is any block's."""
        shift, scale, _ = _per_token(mod.chunk(2, dim=-1)[0], segments).chunk(3, dim=-1)
        return modulated_norm(x, self.norm1, shift, scale, self.fused)

    def within(
        self, x: Tensor, mod: Tensor, segments: Segments | None = None, source: Tensor | None = None
    ) -> Tensor:
        """The self-attention's part of the block, which no condition reaches; source: what `enter` makes, if known."""
        gate = _per_token(mod.chunk(2, dim=-1)[0], segments).chunk(3, dim=-1)[2]
        source = self.enter(x, mod, segments) if source is None else source
        return torch.addcmul(x, gate, self.self_attn(source, segments=segments))

    def beyond(
        self,
        x: Tensor,
        mod: Tensor,
        contexts: list[Tensor | PreparedContext],
        segments: Segments | None = None,
    ) -> Tensor:
        """The rest of the block: cross-attention and perceptron.

        Args:
            contexts: one context, or several for a batch that has as many equal parts (dense tokens only).
        """
        x, source, gate = self.across(x, mod, contexts, segments)
        return torch.addcmul(x, gate, self.mlp(source))

    def across(
        self,
        x: Tensor,
        mod: Tensor,
        contexts: list[Tensor | PreparedContext],
        segments: Segments | None = None,
        alike: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x and the cross-attention, what the perceptron reads of that, and the gate of its result.

        Args:
            alike: x enters under every one of the contexts, and the results have as many times the batch.
        """
        rows = [x] * len(contexts) if alike else list(x.chunk(len(contexts)))
        parts = [self._part(own, context, segments) for own, context in zip(rows, contexts, strict=True)]
        shift, scale, gate = _per_token(mod.chunk(2, dim=-1)[1], segments).chunk(3, dim=-1)
        return *joined_sum_norm(rows, parts, self.norm3, shift, scale, self.fused), gate

    def _part(self, x: Tensor, context: Tensor | PreparedContext, segments: Segments | None) -> Tensor:
        if isinstance(context, PreparedContext) and context.constant is not None:
            return _per_token(context.constant, segments)
        return self.cross_attn(self.norm2(x), context, segments=segments)


PARTS = (1 / 8, 1 / 2, 7 / 8)
"""Shares of a chain's blocks at which a part of it ends (see `gap3d_app.nn.parts`): the device can soon begin with the
first one, and has little left to do when the last one is known. Every part costs the host some time.
"""

Advance = Callable[..., tuple[Tensor, Tensor | None]]


def advance(
    block: ModulatedCrossBlock,
    x: Tensor,
    source: Tensor,
    mod: Tensor,
    contexts: list[PreparedContext],
    following: Tensor | None,
    alike: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """One block of a chain, and what the next one's self-attention reads of the result, made with it.

    A function, so that one compilation of it serves all blocks.

    Args:
        x, source: [B, N, C] from the block before, the first source from `enter`.
        mod, following: [B or 1, 6C] ready modulation of this block and of the next.
        alike: x enters under every one of the contexts, and the results have as many times the batch.
    """
    x, source, gate = block.across(block.within(x, mod, source=source), mod, contexts, alike=alike)
    y = block.mlp(source)
    if following is None:
        return torch.addcmul(x, gate, y), None
    shift, scale, _ = _per_token(following.chunk(2, dim=-1)[0], None).chunk(3, dim=-1)
    return gated_sum_norm(x, y, gate, block.norm1, shift, scale, block.fused)


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    mods: list[Tensor],
    conditions: list[list[PreparedContext]],
    leave: Callable[[Tensor], Result],
    segments: Segments | None = None,
    together: bool | None = None,
    advance: Advance = advance,
) -> list[Result]:
    """Chains of `ModulatedCrossBlock`s from the same tokens under several conditions.

    Args:
        blocks: the chain.
        x, segments: as for a block.
        mods: the modulation [B or 1, 6C] of every block.
        conditions: for every condition one prepared context per block.
        leave: what follows the last block.
        together: all conditions in one batch, for dense tokens; by default away from the processor, where larger
            products are faster.
        advance: what takes a block of conditions in one batch, such as a compiled form of the function of that name.

    Returns:
        For every condition the result of `leave`.
    """
    if together is None:
        together = x.device.type != "cpu"
    if segments is None and (together or len(conditions) == 1):
        return _run_together(blocks, x, mods, conditions, leave, advance)
    first = blocks[0]
    common = first.within(x, mods[0], segments)

    def branch(contexts: list[PreparedContext]) -> Result:
        h = first.beyond(common, mods[0], contexts[:1], segments)
        for block, mod, context in zip(blocks[1:], mods[1:], contexts[1:], strict=True):
            h = block.beyond(block.within(h, mod, segments), mod, [context], segments)
        return leave(h)

    return run_branches([partial(branch, contexts) for contexts in conditions], x.device)


def _run_together(
    blocks: nn.ModuleList,
    x: Tensor,
    mods: list[Tensor],
    conditions: list[list[PreparedContext]],
    leave: Callable[[Tensor], Result],
    advance: Advance,
) -> list[Result]:
    """`run_blocks` with the conditions one after the other in the batch, from the first cross-attention on."""
    count, h = len(conditions), x
    alike = count > 1 and mods[0].shape[0] == 1
    if not alike:
        h, mods = h.repeat(count, 1, 1), [mod if mod.shape[0] == 1 else mod.repeat(count, 1) for mod in mods]
    source = blocks[0].enter(h, mods[0])
    layers = zip(blocks, mods, [*mods[1:], None], *conditions, strict=True)
    ends = {int(len(blocks) * share) for share in PARTS}
    for index, (block, mod, following, *contexts) in enumerate(layers):
        if index in ends:
            part_ends()
        h, source = advance(block, h, source, mod, contexts, following, alike and block is blocks[0])
    return [leave(part) for part in h.chunk(count)]


def _per_token(mod: Tensor, segments: Segments | None) -> Tensor:
    """[B, K] -> something that broadcasts over the tokens."""
    if segments is None:
        return mod[:, None]
    return rows_of_segments(mod, segments)
