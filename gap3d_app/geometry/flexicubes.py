"""Surface extraction from sparse cube features: FlexiCubes on active cubes (trellis.md 6.5 and 6.6).

Attributes are kept only for active cubes and for lattice vertices at the surface (see lattice.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gap3d_app.geometry.blocks import CELLS, Bounds, Ranks, widened
from gap3d_app.geometry.cube_indices import tables_on
from gap3d_app.geometry.dual import deviation, dual_vertices, find_crossings, find_loops, split, split_in_four
from gap3d_app.geometry.lattice import WEIGHTS, ActiveCubes
from gap3d_app.geometry.solid import fill_enclosed, sealed_off
from gap3d_app.kernels import kernel_module
from gap3d_app.values import Mesh


@dataclass
class MeshResult:
    """An extracted surface.

    Attributes:
        vertices: [V, 3] float, object space.
        faces: [F, 3] int64, outward winding.
        vertex_attrs: [V, 6] float (rgb, normal map) in 0..1, or None for 53 channels.
        resolution: cubes per axis.
        reg_loss: scalar regulariser of section 6.6 (training only).
        tsdf_vertices: [T, 3] deformed lattice vertices touched by active cubes (training only).
        tsdf_values: [T] their averaged sdf (training only).
    """

    vertices: Tensor
    faces: Tensor
    vertex_attrs: Tensor | None
    resolution: int
    reg_loss: Tensor | None = None
    tsdf_vertices: Tensor | None = None
    tsdf_values: Tensor | None = None

    @property
    def success(self) -> bool:
        """True when there is a surface."""
        return self.vertices.shape[0] > 0 and self.faces.shape[0] > 0

    @property
    def face_normals(self) -> Tensor:
        """[F, 3, 3] unit face normals, repeated for the three corners."""
        a, b, c = self.vertices[self.faces].unbind(1)
        normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
        return normal[:, None].expand(-1, 3, -1)

    def to_mesh(self) -> Mesh:
        """The surface as a plain Mesh with float32 vertices and rgb colours."""
        colors = None if self.vertex_attrs is None else self.vertex_attrs[:, :3].float()
        return Mesh(self.vertices.float(), self.faces, colors)


def extract(
    coords: Tensor,
    feats: Tensor,
    resolution: int,
    training: bool = False,
    solid: bool = False,
    bounds: Bounds | None = None,
) -> MeshResult:
    """Surface of the zero level set stored in sparse cubes.

    Args:
        coords: [N, 3] integer cube coordinates in 0..resolution-1, no duplicates.
        feats: [N, 53] or [N, 101] float; raw network output, see section 6.5 for the layout. Not modified.
        resolution: cubes per axis of the whole grid.
        training: split quads around a centre vertex and return regulariser and lattice samples.
        solid: count every lattice vertex that the outside cannot reach as inside, space without cubes also where
            the surface around it has small holes, and close the surface at the border of the grid, so that only
            outer, closed surfaces remain.
        bounds: smallest and largest coordinates, or beyond them, such as `Sites.bounds`; without them a GPU must
            finish its queue before the work begins.

    Returns:
        MeshResult in object space [-0.5, 0.5]^3, differentiable in `feats`; zero vertices if there is no
        surface.

    Raises:
        ValueError: wrong shapes or coordinates outside the grid.
    """
    if coords.ndim != 2 or coords.shape[1] != 3 or feats.shape[0] != coords.shape[0]:
        raise ValueError(f"coords must be [N, 3] with N = {feats.shape[0]} rows, got {tuple(coords.shape)}")
    if feats.shape[1] not in (53, 101):
        raise ValueError(f"feats must have 53 or 101 channels, got {feats.shape[1]}")
    if feats.dtype in (torch.float16, torch.bfloat16):
        feats = feats.float()
    if coords.shape[0] == 0:
        return _empty(feats, resolution, training)
    return _Extraction(coords, feats, resolution, training, solid, bounds).run()


def average_corners(coords: Tensor, feats: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Lattice vertices touched by active cubes and their mean raw attributes.

    Returns:
        coords [T, 3] int64 in row-major order, and [T, 4 or 10]: sdf with bias, deform 3, colour 6.
    """
    cubes = ActiveCubes(coords, feats, resolution)
    return cubes.grid.coords(cubes.touched), cubes.mean(cubes.blocks.places(cubes.touched))


def _empty(feats: Tensor, resolution: int, training: bool) -> MeshResult:
    vertices = feats.new_zeros(0, 3)
    attrs = feats.new_zeros(0, 6) if feats.shape[1] == 101 else None
    faces = torch.zeros(0, 3, dtype=torch.int64, device=feats.device)
    if not training:
        return MeshResult(vertices, faces, attrs, resolution)
    return MeshResult(vertices, faces, attrs, resolution, feats.sum() * 0, vertices, vertices[:, 0])


