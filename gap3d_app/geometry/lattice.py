"""Active cubes on a lattice: where they are, and averaged corner attributes (trellis.md 6.5).

Attributes exist for active cubes and asked-for lattice vertices only, and their rows for the blocks around the cubes.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gap3d_app.geometry.blocks import BlockGrid, Blocks, Bounds
from gap3d_app.kernels import kernel_module

SDF, DEFORM, WEIGHTS, COLOR = slice(0, 8), slice(8, 32), slice(32, 53), slice(53, 101)
"""Channels of a cube: sdf 8, deform 8 x 3, weights 12 + 8 + 1, colour 8 x 6."""


class ActiveCubes:
    """Features of the active cubes and the means of their corner attributes.

    Args:
        coords: [N, 3] integers.
        feats: [N, C].
        resolution: cells per axis of the grid.
        bounds: smallest and largest coordinates, or beyond them; found if not given, which waits for the device.

    Attributes:
        grid: its blocks, and keys of cells.
        cells: [N] key of every cube, in the order of `feats`.
        steps: see `BlockGrid.table_steps`.
        offsets: [8] steps from a cell to its corners.
        around: [X, Y, Z] bool, the blocks of the cubes and those that touch them.
        blocks: places of cells in tables.
        rank: rows of the cubes.
        kernels: `gap3d_app.geometry.triton_lattice` where it applies, else None.

    Raises:
        ValueError: cells outside the grid.
    """

    def __init__(self, coords: Tensor, feats: Tensor, resolution: int, bounds: Bounds | None = None):
        low, high = torch.stack(coords.aminmax(dim=0)).tolist() if bounds is None else bounds
        if min(low) < 0 or max(high) >= resolution:
            raise ValueError(f"cube coordinates must be in 0..{resolution - 1}")
        self.feats, self.resolution = feats, resolution
        self.grid = BlockGrid((low, high), coords.device)
        self.steps = self.grid.table_steps(coords.device)
        self.offsets = self.steps["corners"]
        kernels = kernel_module("gap3d_app.geometry.triton_lattice")
        self.kernels = kernels if kernels and kernels.applies(feats, self.grid) else None
        self.cells, self.around = self.grid.marked(coords)
        self.store(self.around)

    def store(self, stored: Tensor) -> None:
        """Have places for the cells of other blocks [X, Y, Z], those of the cubes among them."""
        self.blocks = Blocks(self.grid, stored)
        self.rank = self.blocks.ranks(self.blocks.places(self.cells))

    @property
    def corners(self) -> Tensor:
        """[N, 8] key of every cube's corners."""
        return self.cells[:, None] + self.offsets

    def touched_cells(self) -> Tensor:
        """[count] bool, True for the lattice vertices that belong to a cube."""
        touched = self.rank.rows >= 0
        for axis in range(3):  # the cell of the same number and the one before it
            touched = self.blocks.shifted(touched, axis, -1) | touched
        return touched

    @cached_property
    def touched(self) -> Tensor:
        """[T] keys of the vertices of `touched_cells`, in row-major order."""
        return self.blocks.keys(self.touched_cells().nonzero()[:, 0]).sort().values

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
            sdf: [T] of the vertices `touched`, if known.
        """
        if sdf is None and self.kernels:  # faster than to list the touched vertices
            return self.kernels.inside(self.rank, self.feats, 1.0 / self.resolution)
        inside = torch.zeros(self.blocks.count, dtype=torch.bool, device=self.feats.device)
        if sdf is None:
            places = self.touched_cells().nonzero()[:, 0]
            sdf = self.mean(places, sdf_only=True)[:, 0]
        else:
            places = self.blocks.places(self.touched)
        inside[places] = sdf.detach() < 0
        return inside

    def mean(self, places: Tensor, sdf_only: bool = False) -> Tensor:
        """Mean over the active cubes around lattice vertices.

        Args:
            places: [P] of vertices in stored blocks.
            sdf_only: leave out deform and colour.

        Returns:
            [P, 1 or 4 or 10] raw (sdf with bias, deform, colour); sdf 1 and zeros for untouched vertices.
        """
        if self.kernels:
            width = 1 if sdf_only else 10 if self.feats.shape[1] == COLOR.stop else 4
            return self.kernels.mean(places, self.rank, self.feats, 1.0 / self.resolution, width)
        columns = [self.columns(j)[:1] if sdf_only else self.columns(j) for j in range(8)]
        total, count = [0.0] * len(columns[0]), 0.0
        # One cube direction after the other: every vertex adds its cubes in the same order on every run. Absent
        # cubes add zero: to list the present ones would make the host wait for the device eight times.
        for j, rows in enumerate(self._rows_before()):
            row = rows[places]
            there, row = (row >= 0)[:, None], row.clamp(min=0)
            values = [self._sdf[j].index_select(0, row)[:, None]]
            values += [self.feats[:, part].index_select(0, row) for part in columns[j][1:]]
            total = [so_far + torch.where(there, some, 0.0) for so_far, some in zip(total, values, strict=True)]
            count = count + there.to(self.feats.dtype)
        mean = [some / count.clamp(min=1) for some in total]
        mean[0] = torch.where(count > 0, mean[0] - 1.0 / self.resolution, 1.0)
        return torch.cat(mean, dim=1)

    @cached_property
    def _sdf(self) -> Tensor:
        """[8, N] of the cubes' corners, one corner's in a row: a processor reads them several times faster so."""
        return self.feats[:, SDF].t().contiguous()

    def _rows_before(self) -> list[Tensor]:
        """Eight times [count], rows of the cubes that have a cell's first lattice vertex for their corner 0, 1 .. 7."""
        rows = [self.rank.rows]
        for axis in range(3):
            rows += [self.blocks.shifted(some, axis, -1) for some in rows]
        return rows

    def positions(self, vertices: Tensor, deform: Tensor) -> Tensor:
        """[P, 3] object-space positions of lattice vertices moved by raw deform [P, 3]."""
        rest = self.grid.coords(vertices).to(deform.dtype) / self.resolution - 0.5
        return rest + half_cell(self.resolution) * torch.tanh(deform.contiguous())

    def values(self, places: Tensor, mean: Tensor) -> Tensor:
        """[P, 4 or 10] sdf, object-space position and colour of lattice vertices.

        Args:
            places: [P] of the vertices.
            mean: [P, 4 or 10] raw (sdf with bias, deform, colour); may be overwritten.
        """
        # Contiguous parts, because a processor rounds the exponential of strided numbers otherwise.
        color = torch.sigmoid(mean[:, 4:].contiguous()) if mean.shape[1] > 4 else None
        if self.kernels:
            moves = torch.tanh(mean[:, 1:4].contiguous())
            return self.kernels.placed(mean, moves, color, places, self.blocks, self.resolution)
        parts = [mean[:, :1], self.positions(self.blocks.keys(places), mean[:, 1:4])]
        return torch.cat(parts if color is None else [*parts, color], dim=1)

    def weights(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Activated (beta 12, alpha 8) [S, 20] and gamma [S] of cells; inactive ones have those of a raw zero."""
        sides, gamma = self.raw_weights(cells)
        return 0.99 * torch.tanh(sides) + 1, 0.99 * torch.sigmoid(gamma) + 0.005

    def raw_weights(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers that `weights` activates, contiguous each."""
        if self.kernels:
            return self.kernels.raw_weights(cells, self.rank, self.feats)
        row = self.rank[cells]
        raw = torch.where((row >= 0)[:, None], self.feats[:, WEIGHTS].index_select(0, row.clamp(min=0)), 0.0)
        return raw[:, :20].contiguous(), raw[:, 20].contiguous()


def half_cell(resolution: int) -> float:
    """How far a lattice vertex may be moved along an axis, as published: a hair less than half a cell."""
    return (1 - 1e-8) / (2 * resolution)
