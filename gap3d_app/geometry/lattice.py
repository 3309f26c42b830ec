"""Active cubes on a lattice: indices inside their bounding box and averaged corner attributes (trellis.md 6.5).

Attributes exist for active cubes and asked-for lattice vertices only; what covers the whole box is one index
per cell.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gap3d_app.geometry.cube_indices import OFFSETS, tables_on
from gap3d_app.kernels import kernel_module

SDF, DEFORM, WEIGHTS, COLOR = slice(0, 8), slice(8, 32), slice(32, 53), slice(53, 101)
"""Channels of a cube: sdf 8, deform 8 x 3, weights 12 + 8 + 1, colour 8 x 6."""


Bounds = tuple[list[int], list[int]]


class Box:
    """The part of the lattice that an object touches, with flat indices in row-major order.

    Cells (cubes) and lattice vertices share one index space of shape `size`. The last cell layer of each axis is
    unused, so a step over the low side of the box wraps into an unused cell, never into another one; from the
    start of the index space it wraps to its end, which is what negative indices of a tensor mean. Order of flat
    indices inside the box equals their order in the whole grid.

    Args:
        coords: [N, 3] int64 cells that must lie inside with one layer around them.
        resolution: cells per axis of the grid; it bounds the box unless `beyond`.
        bounds: smallest and largest coordinates of the cells, or beyond them; found if not given, which waits for
            the device.

    Raises:
        ValueError: cells outside the grid.
    """

    def __init__(self, coords: Tensor, resolution: int, beyond: bool, bounds: Bounds | None = None):
        low, high = torch.stack(coords.aminmax(dim=0)).tolist() if bounds is None else bounds
        if min(low) < 0 or max(high) >= resolution:
            raise ValueError(f"cube coordinates must be in 0..{resolution - 1}")
        low, high = [n - 1 for n in low], [n + 1 for n in high]
        if not beyond:
            low, high = [max(n, 0) for n in low], [min(n, resolution - 1) for n in high]
        self.low = low
        self.size = [b - a + 2 for a, b in zip(low, high, strict=True)]
        self.strides = [self.size[1] * self.size[2], self.size[2], 1]
        self.count = self.size[0] * self.strides[0]

    def steps(self, offsets: Tensor) -> Tensor:
        """Flat steps [...] of offsets [..., 3]."""
        x, y, z = offsets.unbind(-1)
        return z.add(y, alpha=self.strides[1]).add(x, alpha=self.strides[0])

    def table_steps(self, device: torch.device) -> dict[str, Tensor]:
        """Flat steps of the case tables' `OFFSETS`, made on the host: to send them takes one launch, not twelve."""
        tables = tables_on(torch.device("cpu"))
        steps = [self.steps(tables[name]) for name in OFFSETS]
        sent = torch.cat([step.flatten() for step in steps]).to(device)
        parts = sent.split([step.numel() for step in steps])
        return {name: part.view_as(step) for name, part, step in zip(OFFSETS, parts, steps, strict=True)}

    def flat(self, coords: Tensor) -> Tensor:
        """Flat index [N] of grid coordinates [N, 3]."""
        return self.steps(coords) - sum(n * stride for n, stride in zip(self.low, self.strides, strict=True))

    def unflat(self, index: Tensor) -> Tensor:
        """Grid coordinates [N, 3] of flat indices [N]."""
        x = torch.div(index, self.strides[0], rounding_mode="floor")
        rest = index.sub(x, alpha=self.strides[0])
        y = torch.div(rest, self.strides[1], rounding_mode="floor")
        place = (x, y, rest.sub(y, alpha=self.strides[1]))
        return torch.stack([n + low for n, low in zip(place, self.low, strict=True)], dim=-1)

    def mark(self, index: Tensor) -> Tensor:
        """[count] bool, True at the given flat indices."""
        mark = torch.zeros(self.count, dtype=torch.bool, device=index.device)
        mark[index.reshape(-1)] = True
        return mark

    def ranks(self, index: Tensor) -> Tensor:
        """[count] int32, position of each flat index in the list `index`, -1 elsewhere."""
        rank = torch.full((self.count,), -1, dtype=torch.int32, device=index.device)
        rank[index] = torch.arange(len(index), dtype=torch.int32, device=index.device)
        return rank


