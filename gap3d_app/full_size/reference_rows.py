"""Rows of features on voxels as the released code holds them (trellis.md 4.1), and its convolutions of them.

Every result, be it of an addition, gets a container of spconv's of its own; a modulation is copied to every row
first; new voxels wait for the device to learn their extent and how many rows a batch element has. Without spconv the
containers are plain ones, and as on the processor, where spconv's convolutions race, a convolution gathers, multiplies
and scatters tap by tap over pairs of rows that are found once per asset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.sparse.conv import SparseConv3d, neighbour_map
from gap3d_app.sparse.tensor import Sites

try:
    import spconv.pytorch as spconv
except ImportError:
    spconv = None

KEPT = ("benchmark", "benchmark_record", "thrust_allocator", "_timer", "force_algo", "int8_scale")
"""What a container hands on to the next one after it is made."""

CENTRE = 13
"""The tap that is the voxel itself."""


class PlainContainer:
    """Stands for spconv's `SparseConvTensor` where spconv is not installed."""

    benchmark = benchmark_record = thrust_allocator = _timer = force_algo = int8_scale = None

    def __init__(
        self, features: Tensor, indices: Tensor, spatial_shape: list, batch_size: int, grid: Any = None,
        voxel_num: Any = None, indice_dict: dict | None = None,
    ) -> None:  # fmt: skip
        self._features, self.indices = features, indices
        self.spatial_shape, self.batch_size = [int(size) for size in spatial_shape], batch_size
        self.grid, self.voxel_num, self.indice_dict = grid, voxel_num, indice_dict

    @property
    def features(self) -> Tensor:
        return self._features


class Rows:
    """Features [T, ...] on voxels.

    Attributes:
        data: the container.
        layout: rows of every batch element.
        scale: edge of a voxel in voxels of the asset.
        cache: what was found for the asset, by scale and name.
    """

    def __init__(self, data: Any, layout: list[slice], scale: float, cache: dict) -> None:
        self.data, self.layout, self.scale, self.cache = data, layout, scale, cache

    @classmethod
    def placed(
        cls, feats: Tensor, coords: Tensor, batch: int | None = None, layout: list[slice] | None = None,
        scale: float = 1, cache: dict | None = None,
    ) -> Rows:  # fmt: skip
        """Features on other voxels [T, 4] int32; batch size and layout are looked up unless they are known."""
        batch = coords[:, 0].max().item() + 1 if batch is None else batch
        if layout is None:
            counts = torch.bincount(coords[:, 0], minlength=batch)
            ends = counts.cumsum(0)
            layout = [slice((ends[i] - counts[i]).item(), ends[i].item()) for i in range(batch)]
        extent = list(coords.max(0)[0] + 1)[1:]
        container = PlainContainer if spconv is None else spconv.SparseConvTensor
        data = container(feats.reshape(len(feats), -1), coords, extent, batch)
        return cls(data, layout, scale, {} if cache is None else cache)

    @property
    def feats(self) -> Tensor:
        return self.data.features

    @property
    def coords(self) -> Tensor:
        """[T, 4] int32 (batch, x, y, z)."""
        return self.data.indices

    def replace(self, feats: Tensor) -> Rows:
        """Other features on the same voxels."""
        old = self.data
        flat = old.features.reshape(len(old.features), -1)  # a container takes two axes
        given = (old.indices, old.spatial_shape, old.batch_size, old.grid, old.voxel_num, old.indice_dict)
        data = type(old)(flat, *given)
        data._features = feats
        for name in KEPT:
            setattr(data, name, getattr(old, name))
        return Rows(data, self.layout, self.scale, self.cache)

    def to(self, dtype: torch.dtype) -> Rows:
        return self.replace(self.feats.to(dtype))

    def __mul__(self, other: Any) -> Rows:
        return self._joined(torch.mul, other)

    def __add__(self, other: Any) -> Rows:
        return self._joined(torch.add, other)

    def _joined(self, operation: Callable, other: Any) -> Rows:
        """With other rows, a number, values [T, ...] of every row, or [B or 1, ...] of every batch element."""
        if isinstance(other, Tensor):
            other = self._spread(other)
        return self.replace(operation(self.feats, other.feats if isinstance(other, Rows) else other))

    def _spread(self, values: Tensor) -> Tensor:
        try:
            values = torch.broadcast_to(values, (len(self.layout), *self.feats.shape[1:]))
        except RuntimeError:
            return values  # of every row
        wide = torch.zeros_like(self.feats)
        for batch, rows in enumerate(self.layout):
            wide[rows] = values[batch]
        return wide

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """What was found for this asset at this scale."""
        if (self.scale, name) not in self.cache:
            self.cache[self.scale, name] = make()
        return self.cache[self.scale, name]


def convolution(layer: SparseConv3d, key: str | None = None) -> Callable[[Rows], Rows]:
    """A convolution on the weights of `layer`; spconv keeps its rulebook under `key`, or makes it at every call."""
    if spconv is None or not layer.conv.weight.is_cuda:
        return lambda x: _tap_by_tap(layer, x)
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
    made = spconv.SubMConv3d(*sizes, indice_key=key, algo=spconv.ConvAlgo.Native).eval()
    made.weight, made.bias = layer.conv.weight, layer.conv.bias
    return lambda x: Rows(made(x.data), x.layout, x.scale, x.cache)


def _tap_by_tap(layer: SparseConv3d, x: Rows) -> Rows:
    if layer.kernel_size == 1:
        return x.replace(F.linear(x.feats, layer.matrix, layer.conv.bias))
    taps = layer.conv.weight.flatten(1, 3)
    out = x.feats @ taps[:, CENTRE].t()
    for tap, (source, target) in enumerate(x.remembered("pairs", lambda: _pairs(x))):
        if tap != CENTRE and len(source):
            product = x.feats.index_select(0, source) @ taps[:, tap].t()
            out.index_copy_(0, target, out.index_select(0, target) + product)
    return x.replace(out + layer.conv.bias)


def _pairs(x: Rows) -> list[tuple[Tensor, Tensor]]:
    """For each of the 27 taps the rows (in, out) that it connects."""
    sites = Sites(x.coords, [rows.stop - rows.start for rows in x.layout])
    taps = neighbour_map(sites).unbind(1)
    there = [(tap < len(sites)).nonzero()[:, 0] for tap in taps]
    return [(tap[out].long(), out) for tap, out in zip(taps, there, strict=True)]
