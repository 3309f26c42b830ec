"""The grid transformer as the released code runs it: nothing kept between steps, every operation by itself.

Equations of gap3d.md 3.3 to 3.5 on the weights of a `GridDiT`, in the order and precision of the released layers:
masks that hide nothing are passed all the same, as integers that every attention makes boolean and the host looks at
once a step; rotations are complex products in float32, from a table of 384 x 384 positions that lies on the host and
is sent whole at every step; keys and values are repeated for the heads that share them although every head has its
own, which copies them; SiLU is evaluated in float32; and the condition is projected anew at every step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.token_grid import unpack_grid
from gap3d_app.nn.grid_rope import rope_table

TABLE_SIDE = 384
"""Positions per axis of the released rotary table."""


class ReferenceGrid:
    """A plain velocity function for `FlowSampler` with `batch_guidance`, on the weights of `dit`."""

    def __init__(self, dit: GridDiT) -> None:
        self.dit = dit
        # Made with the network, but no part of it: it stays behind when the network goes to the device.
        whole = torch.complex(*rope_table(TABLE_SIDE, TABLE_SIDE, dit.config.head_dim, leading=0))
        self.table = whole.view(TABLE_SIDE, TABLE_SIDE, -1)

    def __call__(self, state: tuple[Tensor, ...], t: Tensor, cond: Tensor) -> tuple[Tensor, ...]:
        """Velocities of the three parts; t [B], cond [B, L, D]; in the dtype of the state."""
        model, config = self.dit.model, self.dit.config
        dtype = model.cls_embed.weight.dtype
        patch, cls, reg = (part.to(dtype) for part in state)
        tokens = model.caption_projection(cond.to(dtype))
        token_mask = torch.ones(tokens.shape[:2], device=tokens.device)
        embed = model.time_caption_embed
        vector = embed.time(t) + embed.pooled(tokens, token_mask)
        token_mask = token_mask.bool()
        x = model.embed(patch, cls, reg)
        phase = self._phase(x.device)
        mask = torch.ones(x.shape[:2], dtype=torch.int32, device=x.device)
        if not bool(mask.any(dim=-1).all()):
            raise ValueError("a sample without a token that may be seen")
        for block in model.layers:
            x = self._block(block, x, mask, vector, tokens, token_mask, phase)
        scale = model.norm_out.linear_1(F.silu(vector))
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale).unsqueeze(1)
        x = model.norm_out.linear_2(x)
        grid = unpack_grid(x, config.input_size, config.input_size, config.num_register_tokens)
        return tuple(part.to(state[0].dtype) for part in grid)

    def _phase(self, device: torch.device) -> Tensor:
        """[1 + R + H*W, head_dim / 2] rotations of this network's tokens; those in front do not turn."""
        side, leading = self.dit.config.input_size, 1 + self.dit.config.num_register_tokens
        phase = self.table.to(device)[:side, :side].flatten(0, 1)
        return torch.cat([phase.new_ones(leading, phase.shape[1]), phase])

    def _block(
        self,
        block: nn.Module,
        x: Tensor,
        mask: Tensor,
        vector: Tensor,
        tokens: Tensor,
        token_mask: Tensor,
        phase: Tensor,
    ) -> Tensor:
        scale, gate, scale_ffn, gate_ffn = block.norm1.linear(F.silu(vector)).unsqueeze(1).chunk(4, dim=-1)
        source = _rms_norm(x, block.norm1.norm) * (1 + scale)
        within = self._attention(block.attn1, source, source, mask, phase, turn_keys=True)
        context = _rms_norm(tokens, block.norm1_context)
        across = self._attention(block.attn2, source, context, token_mask, phase, turn_keys=False)
        joint = within + across * block.gate.tanh().view(1, 1, -1, 1)
        out = block.attn2.to_out[0](joint.flatten(-2))
        x = x + gate.tanh() * _rms_norm(out, block.norm2)
        feed, y = block.feed_forward, _rms_norm(x, block.ffn_norm1) * (1 + scale_ffn)
        inner = F.silu(feed.linear_1(y).float()).to(y.dtype) * feed.linear_3(y)
        return x + gate_ffn.tanh() * _rms_norm(feed.linear_2(inner), block.ffn_norm2)

    def _attention(
        self, layer: nn.Module, x: Tensor, context: Tensor, mask: Tensor, phase: Tensor, turn_keys: bool
    ) -> Tensor:
        """[B, N, H, D]."""
        heads, dim = layer.n_heads, layer.head_dim
        query = layer.norm_q(layer.to_q(x)).unflatten(-1, (heads, dim))
        key = layer.norm_k(layer.to_k(context)).unflatten(-1, (-1, dim))
        value = layer.to_v(context).unflatten(-1, (-1, dim))
        query = _turned(query, phase)
        if turn_keys:
            key = _turned(key, phase)
        key, value = (_for_all_heads(part, heads) for part in (key, value))
        mask = mask.bool().view(len(mask), 1, 1, -1).expand(-1, heads, x.shape[1], -1)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return out.transpose(1, 2).to(query.dtype)


def _turned(x: Tensor, phase: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * phase.unsqueeze(1)).flatten(-2).type_as(x)


def _for_all_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, fewer heads, D] -> [B, N, heads, D], a copy also where nothing is missing."""
    return x.repeat_interleave(heads // x.shape[2], dim=2) if x.shape[2] < heads else x.clone()


def _rms_norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    variance = x.float().pow(2).mean(-1, keepdim=True)
    return (x * torch.rsqrt(variance + norm.eps)).to(norm.weight.dtype) * norm.weight
