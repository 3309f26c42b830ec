"""What a flow of TRELLIS computes before the first step of a run: conditions once a prompt, times once a run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.nn.attention import PreparedContext, all_tokens_equal


class PreparedStep(NamedTuple):
    """One condition at one step.

    Attributes:
        mods: [L, B or 1, 6C] modulation of every transformer block; the same for all conditions of a step.
        contexts: the condition's keys and values, one per block; the same at all steps.
        levels: [B or 1, sum of 2 C_out] what the time gives the residual blocks (stage 2), the same as `mods`.
    """

    mods: Tensor
    contexts: list[PreparedContext]
    levels: Tensor | None = None


def prepare_contexts(
    blocks: nn.ModuleList, conditions: list[Tensor], uniform: list[bool] | None
) -> list[list[PreparedContext]]:
    """For every condition [B, M, D] what it contributes to the cross-attention of every block.

    Args:
        uniform: what `all_tokens_equal` says of every condition, for a caller that has asked already.
    """
    uniform = [all_tokens_equal(cond) for cond in conditions] if uniform is None else uniform
    return [
        [block.cross_attn.prepare(cond, same) for block in blocks]
        for cond, same in zip(conditions, uniform, strict=True)
    ]


def prepare_modulations(flow: Any, emb: Tensor) -> Tensor:
    """[L, S, 6C] modulation of all blocks in the torso's dtype, from time embeddings [S, C] of all steps."""
    blocks, dtype = flow.blocks, flow.torso_dtype
    if flow.config.share_mod:
        return flow.adaLN_modulation(emb).to(dtype).expand(len(blocks), -1, -1)
    active, layers = F.silu(emb.to(dtype)), [block.adaLN_modulation[1] for block in blocks]
    return torch.stack([layer(active) for layer in layers])