class _Extraction:
    """One extraction; the steps of `run` share the index grids of the active cubes."""

    def __init__(
        self, coords: Tensor, feats: Tensor, resolution: int, training: bool, solid: bool, bounds: Bounds | None
    ):
        self.feats, self.resolution, self.training, self.solid = feats, resolution, training, solid
        self.table = tables_on(feats.device)
        self.cubes = ActiveCubes(coords, feats, resolution, bounds)
        self.kernels = kernel_module("gap3d_app.geometry.triton_cubes") if self.cubes.kernels else None

    def run(self) -> MeshResult:
        cubes, table = self.cubes, self.table
        # Without training only vertices next to the surface need more than their sdf, which comes later.
        attributes = cubes.mean(cubes.blocks.places(cubes.touched)) if self.training else None
        inside = cubes.inside(attributes[:, 0] if self.training else None)
        inside, mixed = self._filled(inside) if self.solid else (inside, None)
        case = self._cases(inside, mixed)
        places = ((case + 1) > 1).nonzero()[:, 0]  # neither 0 nor 255, whose successor among bytes is 0
        if len(places) == 0:
            empty = _empty(self.feats, self.resolution, self.training)
            return self._with_training_terms(empty, attributes, None) if self.training else empty
        surface, order = cubes.grid.narrowed(cubes.blocks.keys(places)).sort()
        surface, places = surface.long(), places[order]
        own, used, crossing = self._surface_cases(surface, places, case)

        # dual vertices: those of cubes with one come first, then of cubes with two, and so on
        patches, order = table["patch_count"][used].sort(stable=True)
        ends = patches.cumsum(0)
        base = torch.empty_like(ends)
        base[order] = ends - patches

        # What makes the host wait for the device comes in a row, before the larger part of the work is asked for.
        corners = crossing.nonzero()[:, 0]
        surface_rank = cubes.blocks.ranks(places)
        ring = cubes.steps["ring"]
        row, code = self._quads(surface, surface_rank, own, ring)
        vertex_count = int(ends[-1])

        lattice_rank = cubes.blocks.ranks(corners)
        value = self._lattice_values(corners, attributes, inside)
        weights, gamma = cubes.weights(surface)
        if self.kernels and not self.training:
            owner = order.repeat_interleave(patches.long(), output_size=vertex_count)
            dual = self.kernels.dual_vertices(owner, base, surface, used, lattice_rank, value, weights, table)
            faces = self.kernels.faces(row, code, surface, surface_rank, used, base, gamma, table, ring)
            return self._result(dual, faces)
        crossings = find_crossings(table, used, base, surface, cubes.offsets, lattice_rank)
        dual = dual_vertices(crossings, vertex_count, value, weights)
        loops, corner_cubes = find_loops(surface[row], code, surface_rank, used, base, table, ring)
        if not self.training:
            return self._result(dual, split(loops, gamma[corner_cubes]))
        result = self._result(*split_in_four(dual, loops, gamma[corner_cubes]))
        first, second = (value.index_select(0, end)[:, :4] for end in crossings.ends.unbind(1))
        s_a, s_b = first[:, :1], second[:, :1]
        plain = (first[:, 1:] * s_b - second[:, 1:] * s_a) / (s_b - s_a)
        distance = torch.linalg.norm(plain - dual[crossings.vertex, :3], dim=-1)
        return self._with_training_terms(result, attributes, deviation(distance, crossings.vertex, vertex_count))

    def _result(self, dual: Tensor, faces: Tensor) -> MeshResult:
        colored = self.feats.shape[1] == 101
        return MeshResult(dual[:, :3], faces, dual[:, 3:] if colored else None, self.resolution)

    def _filled(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        """`inside` with all that the outside cannot reach, [count] for other blocks; and which of those hold surface.

        Blocks that hold none may be next to some which are not stored and all inside.
        """
        cubes = self.cubes
        # The flood from outside needs a byte for every cell around the object; the rest goes by blocks.
        volume = cubes.blocks.spread(inside)
        # Cubes that hold no surface enclose nothing.
        volume = fill_enclosed(volume | sealed_off(cubes.blocks.spread(cubes.touched_cells())) & inside.any())
        some, open_ones = cubes.grid.some_and_open(volume)
        mixed = widened(some, 1, 0) & widened(open_ones, 1, 0)  # a cell's corners may be those of the next blocks
        cubes.store(cubes.around | widened(mixed, 0, 1))
        return cubes.blocks.gathered(volume), mixed

    def _cases(self, inside: Tensor, mixed: Tensor | None) -> Tensor:
        """[count] uint8 case id of every cell; 0 outside of the grid and where blocks [X, Y, Z] hold no surface."""
        blocks, bits = self.cubes.blocks, inside.view(torch.uint8)
        # A closed surface may lie on the border of the grid.
        low, high = (-1, self.resolution) if self.solid else (0, self.resolution - 1)
        if blocks.grid.kernels:
            return blocks.grid.kernels.cases(bits, blocks, low, high, mixed)
        for axis in range(3):  # merge corners one axis at a time: 1, 2, then 4 bits to shift
            bits = bits.add(blocks.shifted(bits, axis, 1), alpha=1 << (1 << axis))
        bits *= blocks.within(low, high)
        if mixed is not None:
            bits.view(-1, CELLS)[:-1] *= mixed.reshape(-1)[blocks.stored, None]
        return bits

    def _surface_cases(self, surface: Tensor, places: Tensor, case: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cases of surface cubes, and the ends of their crossing edges.

        Args:
            surface: [S] keys of the cubes.
            places: [S] of them in tables.
            case: [count] of all cells.

        Returns:
            [S] int64 cases, [S] int64 the same with the complement taken where two flagged cubes share an ambiguous
            face, [count] bool lattice vertices at the ends of crossing edges.
        """
        blocks, table, twin = self.cubes.blocks, self.table, self.cubes.steps["twin"]
        if self.kernels:
            return self.kernels.surface_cases(surface, case, self.cubes.rank, table, twin)
        own, flagged = case[places].long(), table["flagged"]
        # A neighbour outside the grid has the case 0.
        neighbour = case[blocks.places(surface + twin[own])].long()
        used = torch.where(flagged[own] & flagged[neighbour], 255 - own, own)
        corners = torch.zeros_like(case)
        corners[places] = table["ends"][own]
        for axis in (2, 1, 0):  # a bit for each corner of a cube is brought to the lattice vertex, one axis at a time
            half = 1 << axis
            corners = corners & (1 << half) - 1 | blocks.shifted(corners, axis, -1) >> half
        return own, used, corners > 0

    def _lattice_values(self, places: Tensor, attributes: Tensor | None, inside: Tensor) -> Tensor:
        """[P, 4 or 10] sdf, object-space position and colour of lattice vertices; what was filled has sdf below 0."""
        if attributes is None:
            mean = self.cubes.mean(places)
        else:
            rank = self._touched_rank().rows[places]
            untouched = torch.zeros_like(attributes[0])
            untouched[0] = 1
            mean = torch.where((rank >= 0)[:, None], attributes[rank.clamp(min=0).long()], untouched)
        if self.solid:
            sdf = mean[:, :1]
            mean = torch.cat([torch.where(inside[places, None], -sdf.abs(), sdf), mean[:, 1:]], dim=1)
        return self.cubes.values(places, mean)

    def _touched_rank(self) -> Ranks:
        """Rows of the touched lattice vertices."""
        return self.cubes.blocks.ranks(self.cubes.blocks.places(self.cubes.touched))

    def _quads(self, surface: Tensor, rank: Ranks, own: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
        """Interior crossing edges in the order of their faces: those that start outside, then the others.

        Args:
            surface: [S] keys of surface cubes.
            rank: their rows.
            own: [S] their cases.
            ring: [6, 4] steps to the cubes around an edge.

        Returns:
            [Q] row of the cube where the edge starts and [Q] its code.
        """
        code = self.table["code"][own]
        # The cube farthest down is none of the surface where an edge lies on the border.
        interior = rank[surface[:, None] + ring[:3, 0]] >= 0
        row, axis = ((code >= 0) & interior).nonzero(as_tuple=True)
        code = code[row, axis].long()
        order = self.cubes.grid.narrowed(3 * surface[row] + self.cubes.steps["order"][code], 6).argsort()
        return row[order], code[order]

    def _with_training_terms(
        self, result: MeshResult, attributes: Tensor, deviation: Tensor | None
    ) -> MeshResult:
        """`result` with regulariser and lattice samples filled in."""
        cubes = self.cubes
        average = attributes[self._touched_rank()[cubes.corners].long()]
        own = cubes.corner_values()
        loss = (own - average).square().mean()
        loss = loss + 0.2 * self.feats[:, WEIGHTS][:, :20].abs().mean()
        if deviation is not None:
            loss = loss + 0.5 * deviation
        result.reg_loss = loss
        result.tsdf_vertices = cubes.positions(cubes.touched, attributes[:, 1:4])
        result.tsdf_values = attributes[:, 0]
        return result
