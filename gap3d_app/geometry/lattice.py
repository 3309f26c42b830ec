"""Active cubes on a lattice: indices inside their bounding box and averaged corner attributes (trellis.md 6.5).

Attributes exist for active cubes and asked-for lattice vertices only; what covers the whole box is one index
per cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gap3d_app.geometry.cube_tables import CORNERS

SDF, DEFORM, WEIGHTS, COLOR = slice(0, 8), slice(8, 32), slice(32, 53), slice(53, 101)
"""Channels of a cube: sdf 8, deform 8 x 3, weights 12 + 8 + 1, colour 8 x 6."""


class Box:
    """The part of the lattice that an object touches, with flat indices in row-major order.

    Cells (cubes) and lattice vertices share one index space of shape `size`. The last cell layer of each
    axis is unused, so a step over the low side of the box wraps into an unused cell, never into another one.
    Order of flat indices inside the box equals their order in the whole grid.

    Args:
        coords: [N, 3] int64 cells that must lie inside with one layer around them.
        resolution: cells per axis of the grid; it bounds the box unless `beyond`.
    """

    def __init__(self, coords: Tensor, resolution: int, beyond: bool):
        low, high = coords.amin(0) - 1, coords.amax(0) + 1
        if not beyond:
            low, high = low.clamp(min=0), high.clamp(max=resolution - 1)
        self.low = low
        self.size = [int(n) for n in (high - low + 2).tolist()]
        self.strides = [self.size[1] * self.size[2], self.size[2], 1]
        self.count = self.size[0] * self.size[1] * self.size[2]
        self.steps = torch.tensor(self.strides, device=coords.device)

    def flat(self, coords: Tensor) -> Tensor:
        """Flat index [N] of grid coordinates [N, 3]."""
        return ((coords - self.low) * self.steps).sum(-1)

    def unflat(self, index: Tensor) -> Tensor:
        """Grid coordinates [N, 3] of flat indices [N]."""
        sx, sy, _ = self.strides
        x = torch.div(index, sx, rounding_mode="floor")
        rest = index - x * sx
        y = torch.div(rest, sy, rounding_mode="floor")
        return torch.stack([x, y, rest - y * sy], dim=-1) + self.low

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


class CellRanks:
    """Position of cells in a list, also answered for cells just before the start of the box."""

    def __init__(self, box: Box, cells: Tensor):
        # The margin in front keeps the index of a neighbour on the low side from being negative.
        self.margin = sum(box.strides)
        empty = torch.full((self.margin,), -1, dtype=torch.int32, device=cells.device)
        self.table = torch.cat([empty, box.ranks(cells)])

    def __call__(self, cells: Tensor) -> Tensor:
        """int32 positions, -1 for cells that are not in the list; any shape."""
        return self.table[cells + self.margin]


class ActiveCubes:
    """Features of the active cubes and the means of their corner attributes.

    Attributes:
        box: index space around the cubes.
        cells: [N] flat index of every cube, in the order of `feats`.
        offsets: [8] flat step from a cell to its corners.
        corners: [N, 8] flat index of every corner.
        touched: [T] flat indices of the lattice vertices that belong to a cube, ascending.
        rank: CellRanks of the cubes.
    """

    def __init__(self, coords: Tensor, feats: Tensor, resolution: int, beyond: bool = False):
        self.feats, self.resolution = feats, resolution
        self.box = Box(coords, resolution, beyond)
        self.offsets = (torch.from_numpy(CORNERS).to(coords.device) * self.box.steps).sum(-1)
        self.cells = self.box.flat(coords)
        self.corners = self.cells[:, None] + self.offsets
        self.is_touched = self.box.mark(self.corners)
        self.touched = self.is_touched.nonzero()[:, 0]
        self.rank = CellRanks(self.box, self.cells)

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
        return self._biased(torch.stack(rows, dim=1))

    def mean(self, vertices: Tensor, sdf_only: bool = False) -> Tensor:
        """Mean over the active cubes around lattice vertices.

        Args:
            vertices: [P] flat indices.
            sdf_only: leave out deform and colour.

        Returns:
            [P, 1 or 4 or 10] raw (sdf with bias, deform, colour); meaningless for untouched vertices.
        """
        total, count = 0.0, 0.0
        # One cube direction after the other: every vertex adds its cubes in the same order on every run. Absent
        # cubes add zero: to list the present ones would make the host wait for the device eight times.
        for j in range(8):
            row = self.rank(vertices - self.offsets[j])
            there, row = (row >= 0)[:, None], row.clamp(min=0)
            parts = self.columns(j)[:1] if sdf_only else self.columns(j)
            values = torch.cat([self.feats[:, part].index_select(0, row) for part in parts], dim=1)
            total = total + torch.where(there, values, 0.0)
            count = count + there.to(values.dtype)
        return self._biased(total / count.clamp(min=1))

    def positions(self, vertices: Tensor, deform: Tensor) -> Tensor:
        """[P, 3] object-space positions of lattice vertices moved by raw deform [P, 3]."""
        half_cell = (1 - 1e-8) / (2 * self.resolution)
        rest = self.box.unflat(vertices).to(deform.dtype) / self.resolution - 0.5
        return rest + half_cell * torch.tanh(deform)

    def weights(self, cells: Tensor) -> Tensor:
        """[S, 21] activated beta 12, alpha 8, gamma of cells; the defaults of a raw zero for inactive ones."""
        row = self.rank(cells)
        raw = torch.where((row >= 0)[:, None], self.feats[:, WEIGHTS].index_select(0, row.clamp(min=0)), 0.0)
        edge_and_corner = 0.99 * torch.tanh(raw[:, :20]) + 1
        return torch.cat([edge_and_corner, 0.99 * torch.sigmoid(raw[:, 20:]) + 0.005], dim=1)

    def _biased(self, values: Tensor) -> Tensor:
        """Attributes with the sdf bias of -1/resolution applied, without touching the caller's features."""
        return torch.cat([values[..., :1] - 1.0 / self.resolution, values[..., 1:]], dim=-1)
