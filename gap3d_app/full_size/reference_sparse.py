"""The flow of the structured latent as the released code runs it (trellis.md 4 and 5), on this package's weights.

Rows of a batch element get their modulation from a copy as large as the features; the boundaries of attention sets
are made on the host and sent to the device for every attention; conditions and times are projected anew and voxels
pooled anew at every step; spconv finds out which rows a convolution connects at every call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.full_size.reference_rows import Rows, convolution
from gap3d_app.full_size.reference_structure import layer_norm, rms_norm
from gap3d_app.models.slat_flow import SLatFlowModel, SparseResBlock3d
from gap3d_app.nn.attention import MultiHeadAttention, MultiHeadRMSNorm
from gap3d_app.nn.embeddings import position_embedding
from gap3d_app.nn.transformer import ModulatedCrossBlock
from gap3d_app.sparse.resample import SparseDownsample, SparseUpsample
from gap3d_app.sparse.tensor import SparseTensor


class ReferenceSLatFlow:
    """A plain velocity function for `FlowSampler`, on the weights of `flow`."""

    def __init__(self, flow: SLatFlowModel) -> None:
        self.flow = flow
        self.ways_in = [_ResBlock(block) for block in flow.input_blocks]
        self.ways_out = [_ResBlock(block) for block in flow.out_blocks]

    def __call__(self, x: SparseTensor, t: Tensor, cond: Tensor) -> SparseTensor:
        """See `SLatFlowModel.forward`."""
        flow, dtype = self.flow, self.flow.torso_dtype
        # A run's first container serves all its steps.
        asset = x.sites.cached("as released", lambda: Rows.placed(x.feats, x.coords)).replace(x.feats)
        h = _linear(flow.input_layer, asset).to(dtype)
        emb = flow.t_embedder(t)
        mod = (flow.adaLN_modulation(emb) if flow.config.share_mod else emb).to(dtype)
        emb, cond, skips = emb.to(dtype), cond.to(dtype), []
        for block in self.ways_in:
            h = block(h, emb)
            skips.append(h.feats)
        h = h + position_embedding(h.coords[:, 1:], flow.config.model_channels).to(dtype)
        for block in flow.blocks:
            h = _block(block, h, mod, cond)
        for block, skip in zip(self.ways_out, reversed(skips), strict=True):
            h = block(h.replace(torch.cat([h.feats, skip], dim=1)), emb)
        h = h.replace(F.layer_norm(h.feats, h.feats.shape[-1:]))
        return x.replace(_linear(flow.out_layer, h.to(x.dtype)).feats)


class _ResBlock:
    def __init__(self, block: SparseResBlock3d) -> None:
        self.block, self.first, self.second = block, convolution(block.conv1), convolution(block.conv2)

    def __call__(self, x: Rows, emb: Tensor) -> Rows:
        block = self.block
        scale, shift = block.emb_layers(emb).chunk(2, dim=1)
        if isinstance(block.resample, SparseDownsample):
            x = _pooled(x, block.resample.factor)
        elif isinstance(block.resample, SparseUpsample):
            x = _unpooled(x, block.resample.factor)
        h = x.replace(layer_norm(block.norm1, x.feats))
        h = self.first(h.replace(F.silu(h.feats)))
        h = h.replace(layer_norm(block.norm2, h.feats)) * (1 + scale) + shift
        h = self.second(h.replace(F.silu(h.feats)))
        return h + (_linear(block.skip_connection, x) if isinstance(block.skip_connection, nn.Linear) else x)


def _linear(layer: nn.Linear, x: Rows) -> Rows:
    return x.replace(layer(x.feats))


def _pooled(x: Rows, factor: int) -> Rows:
    """`SparseDownsample`; the parents are numbered by what the host learns of the extent."""
    batch, *axes = x.coords.unbind(-1)
    axes = [axis // factor for axis in axes]
    sizes = [axis.max().item() + 1 for axis in axes]
    strides = [sizes[0] * sizes[1] * sizes[2], sizes[1] * sizes[2], sizes[2], 1]
    code = sum(axis * stride for axis, stride in zip([batch, *axes], strides, strict=True))
    code, parent = code.unique(return_inverse=True)
    index = parent.unsqueeze(1).expand(-1, x.feats.shape[1])
    feats = torch.scatter_reduce(x.feats.new_zeros(len(code), x.feats.shape[1]), 0, index, x.feats, "mean")
    places = [code // stride for stride in strides]
    coords = torch.stack([places[0], *(p % size for p, size in zip(places[1:], sizes, strict=True))], dim=-1)
    small = Rows.placed(feats, coords, len(x.layout), None, x.scale * factor, x.cache)
    small.cache[small.scale, "from"] = x.coords, x.layout, parent
    return small


def _unpooled(x: Rows, factor: int) -> Rows:
    """`SparseUpsample`."""
    coords, layout, parent = x.cache[x.scale, "from"]
    return Rows.placed(x.feats[parent], coords, len(layout), layout, x.scale / factor, x.cache)


def _block(block: ModulatedCrossBlock, x: Rows, mod: Tensor, cond: Tensor) -> Rows:
    mod = mod if block.share_mod else block.adaLN_modulation(mod)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = mod.chunk(6, dim=1)
    h = x.replace(layer_norm(block.norm1, x.feats)) * (1 + scale) + shift
    x = x + _self_attention(block.self_attn, h) * gate
    x = x + _cross_attention(block.cross_attn, x.replace(layer_norm(block.norm2, x.feats)), cond)
    h = x.replace(layer_norm(block.norm3, x.feats)) * (1 + scale_mlp) + shift_mlp
    first, _, second = block.mlp.mlp
    h = _linear(first, h)
    h = _linear(second, h.replace(F.gelu(h.feats, approximate="tanh")))
    return x + h * gate_mlp


def _bounds(lengths: list[int], device: torch.device) -> Tensor:
    return torch.cat([torch.tensor([0]), torch.cumsum(torch.tensor(lengths), dim=0)]).int().to(device)


def _lengths(x: Rows) -> list[int]:
    return [rows.stop - rows.start for rows in x.layout]


def _self_attention(layer: MultiHeadAttention, x: Rows) -> Rows:
    from torch.nn.attention.varlen import varlen_attn

    qkv = _linear(layer.to_qkv, x)
    qkv = qkv.replace(qkv.feats.unflatten(-1, (3, layer.num_heads, -1)))
    if isinstance(layer.q_rms_norm, MultiHeadRMSNorm):
        q, k, v = (qkv.replace(part) for part in qkv.feats.unbind(1))
        q, k = _rms_norm(layer.q_rms_norm, q), _rms_norm(layer.k_rms_norm, k)
        qkv = qkv.replace(torch.stack([q.feats, k.feats, v.feats], dim=1))
    lengths = _lengths(x)
    bounds, longest = _bounds(lengths, x.coords.device), max(lengths)
    h = qkv.replace(varlen_attn(*qkv.feats.unbind(1), bounds, bounds, longest, longest))
    return _linear(layer.to_out, h.replace(h.feats.flatten(-2)))


def _cross_attention(layer: MultiHeadAttention, x: Rows, cond: Tensor) -> Rows:
    from torch.nn.attention.varlen import varlen_attn

    q = _linear(layer.to_q, x)
    q = q.replace(q.feats.unflatten(-1, (layer.num_heads, -1)))
    kv = layer.to_kv(cond).flatten(0, 1).unflatten(-1, (2, layer.num_heads, -1))
    if isinstance(layer.q_rms_norm, MultiHeadRMSNorm):
        k, v = kv.unbind(1)
        q, kv = _rms_norm(layer.q_rms_norm, q), torch.stack([rms_norm(layer.k_rms_norm, k), v], dim=1)
    lengths, device = _lengths(x), x.coords.device
    bounds, context = _bounds(lengths, device), _bounds([cond.shape[1]] * len(cond), device)
    h = q.replace(varlen_attn(q.feats, *kv.unbind(1), bounds, context, max(lengths), cond.shape[1]))
    return _linear(layer.to_out, h.replace(h.feats.flatten(-2)))


def _rms_norm(norm: MultiHeadRMSNorm, x: Rows) -> Rows:
    wide = x.to(torch.float32)
    return (wide.replace(F.normalize(wide.feats, dim=-1)) * norm.gamma * norm.scale).to(x.feats.dtype)
