"""Sparse voxel tensors: features on a set of sites, and whatever has been derived from those sites.

`Sites` is the geometry (coordinates, batch lengths and a cache of neighbour maps, windows, pooled sites ...);
a `SparseTensor` is features on it. Tensors derived from each other by `replace` share their sites, so all
layers of a network and all steps of a sampler build each map once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from gap3d_app.nn.attention import Segments
from gap3d_app.nn.embeddings import site_embedding


def row_major(coords: Tensor, sizes: Sequence[int]) -> Tensor:
    """Numbers [T] of rows (batch, x, y, z) on a grid of `sizes` (x, y, z), z fastest, in the dtype of `coords`."""
    batch, x, y, z = coords.unbind(1)
    plane, line = sizes[1] * sizes[2], sizes[2]
    return z.add(y, alpha=line).add(x, alpha=plane).add(batch, alpha=sizes[0] * plane)


class Sites:
    """Voxel coordinates of a batch (trellis.md section 4.1).

    Args:
        coords: [T, 4] int32 rows (batch, x, y, z); the rows of a batch element are contiguous and batches
            ascend; the order inside a batch element is free and is kept by every operation.
        lengths: rows of every batch element; counted when not given (one device synchronisation).
        batch_size: number of batch elements when the last ones have no rows.
    """

    def __init__(
        self, coords: Tensor, lengths: list[int] | None = None, batch_size: int | None = None
    ) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4:
            raise ValueError(f"coords must be [T, 4] (batch, x, y, z), not {list(coords.shape)}")
        self.coords = coords.to(torch.int32).contiguous()
        self.cache: dict[Hashable, Any] = {}
        self.lengths = self._counted(batch_size or 1) if lengths is None else lengths

    def __len__(self) -> int:
        return self.coords.shape[0]

    def _counted(self, batch_size: int) -> list[int]:
        """Rows of every batch element; the device answers once for a single one and for the bounds, wanted next."""
        low, high = self._extremes()
        self.cache["bounds"] = low[1:], high[1:]
        if batch_size == 1 and low[0] == high[0] == 0:
            return [len(self)]
        return torch.bincount(self.coords[:, 0].long(), minlength=batch_size).tolist()

    def _extremes(self) -> tuple[list[int], list[int]]:
        """Smallest and largest batch, x, y and z."""
        return tuple(torch.stack(self.coords.aminmax(dim=0)).tolist()) if len(self) else ([0] * 4, [0] * 4)

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    def cached(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value stored under `key`, made on first use."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def forget(self) -> None:
        """Drop what has been derived, but for six numbers; it is made again when it is needed."""
        self.cache = {key: value for key, value in self.cache.items() if key == "bounds"}

    @property
    def bounds(self) -> tuple[list[int], list[int]]:
        """Smallest and largest coordinates, per axis (waits for the device the first time)."""
        return self.cached("bounds", lambda: tuple(end[1:] for end in self._extremes()))

    @property
    def extent(self) -> tuple[int, int, int]:
        """Largest coordinate plus one, per axis."""
        return tuple(v + 1 for v in self.bounds[1])

    @property
    def segments(self) -> Segments:
        """Batch elements as attention sets."""
        return self.cached("batch", lambda: Segments.consecutive(self.lengths, self.coords.device))

    def windows(self, size: int, shift: int) -> Segments:
        """Attention sets of rows with equal `(coord + shift) // size` on every axis (trellis.md 4.7)."""
        return self.cached(("windows", size, shift), lambda: self._windows(size, shift))

    def _windows(self, size: int, shift: int) -> Segments:
        counts = [(v - 1 + shift) // size + 1 for v in self.extent]
        cell = self.coords.clone()
        cell[:, 1:].add_(shift).floor_divide_(size)
        if self.batch_size * math.prod(counts) >= 1 << 31:
            cell = cell.long()  # smaller numbers are sorted in half the passes
        return Segments.grouped(row_major(cell, counts))

    def position_embedding(self, channels: int) -> Tensor:
        """[T, channels] float32 sinusoids of the raw coordinates."""
        return self.cached(
            ("position", channels), lambda: site_embedding(self.coords[:, 1:], channels, max(self.extent))
        )

    def repeated(self, times: int) -> Sites:
        """The whole batch `times` over, as one batch of `times * batch_size` elements."""

        def make() -> Sites:
            offset = torch.arange(times, dtype=torch.int32, device=self.coords.device)
            coords = self.coords.repeat(times, 1)
            coords[:, 0] += offset.repeat_interleave(len(self)) * self.batch_size
            return Sites(coords, self.lengths * times)

        return self.cached(("repeated", times), make)


class SparseTensor:
    """Features on voxel sites.

    Args:
        feats: [T, ...] features.
        coords: [T, 4] int32 (batch, x, y, z), see `Sites`; not used when `sites` is given.
        sites: geometry to share.
        batch_size: number of batch elements when the last ones have no rows.
    """

    def __init__(
        self,
        feats: Tensor,
        coords: Tensor | None = None,
        sites: Sites | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.feats = feats
        self.sites = sites if sites is not None else Sites(coords, batch_size=batch_size)
        if feats.shape[0] != len(self.sites):
            raise ValueError(f"{feats.shape[0]} feature rows do not fit {len(self.sites)} voxels")

    @property
    def coords(self) -> Tensor:
        """[T, 4] int32 (batch, x, y, z)."""
        return self.sites.coords

    @property
    def batch_size(self) -> int:
        return self.sites.batch_size

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch size, feature sizes...)."""
        return (self.batch_size, *self.feats.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        return self.feats.dtype

    @property
    def layout(self) -> list[slice]:
        """Rows of every batch element."""
        ends = [0]
        for length in self.sites.lengths:
            ends.append(ends[-1] + length)
        return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def __len__(self) -> int:
        return self.feats.shape[0]

    def __getitem__(self, index: int) -> SparseTensor:
        """One batch element, as a batch of one."""
        rows = self.layout[index]
        coords = self.coords[rows].clone()
        coords[:, 0] = 0
        return SparseTensor(self.feats[rows], sites=Sites(coords, [len(coords)]))

    def replace(self, feats: Tensor) -> SparseTensor:
        """Other features on the same sites."""
        return SparseTensor(feats, sites=self.sites)

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """Features on another device or in another dtype; the maps are kept if the device stays."""
        feats = self.feats.to(*args, **kwargs)
        if feats.device == self.coords.device:
            return self.replace(feats)
        return SparseTensor(feats, sites=Sites(self.coords.to(feats.device), list(self.sites.lengths)))

    def repeated(self, times: int) -> SparseTensor:
        """The whole batch `times` over."""
        feats = self.feats.repeat(times, *[1] * (self.feats.ndim - 1))
        return SparseTensor(feats, sites=self.sites.repeated(times))

    @staticmethod
    def batched(items: list[SparseTensor]) -> SparseTensor:
        """One batch out of several, in the given order."""
        coords, lengths = [], []
        for item in items:
            moved = item.coords.clone()
            moved[:, 0] += len(lengths)
            coords.append(moved)
            lengths += item.sites.lengths
        feats = torch.cat([item.feats for item in items])
        return SparseTensor(feats, sites=Sites(torch.cat(coords), lengths))
