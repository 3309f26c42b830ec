"""The structure flow as the released code runs it (trellis.md 2): every operation by itself, nothing kept.

Norms widen their input and narrow the result in passes of their own; modulations, keys and values of the condition are
made at every step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.models.structure_flow import SparseStructureFlowModel, patchify, unpatchify
from gap3d_app.nn.attention import MultiHeadAttention, MultiHeadRMSNorm, attention
from gap3d_app.nn.transformer import ModulatedCrossBlock


class ReferenceStructureFlow:
    """A plain velocity function for `FlowSampler`, on the weights of `flow`."""

    def __init__(self, flow: SparseStructureFlowModel) -> None:
        self.flow = flow

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """See `SparseStructureFlowModel.forward`."""
        flow, config = self.flow, self.flow.config
        h = flow.input_layer(patchify(x, config.patch_size).contiguous())
        h = (h + flow.pos_emb).to(flow.torso_dtype)
        mod = flow.t_embedder(t)
        mod = (flow.adaLN_modulation(mod) if config.share_mod else mod).to(flow.torso_dtype)
        cond = cond.to(flow.torso_dtype)
        for block in flow.blocks:
            h = _block(block, h, mod, cond)
        h = F.layer_norm(h.to(x.dtype), h.shape[-1:])
        return unpatchify(flow.out_layer(h), config.patch_size, config.resolution // config.patch_size)


def _block(block: ModulatedCrossBlock, x: Tensor, mod: Tensor, cond: Tensor) -> Tensor:
    mod = mod if block.share_mod else block.adaLN_modulation(mod)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (part.unsqueeze(1) for part in mod.chunk(6, dim=1))
    h = layer_norm(block.norm1, x) * (1 + scale) + shift
    x = x + _attend(block.self_attn, h, h) * gate
    x = x + _attend(block.cross_attn, layer_norm(block.norm2, x), cond)
    first, _, second = block.mlp.mlp
    h = layer_norm(block.norm3, x) * (1 + scale_mlp) + shift_mlp
    return x + second(F.gelu(first(h), approximate="tanh")) * gate_mlp


def _attend(layer: MultiHeadAttention, x: Tensor, context: Tensor) -> Tensor:
    if layer.cross:
        q = layer.to_q(x).unflatten(-1, (layer.num_heads, -1))
        k, v = layer.to_kv(context).unflatten(-1, (2, layer.num_heads, -1)).unbind(2)
    else:
        q, k, v = layer.to_qkv(x).unflatten(-1, (3, layer.num_heads, -1)).unbind(2)
    q, k = rms_norm(layer.q_rms_norm, q), rms_norm(layer.k_rms_norm, k)
    return layer.to_out(attention(q, k, v, None, "flash" if x.is_cuda else "torch").flatten(-2))


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Of wide values, narrowed again, in three passes."""
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)


def rms_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """`MultiHeadRMSNorm` of [..., H, D], gain and scale one after the other; anything else as it is."""
    if not isinstance(norm, MultiHeadRMSNorm):
        return x
    return (F.normalize(x.float(), dim=-1) * norm.gamma * norm.scale).to(x.dtype)