class ActiveCubes:
    """Features of the active cubes and the means of their corner attributes.

    Attributes:
        box: index space around the cubes.
        cells: [N] flat index of every cube, in the order of `feats`.
        steps: flat steps, see `Box.table_steps`.
        offsets: [8] those from a cell to its corners.
        rank: [count] int32 row of every cube, -1 for inactive cells.
        kernels: `gap3d_app.geometry.triton_cubes` where it applies, else None.
    """

    def __init__(
        self, coords: Tensor, feats: Tensor, resolution: int, beyond: bool = False, bounds: Bounds | None = None
    ):
        self.feats, self.resolution = feats, resolution
        self.box = Box(coords, resolution, beyond, bounds)
        self.steps = self.box.table_steps(coords.device)
        self.offsets = self.steps["corners"]
        self.cells = self.box.flat(coords)
        self.rank = self.box.ranks(self.cells)
        kernels = kernel_module("gap3d_app.geometry.triton_cubes")
        self.kernels = kernels if kernels and kernels.applies(feats, self.box.count) else None

    @property
    def corners(self) -> Tensor:
        """[N, 8] flat index of every cube's corners."""
        return self.cells[:, None] + self.offsets

    @cached_property
    def touched_grid(self) -> Tensor:
        """[X, Y, Z] bool over the box, True for the lattice vertices that belong to a cube."""
        grid = (self.rank >= 0).view(self.box.size)
        for axis, size in enumerate(self.box.size):  # the cell of the same index and the one before it
            before = grid.narrow(axis, 0, size - 1)
            grid = grid.clone()
            grid.narrow(axis, 1, size - 1).logical_or_(before)
        return grid

    @cached_property
    def touched(self) -> Tensor:
        """[T] flat indices of the vertices of `touched_grid`, ascending."""
        return self.touched_grid.flatten().nonzero()[:, 0]

    def columns(self, corner: int) -> list[slice]:
        """Channels of (sdf, deform, colour) of one corner, the last only for 101 channels."""
        parts = [slice(corner, corner + 1)]
        parts.append(slice(DEFORM.start + 3 * corner, DEFORM.start + 3 * corner + 3))
        if self.feats.shape[1] == COLOR.stop:
            parts.append(slice(COLOR.start + 6 * corner, COLOR.start + 6 * corner + 6))
        return parts

    def corner_values(self) -> Tensor:
        """[N, 8, 4 or 10] raw (sdf with bias, deform, colour) of every cube's corners."""
        rows = [torch.cat([self.feats[:, part] for part in self.columns(j)], dim=1) for j in range(8)]
        values = torch.stack(rows, dim=1)
        return torch.cat([values[..., :1] - 1.0 / self.resolution, values[..., 1:]], dim=-1)

    def inside(self, sdf: Tensor | None = None) -> Tensor:
        """[count] bool, True for touched lattice vertices with a negative sdf.

        Args:
            sdf: [T] of the touched vertices, if known.
        """
        if sdf is None and self.kernels:  # faster than to list the touched vertices
            return self._mean_by_kernel(None, 1)[:, 0] < 0
        inside = torch.zeros(self.box.count, dtype=torch.bool, device=self.feats.device)
        sdf = self.mean(self.touched, sdf_only=True)[:, 0] if sdf is None else sdf
        inside[self.touched] = sdf.detach() < 0
        return inside

    def mean(self, vertices: Tensor, sdf_only: bool = False) -> Tensor:
        """Mean over the active cubes around lattice vertices.

        Args:
            vertices: [P] flat indices.
            sdf_only: leave out deform and colour.

        Returns:
            [P, 1 or 4 or 10] raw (sdf with bias, deform, colour); sdf 1 and zeros for untouched vertices.
        """
        if self.kernels:
            return self._mean_by_kernel(vertices, 1 if sdf_only else 10 if self.feats.shape[1] == COLOR.stop else 4)
        total, count = 0.0, 0.0
        # One cube direction after the other: every vertex adds its cubes in the same order on every run. Absent
        # cubes add zero: to list the present ones would make the host wait for the device eight times.
        for j in range(8):
            row = self.rank[vertices - self.offsets[j]]
            there, row = (row >= 0)[:, None], row.clamp(min=0)
            parts = self.columns(j)[:1] if sdf_only else self.columns(j)
            values = torch.cat([self.feats[:, part].index_select(0, row) for part in parts], dim=1)
            total = total + torch.where(there, values, 0.0)
            count = count + there.to(values.dtype)
        mean = total / count.clamp(min=1)
        sdf = torch.where(count > 0, mean[:, :1] - 1.0 / self.resolution, 1.0)
        return torch.cat([sdf, mean[:, 1:]], dim=1)

    def _mean_by_kernel(self, vertices: Tensor | None, width: int) -> Tensor:
        return self.kernels.mean(vertices, self.rank, self.feats, self.box.strides, 1.0 / self.resolution, width)

    def positions(self, vertices: Tensor, deform: Tensor) -> Tensor:
        """[P, 3] object-space positions of lattice vertices moved by raw deform [P, 3]."""
        half_cell = (1 - 1e-8) / (2 * self.resolution)
        rest = self.box.unflat(vertices).to(deform.dtype) / self.resolution - 0.5
        return rest + half_cell * torch.tanh(deform)

    def weights(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Activated (beta 12, alpha 8) [S, 20] and gamma [S] of cells; inactive ones have those of a raw zero."""
        row = self.rank[cells]
        raw = torch.where((row >= 0)[:, None], self.feats[:, WEIGHTS].index_select(0, row.clamp(min=0)), 0.0)
        return 0.99 * torch.tanh(raw[:, :20]) + 1, 0.99 * torch.sigmoid(raw[:, 20]) + 0.005
