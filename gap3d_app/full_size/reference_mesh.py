"""The mesh decoder as the released code runs it behind its transformer (trellis.md 6.4 and 6.5).

Features are copied to the children before they are convolved; group norms widen and turn them, one batch element
after the other; the extraction keeps tables of the whole lattice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.full_size.reference_rows import Rows, convolution
from gap3d_app.models.decoders import SLatMeshDecoder
from gap3d_app.sparse.norms import SparseGroupNorm32
from gap3d_app.sparse.tensor import SparseTensor


class ReferenceMeshCells:
    """`SLatMeshDecoder.forward` on the weights of `decoder`."""

    def __init__(self, decoder: SLatMeshDecoder) -> None:
        self.decoder = decoder
        self.blocks = [_SubdivideBlock(block, f"level {level}") for level, block in enumerate(decoder.upsample)]

    def __call__(self, x: SparseTensor) -> Rows:
        """Surface channels [64 T, 101]."""
        h = self.decoder.trunk(x)
        h = Rows.placed(h.feats, h.coords)
        for block in self.blocks:
            h = block(h)
        return h.replace(self.decoder.out_layer(h.feats.to(x.dtype)))


class _SubdivideBlock:
    def __init__(self, block: nn.Module, key: str) -> None:
        self.norm, (first, self.second_norm, _, second) = block.act_layers[0], block.out_layers
        self.first, self.second = convolution(first, key), convolution(second, key)
        same = isinstance(block.skip_connection, nn.Identity)
        self.skip = (lambda x: x) if same else convolution(block.skip_connection, key)

    def __call__(self, x: Rows) -> Rows:
        h = _subdivided(_silu(_group_norm(self.norm, x)))
        x = _subdivided(x)
        h = self.second(_silu(_group_norm(self.second_norm, self.first(h))))
        return h + self.skip(x)


def _silu(x: Rows) -> Rows:
    return x.replace(F.silu(x.feats))


def _group_norm(norm: SparseGroupNorm32, x: Rows) -> Rows:
    wide = x.to(torch.float32)
    out = torch.zeros_like(wide.feats)
    for rows in x.layout:
        volume = wide.feats[rows].t()[None]
        volume = F.group_norm(volume.contiguous(), norm.num_groups, norm.weight, norm.bias, norm.eps)
        out[rows] = volume[0].t()
    return wide.replace(out).to(x.feats.dtype)


def _subdivided(x: Rows) -> Rows:
    """Eight children for every voxel, with copies of its features."""
    child = torch.nonzero(torch.ones(2, 2, 2, device=x.coords.device))
    coords = x.coords.clone()
    coords[:, 1:] *= 2
    coords = coords[:, None] + F.pad(child, (1, 0)).to(coords.dtype)
    feats = x.feats[:, None].expand(-1, len(child), -1)
    return Rows.placed(feats.flatten(0, 1), coords.flatten(0, 1), len(x.layout), None, x.scale / 2, x.cache)


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
