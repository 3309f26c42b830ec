"""The sparse networks as the released code runs them (trellis.md 4 to 6), on the weights of this package's classes.

Rows of a batch element get their modulation from a copy as large as the features; the boundaries of attention sets
are made on the host and sent to the device for every attention; conditions and times are projected anew at every
step; a convolution gathers, multiplies and scatters tap by tap over pairs of rows that are found once per asset.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.models.decoders import SLatMeshDecoder, SparseSubdivideBlock3d
from gap3d_app.models.slat_flow import SLatFlowModel, SparseResBlock3d
from gap3d_app.nn.attention import MultiHeadAttention
from gap3d_app.nn.embeddings import position_embedding
from gap3d_app.nn.transformer import ModulatedCrossBlock
from gap3d_app.sparse.conv import SparseConv3d, neighbour_map
from gap3d_app.sparse.resample import SparseSubdivide
from gap3d_app.sparse.tensor import Sites, SparseTensor


class ReferenceSLatFlow:
    """A plain velocity function for `FlowSampler`, on the weights of `flow`."""

    def __init__(self, flow: SLatFlowModel) -> None:
        self.flow = flow

    def __call__(self, x: SparseTensor, t: Tensor, cond: Tensor) -> SparseTensor:
        """See `SLatFlowModel.forward`."""
        flow, dtype = self.flow, self.flow.torso_dtype
        h = x.replace(flow.input_layer(x.feats).to(dtype))
        emb, cond = flow.t_embedder(t).to(dtype), cond.to(dtype)
        skips = []
        for block in flow.input_blocks:
            h = _res_block(block, h, emb)
            skips.append(h.feats)
        table = position_embedding(h.coords[:, 1:], flow.config.model_channels)
        h = h.replace(h.feats + table.to(dtype))
        for block in flow.blocks:
            h = _cross_block(block, h, emb, cond)
        for block, skip in zip(flow.out_blocks, reversed(skips), strict=True):
            h = _res_block(block, h.replace(torch.cat([h.feats, skip], dim=1)), emb)
        feats = F.layer_norm(h.feats, h.feats.shape[-1:]).to(x.dtype)
        return h.replace(flow.out_layer(feats))


def _res_block(block: SparseResBlock3d, x: SparseTensor, emb: Tensor) -> SparseTensor:
    scale, shift = block.emb_layers(emb).chunk(2, dim=-1)
    x = block.resample(x)
    h = x.replace(F.silu(block.norm1(x.feats)))
    h = convolution(block.conv1, h)
    h = h.replace(block.norm2(h.feats))
    h = _plus(_times(h, 1 + scale), shift)
    h = convolution(block.conv2, h.replace(F.silu(h.feats)))
    return h.replace(h.feats + block.skip_connection(x.feats))


def _cross_block(block: ModulatedCrossBlock, x: SparseTensor, emb: Tensor, cond: Tensor) -> SparseTensor:
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = block.adaLN_modulation(emb).chunk(6, dim=-1)
    h = _plus(_times(x.replace(block.norm1(x.feats)), 1 + scale), shift)
    h = _times(_self_attention(block.self_attn, h), gate)
    x = x.replace(x.feats + h.feats)
    h = _cross_attention(block.cross_attn, x.replace(block.norm2(x.feats)), cond)
    x = x.replace(x.feats + h.feats)
    h = _plus(_times(x.replace(block.norm3(x.feats)), 1 + scale_mlp), shift_mlp)
    first, activation, second = block.mlp.mlp
    h = x.replace(second(activation(first(h.feats))))
    return x.replace(x.feats + _times(h, gate_mlp).feats)


def _spread(x: SparseTensor, values: Tensor) -> Tensor:
    """[B, C] as a full copy [T, C]."""
    wide = torch.zeros_like(x.feats)
    for batch, rows in enumerate(x.layout):
        wide[rows] = values[batch]
    return wide


def _times(x: SparseTensor, values: Tensor) -> SparseTensor:
    return x.replace(x.feats * _spread(x, values))


def _plus(x: SparseTensor, values: Tensor) -> SparseTensor:
    return x.replace(x.feats + _spread(x, values))


def _bounds(lengths: list[int], device: torch.device) -> Tensor:
    return torch.cat([torch.tensor([0]), torch.cumsum(torch.tensor(lengths), dim=0)]).int().to(device)


def _self_attention(layer: MultiHeadAttention, x: SparseTensor) -> SparseTensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = layer.to_qkv(x.feats).unflatten(-1, (3, layer.num_heads, -1)).unbind(1)
    q, k = layer.q_rms_norm(q), layer.k_rms_norm(k)
    bounds, longest = _bounds(x.sites.lengths, x.device), max(x.sites.lengths)
    return x.replace(layer.to_out(varlen_attn(q, k, v, bounds, bounds, longest, longest).flatten(-2)))


def _cross_attention(layer: MultiHeadAttention, x: SparseTensor, cond: Tensor) -> SparseTensor:
    from torch.nn.attention.varlen import varlen_attn

    q = layer.to_q(x.feats).unflatten(-1, (layer.num_heads, -1))
    k, v = layer.to_kv(cond.flatten(0, 1)).unflatten(-1, (2, layer.num_heads, -1)).unbind(1)
    bounds = _bounds(x.sites.lengths, x.device)
    context = _bounds([cond.shape[1]] * len(cond), x.device)
    out = varlen_attn(q, k, v, bounds, context, max(x.sites.lengths), cond.shape[1])
    return x.replace(layer.to_out(out.flatten(-2)))


def pairs(sites: Sites) -> list[tuple[Tensor, Tensor]]:
    """For each of the 27 taps the rows (in, out) that it connects, found once per asset."""

    def make() -> list[tuple[Tensor, Tensor]]:
        there = [(tap < len(sites)).nonzero()[:, 0] for tap in neighbour_map(sites).unbind(1)]
        return [(tap[out].long(), out) for tap, out in zip(neighbour_map(sites).unbind(1), there, strict=True)]

    return sites.cached("pairs of rows", make)


def convolution(layer: SparseConv3d, x: SparseTensor) -> SparseTensor:
    """Gather, multiply, scatter for one tap after the other."""
    if layer.kernel_size == 1:
        return layer(x)
    weight = layer.conv.weight.flatten(1, 3)
    out = x.feats @ weight[:, 13].t()  # the voxel itself
    for tap, (source, target) in enumerate(pairs(x.sites)):
        if tap != 13 and len(source):
            product = x.feats.index_select(0, source) @ weight[:, tap].t()
            out.index_copy_(0, target, out.index_select(0, target) + product)
    return x.replace(out + layer.conv.bias)


def reference_mesh_cells(decoder: SLatMeshDecoder, x: SparseTensor) -> SparseTensor:
    """See `SLatMeshDecoder.forward`: features are copied to the children before they are convolved."""
    h = decoder.trunk(x)
    for block in decoder.upsample:
        h = _subdivide_block(block, h)
    return h.replace(decoder.out_layer(h.feats.to(x.dtype)))


def _subdivide_block(block: SparseSubdivideBlock3d, x: SparseTensor) -> SparseTensor:
    divide = SparseSubdivide()
    h, skip = divide(block.act_layers(x)), divide(x)
    first, norm, activation, second = block.out_layers
    h = convolution(second, activation(norm(convolution(first, h))))
    skip = block.skip_connection(skip) if isinstance(block.skip_connection, SparseConv3d) else skip
    return h.replace(h.feats + skip.feats)


def dense_tables(coords: Tensor, feats: Tensor, resolution: int) -> dict[str, Tensor]:
    """What the released extraction keeps for the whole lattice (trellis.md 6.5), of cells [N, 3], features [N, 101].

    Returns:
        values: [(R+1)^3, 10] mean raw attributes; positions: [(R+1)^3, 3]; weights: [R^3, 21]; inside: [R^3] number
        of corners inside.
    """
    side, device = resolution + 1, coords.device
    axis = torch.arange(2, device=device)
    corners = torch.cartesian_prod(axis, axis, axis).flip(1)  # x fastest
    strides = torch.tensor([side * side, side, 1], device=device)
    index = ((coords.long()[:, None] + corners) * strides).sum(-1)
    parts = [feats[:, :8, None], feats[:, 8:32].unflatten(1, (8, 3)), feats[:, 53:].unflatten(1, (8, 6))]
    raw = torch.cat(parts, dim=-1).flatten(0, 1)
    values = raw.new_zeros(side**3, 10).index_add_(0, index.flatten(), raw)
    count = raw.new_zeros(side**3, 1).index_add_(0, index.flatten(), torch.ones_like(raw[:, :1]))
    values = torch.where(count > 0, values / count.clamp(min=1), values)
    values[:, 0] = torch.where(count[:, 0] > 0, values[:, 0] - 1 / resolution, 1.0)
    grid = torch.arange(side, device=device)
    lattice = torch.cartesian_prod(grid, grid, grid)
    positions = lattice / resolution - 0.5 + torch.tanh(values[:, 1:4]) * (0.5 / resolution)
    cells = torch.cartesian_prod(*[torch.arange(resolution, device=device)] * 3)
    of_cells = ((cells[:, None] + corners) * strides).sum(-1)
    inside = (values[:, 0][of_cells] < 0).sum(1)
    weights = feats.new_zeros(resolution**3, 21)
    weights[(coords.long() * torch.tensor([resolution**2, resolution, 1], device=device)).sum(-1)] = feats[:, 32:53]
    return {"values": values, "positions": positions, "weights": weights, "inside": inside}
