"""The grid transformer as the released code runs it: nothing kept between steps, every operation by itself.

Equations of gap3d.md 3.3 to 3.5 on the weights of a `GridDiT`, in the order and precision of the released layers:
boolean masks that hide nothing are passed all the same, rotations are complex products in float32, SiLU is
evaluated in float32, and the condition is projected anew at every step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.token_grid import unpack_grid
from gap3d_app.nn.grid_rope import rope_table


class ReferenceGrid:
    """A plain velocity function for `FlowSampler` with `batch_guidance`, on the weights of `dit`."""

    def __init__(self, dit: GridDiT) -> None:
        self.dit = dit
        side, config = dit.config.input_size, dit.config
        device = dit.model.cls_role.device
        # The released code makes the table when it builds the network.
        self.phase = torch.complex(*rope_table(side, side, config.head_dim, 1 + config.num_register_tokens, device))

    def __call__(self, state: tuple[Tensor, ...], t: Tensor, cond: Tensor) -> tuple[Tensor, ...]:
        """Velocities of the three parts; t [B], cond [B, L, D]; in the dtype of the state."""
        model, config = self.dit.model, self.dit.config
        dtype = model.cls_embed.weight.dtype
        patch, cls, reg = (part.to(dtype) for part in state)
        tokens = model.caption_projection(cond.to(dtype))
        token_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        embed = model.time_caption_embed
        vector = embed.time(t) + embed.pooled(tokens, token_mask)
        x = model.embed(patch, cls, reg)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for block in model.layers:
            x = self._block(block, x, mask, vector, tokens, token_mask)
        scale = model.norm_out.linear_1(F.silu(vector))
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale).unsqueeze(1)
        x = model.norm_out.linear_2(x)
        grid = unpack_grid(x, config.input_size, config.input_size, config.num_register_tokens)
        return tuple(part.to(state[0].dtype) for part in grid)

    def _block(
        self, block: nn.Module, x: Tensor, mask: Tensor, vector: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> Tensor:
        scale, gate, scale_ffn, gate_ffn = block.norm1.linear(F.silu(vector)).unsqueeze(1).chunk(4, dim=-1)
        source = _rms_norm(x, block.norm1.norm) * (1 + scale)
        within = self._attention(block.attn1, source, source, mask, turn_keys=True)
        context = _rms_norm(tokens, block.norm1_context)
        across = self._attention(block.attn2, source, context, token_mask, turn_keys=False)
        joint = within + across * block.gate.tanh().view(1, 1, -1, 1)
        out = block.attn2.to_out[0](joint.flatten(-2))
        x = x + gate.tanh() * _rms_norm(out, block.norm2)
        feed, y = block.feed_forward, _rms_norm(x, block.ffn_norm1) * (1 + scale_ffn)
        inner = F.silu(feed.linear_1(y).float()).to(y.dtype) * feed.linear_3(y)
        return x + gate_ffn.tanh() * _rms_norm(feed.linear_2(inner), block.ffn_norm2)

    def _attention(self, layer: nn.Module, x: Tensor, context: Tensor, mask: Tensor, turn_keys: bool) -> Tensor:
        """[B, N, H, D]."""
        heads = (layer.n_heads, layer.head_dim)
        query = layer.norm_q(layer.to_q(x)).unflatten(-1, heads)
        key = layer.norm_k(layer.to_k(context)).unflatten(-1, heads)
        value = layer.to_v(context).unflatten(-1, heads)
        query = self._turned(query)
        if turn_keys:
            key = self._turned(key)
        mask = mask.view(len(mask), 1, 1, -1).expand(-1, layer.n_heads, x.shape[1], -1)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return out.transpose(1, 2).to(query.dtype)

    def _turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.phase.unsqueeze(1)).flatten(-2).type_as(x)


def _rms_norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    variance = x.float().pow(2).mean(-1, keepdim=True)
    return (x * torch.rsqrt(variance + norm.eps)).to(norm.weight.dtype) * norm.weight
