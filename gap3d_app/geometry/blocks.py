"""Numbers of lattice cells near a surface: small blocks of them are stored, wherever they are in the grid.

What follows from active cubes is needed near them, and a surface fills a small share of its bounding box. So tables
have places for the cells of stored blocks alone; what covers the box is one number per block.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from gap3d_app.geometry.cube_indices import OFFSETS, tables_on
from gap3d_app.kernels import INDEX_LIMIT, kernel_module

BLOCK_BITS = 2
BLOCK = 1 << BLOCK_BITS
"""Cells along a block's side: as many as the published decoder makes of a voxel."""
CELLS = BLOCK**3
ALL_OF_EIGHT = 0x0101010101010101
"""Eight bools, all True."""

Bounds = tuple[list[int], list[int]]


class BlockGrid:
    """Blocks of cells around an object, and keys of its cells.

    Cells (cubes) and lattice vertices share keys, which grow in row-major order and add up: the key of a cell's
    neighbour is its own plus a constant step. Around all that can be stored there is a layer of blocks which are not,
    so a step from a stored cell leads to a cell of the grid.

    Args:
        bounds: smallest and largest coordinates of the cubes, or beyond them.
        device: where the work is done.

    Attributes:
        low: [3] grid coordinates of the first cell, multiples of `BLOCK`.
        shape: [3] blocks per axis.
        shifts: bits by which x and y are shifted in a key.
        cells: how many there are.
        limit: all keys are below it.
        start, volume: [3] first cell, counted from `low`, and size of the part that holds all cubes' corners; even.
        kernels: `gap3d_app.geometry.triton_blocks` where it applies, else None.
    """

    def __init__(self, bounds: Bounds, device: torch.device) -> None:
        first, last = [n // BLOCK - 2 for n in bounds[0]], [n // BLOCK + 3 for n in bounds[1]]
        self.low = [BLOCK * n for n in first]
        self.shape = [b - a + 1 for a, b in zip(first, last, strict=True)]
        self.cells = CELLS * math.prod(self.shape)
        bits = [(BLOCK * n - 1).bit_length() for n in self.shape]
        self.shifts = (bits[1] + bits[2], bits[2])
        self.limit = 1 << sum(bits)
        ends = zip(self.low, *bounds, strict=True)
        parts = [(2 * ((a - low) // 2), 2 * ((b + 1 - low) // 2 + 1)) for low, a, b in ends]
        self.start, self.volume = [a for a, _ in parts], [b - a for a, b in parts]
        kernels = kernel_module("gap3d_app.geometry.triton_blocks")
        self.kernels = kernels if kernels and kernels.applies(self, device) else None

    def steps(self, offsets: Tensor) -> Tensor:
        """Steps [...] of offsets [..., 3]."""
        x, y, z = offsets.unbind(-1)
        return z.add(y, alpha=1 << self.shifts[1]).add(x, alpha=1 << self.shifts[0])

    def table_steps(self, device: torch.device) -> dict[str, Tensor]:
        """Steps of the case tables' `OFFSETS`, made on the host: to send them takes one launch, not twelve.

        In place of "first" there is "order" [6]: where the quad of an edge's code comes among all, less three times the
        key of the cube where the edge starts.
        """
        tables = tables_on(torch.device("cpu"))
        steps = {name: self.steps(tables[name]) for name in OFFSETS}
        steps["order"] = 3 * steps.pop("first") + tables["place"] + 3 * self.limit * tables["turn"]
        sent = torch.cat([step.flatten() for step in steps.values()]).to(device)
        parts = sent.split([step.numel() for step in steps.values()])
        return {name: part.view_as(step) for (name, step), part in zip(steps.items(), parts, strict=True)}

    def keys(self, coords: Tensor) -> Tensor:
        """[N] of grid coordinates [N, 3]."""
        return self.steps(coords) - sum(n << shift for n, shift in zip(self.low, (*self.shifts, 0), strict=True))

    def split(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and z, counted from `low`."""
        shift_x, shift_y = self.shifts
        return keys >> shift_x, (keys >> shift_y) & ((1 << (shift_x - shift_y)) - 1), keys & ((1 << shift_y) - 1)

    def narrowed(self, numbers: Tensor, factor: int = 1) -> Tensor:
        """Numbers below `factor` times `limit`, of 32 bits if those reach: half the bytes, and half a sort's passes."""
        return numbers.int() if factor * self.limit < INDEX_LIMIT else numbers

    def coords(self, keys: Tensor) -> Tensor:
        """[N, 3] grid coordinates of keys [N]."""
        return torch.stack([n + low for n, low in zip(self.split(keys), self.low, strict=True)], dim=-1)

    def marked(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [N] of cubes [N, 3]; and [X, Y, Z] bool, their blocks and those that touch them."""
        if self.kernels:
            return self.kernels.marked(coords, self)
        coords = coords.long()
        x, y, z = (coords[:, axis] // BLOCK - low // BLOCK for axis, low in enumerate(self.low))
        blocks = torch.zeros(self.shape, dtype=torch.bool, device=coords.device)
        blocks.view(-1)[(x * self.shape[1] + y) * self.shape[2] + z] = True
        return self.keys(coords), widened(blocks)

    def some_and_open(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks [X, Y, Z] bool of which some cell of a volume [X, Y, Z] is True, and those of which not all are."""
        if self.kernels:
            return self.kernels.some_and_open(volume, self)
        words = self.in_blocks(volume).view(torch.int64)  # of eight cells
        return (words != 0).any(-1), (words != ALL_OF_EIGHT).any(-1)

    def in_blocks(self, volume: Tensor) -> Tensor:
        """A volume [X, Y, Z] as cells of blocks [X, Y, Z, CELLS], zero where there is none of it."""
        ends = zip(self.start, self.volume, self.shape, strict=True)
        beside = [(start, BLOCK * blocks - start - size) for start, size, blocks in ends]
        x, y, z = self.shape
        whole = pad(volume, [n for pair in reversed(beside) for n in pair])
        return whole.view(x, BLOCK, y, BLOCK, z, BLOCK).permute(0, 2, 4, 1, 3, 5).reshape(x, y, z, CELLS)


def widened(blocks: Tensor, low: int = 1, high: int = 1) -> Tensor:
    """[X, Y, Z] bool, those blocks and all within `low` blocks below or `high` above them on each axis."""
    return max_pool3d(pad(blocks[None].float(), (high, low) * 3), 1 + low + high, stride=1)[0] > 0


class Blocks:
    """Places in tables for the cells of the stored blocks of a grid.

    The last block of a table stands for all that are not stored.

    Args:
        grid: the blocks' grid.
        stored: [X, Y, Z] bool, none of the outermost layer.

    Attributes:
        stored: [blocks] int64 numbers of the stored blocks in the grid.
        count: places in a table.
        number: [X Y Z] int32 of the grid's blocks among the stored ones.
        corners: [blocks] int64 keys of their first cells.
    """

    def __init__(self, grid: BlockGrid, stored: Tensor) -> None:
        self.grid, self.stored = grid, stored.reshape(-1).nonzero()[:, 0]
        size = len(self.stored)
        self.count = CELLS * (size + 1)
        self.number = torch.full((stored.numel(),), size, dtype=torch.int32, device=stored.device)
        self._neighbours: dict[tuple[int, int], Tensor] = {}
        if grid.kernels:
            self.corners = grid.kernels.numbered(self.stored, grid, self.number)
            return
        self.number[self.stored] = torch.arange(size, dtype=torch.int32, device=stored.device)
        line, plane = grid.shape[2], grid.shape[1] * grid.shape[2]
        place = self.stored // plane, self.stored % plane // line, self.stored % line
        self.corners = grid.steps(torch.stack(place, dim=-1)) << BLOCK_BITS

    @cached_property
    def inner(self) -> Tensor:
        """[CELLS] keys of a block's cells less that of the first."""
        side = torch.arange(BLOCK, device=self.stored.device)
        return self.grid.steps(torch.stack(torch.meshgrid(side, side, side, indexing="ij"), dim=-1)).view(-1)

    def places(self, keys: Tensor) -> Tensor:
        """[...] int64 places of cells in a table."""
        if self.grid.kernels:
            return self.grid.kernels.places(keys, self)
        (x, y, z), shape, inner = self.grid.split(self.grid.narrowed(keys)), self.grid.shape, BLOCK - 1
        block = ((x >> BLOCK_BITS).mul_(shape[1]).add_(y >> BLOCK_BITS)).mul_(shape[2]).add_(z >> BLOCK_BITS)
        place = ((x & inner) << BLOCK_BITS).add_(y & inner).mul_(BLOCK).add_(z & inner)
        return self.number[block.long()].mul_(CELLS).add_(place).long()

    def keys(self, places: Tensor) -> Tensor:
        """[N] of places [N] in stored blocks."""
        if self.grid.kernels:
            return self.grid.kernels.keys(places, self)
        return self.corners[places // CELLS] + self.inner[places % CELLS]

    def cubes(self, table: Tensor) -> Tensor:
        """A table [count] as [blocks, BLOCK, BLOCK, BLOCK]."""
        return table.view(-1, BLOCK, BLOCK, BLOCK)

    def shifted(self, table: Tensor, axis: int, step: int) -> Tensor:
        """[count] what a table [count] has one cell further (`step` 1) or before (-1) on an axis."""
        first, last = (0, BLOCK - 1) if step > 0 else (BLOCK - 1, 0)
        beside = self.cubes(table).index_select(0, self._beside(axis, step)).narrow(axis + 1, first, 1)
        moved = table.roll(-step * BLOCK ** (2 - axis))
        self.cubes(moved).narrow(axis + 1, last, 1).copy_(beside)
        return moved

    def _beside(self, axis: int, step: int) -> Tensor:
        """[blocks] int32 the next blocks on an axis, or those before; the last one has none."""
        if (axis, step) not in self._neighbours:
            stride = math.prod(self.grid.shape[axis + 1 :])
            number = torch.cat([self.number[self.stored + step * stride], self.number[:1]])
            self._neighbours[axis, step] = number
        return self._neighbours[axis, step]

    def within(self, low: int, high: int) -> Tensor:
        """[count] bool: cells whose coordinates are all `low` to `high`; none of the last block."""
        within = torch.ones(CELLS * len(self.stored), dtype=torch.bool, device=self.stored.device)
        keys = (self.corners[:, None] + self.inner).view(-1)
        for place, start in zip(self.grid.split(keys), self.grid.low, strict=True):
            within &= (place >= low - start) & (place <= high - start)
        return torch.cat([within, torch.zeros_like(within[:1]).expand(CELLS)])

    def spread(self, table: Tensor) -> Tensor:
        """A table [count] bool over the grid's `volume`; False where no block is stored."""
        grid = self.grid
        if grid.kernels:
            return grid.kernels.spread(table, self)
        x, y, z = grid.shape
        whole = table.new_zeros(x * y * z, CELLS)
        whole[self.stored] = table.view(-1, CELLS)[:-1]
        whole = whole.view(x, y, z, BLOCK, BLOCK, BLOCK).permute(0, 3, 1, 4, 2, 5)
        whole = whole.reshape(BLOCK * x, BLOCK * y, BLOCK * z)
        return whole[tuple(slice(a, a + n) for a, n in zip(grid.start, grid.volume, strict=True))]

    def gathered(self, volume: Tensor) -> Tensor:
        """The table [count] bool of what lies in the grid's `volume`; False beyond it and in the last block."""
        if self.grid.kernels:
            return self.grid.kernels.gathered(volume, self)
        blocks = self.grid.in_blocks(volume).flatten(0, 2)[self.stored]
        return torch.cat([blocks, torch.zeros_like(blocks[:1])]).view(-1)

    def ranks(self, places: Tensor) -> Ranks:
        """Positions of places [N] in this very list; -1 of all others."""
        if self.grid.kernels:
            return Ranks(self, self.grid.kernels.rank(places, self.count))
        rank = torch.full((self.count,), -1, dtype=torch.int32, device=places.device)
        rank[places] = torch.arange(len(places), dtype=torch.int32, device=places.device)
        return Ranks(self, rank)


class Ranks:
    """Rows of cells in a list.

    Attributes:
        blocks: the index space.
        rows: [count] int32, -1 for cells that are not listed.
    """

    def __init__(self, blocks: Blocks, rows: Tensor) -> None:
        self.blocks, self.rows = blocks, rows

    def __getitem__(self, keys: Tensor) -> Tensor:
        """[...] int32 rows of keys [...]."""
        return self.rows[self.blocks.places(keys)]
