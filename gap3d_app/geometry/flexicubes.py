"""Surface extraction from sparse cube features: FlexiCubes on active cubes (trellis.md 6.5 and 6.6).

Attributes are kept only for active cubes and for lattice vertices at the surface (see lattice.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gap3d_app.geometry.cube_indices import tables_on
from gap3d_app.geometry.dual import deviation, dual_vertices, find_crossings, find_loops, split, split_in_four
from gap3d_app.geometry.lattice import WEIGHTS, ActiveCubes, Bounds
from gap3d_app.geometry.solid import fill_enclosed, sealed_off
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
    return _Extraction(coords.long(), feats, resolution, training, solid, bounds).run()


def average_corners(coords: Tensor, feats: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Lattice vertices touched by active cubes and their mean raw attributes.

    Returns:
        coords [T, 3] int64 in row-major order, and [T, 4 or 10]: sdf with bias, deform 3, colour 6.
    """
    cubes = ActiveCubes(coords.long(), feats, resolution)
    return cubes.box.unflat(cubes.touched), cubes.mean(cubes.touched)


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
        self.cubes = ActiveCubes(coords, feats, resolution, solid, bounds)
        self.box = self.cubes.box

    def run(self) -> MeshResult:
        box, cubes, table = self.box, self.cubes, self.table
        # Without training only vertices next to the surface need more than their sdf, which comes later.
        attributes = cubes.mean(cubes.touched) if self.training else None
        inside = cubes.inside(attributes[:, 0] if self.training else None)
        if self.solid:
            # Cubes that hold no surface enclose nothing.
            sealed = sealed_off(cubes.touched_grid, [low % 2 for low in box.low]) & inside.any()
            inside = fill_enclosed(inside.view(box.size) | sealed).reshape(-1)
        case = self._cases(inside)
        surface = ((case + 1) > 1).nonzero()[:, 0]  # neither 0 nor 255, whose successor among bytes is 0
        if len(surface) == 0:
            empty = _empty(self.feats, self.resolution, self.training)
            return self._with_training_terms(empty, attributes, None) if self.training else empty
        own = case[surface].long()
        used = self._resolve_ambiguity(surface, own, case)

        # dual vertices: those of cubes with one come first, then of cubes with two, and so on
        patches, order = table["patch_count"][used].sort(stable=True)
        ends = patches.cumsum(0)
        base = torch.empty_like(ends)
        base[order] = ends - patches

        # What makes the host wait for the device comes in a row, before the larger part of the work is asked for.
        crossed = surface[:, None] + cubes.offsets[table["ends"]][own]
        lattice = box.mark(crossed).nonzero()[:, 0]  # both ends of crossing edges
        surface_rank = box.ranks(surface)
        ring = cubes.steps["ring"]
        row, code = self._quads(surface, surface_rank, own, ring)
        vertex_count = int(ends[-1])

        lattice_rank = box.ranks(lattice)
        value = self._lattice_values(lattice, attributes, inside)
        weights, gamma = cubes.weights(surface)
        if cubes.kernels and not self.training:
            owner = order.repeat_interleave(patches.long(), output_size=vertex_count)
            dual = cubes.kernels.dual_vertices(
                owner, base, surface, used, lattice_rank, value, weights, table, box.strides
            )
            faces = cubes.kernels.faces(row, code, surface, surface_rank, used, base, gamma, table, ring)
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

    def _cases(self, inside: Tensor) -> Tensor:
        """[count] uint8 case id of every cell of the box (0 in the unused last layers)."""
        bits = inside.view(self.box.size).view(torch.uint8)
        for axis in range(3):  # merge corners one axis at a time: 1, 2, then 4 bits to shift
            n = bits.shape[axis] - 1
            merged = torch.zeros_like(bits)  # a cell in the last layer of an axis has no far corners
            near, far = bits.narrow(axis, 0, n), bits.narrow(axis, 1, n)
            torch.add(near, far, alpha=1 << (1 << axis), out=merged.narrow(axis, 0, n))
            bits = merged
        return bits.view(-1)

    def _resolve_ambiguity(self, surface: Tensor, own: Tensor, case: Tensor) -> Tensor:
        """[S] case ids with the complement taken where two flagged cubes share an ambiguous face."""
        flagged = self.table["flagged"]
        # A neighbour outside the grid is an unused cell, whose case is 0.
        neighbour = case[surface + self.cubes.steps["twin"][own]].long()
        return torch.where(flagged[own] & flagged[neighbour], 255 - own, own)

    def _lattice_values(self, lattice: Tensor, attributes: Tensor | None, inside: Tensor) -> Tensor:
        """[P, 4 or 10] sdf, object-space position and colour of lattice vertices; what was filled has sdf below 0."""
        if attributes is None:
            mean = self.cubes.mean(lattice)
        else:
            rank = self.box.ranks(self.cubes.touched)[lattice]
            untouched = torch.zeros_like(attributes[0])
            untouched[0] = 1
            mean = torch.where((rank >= 0)[:, None], attributes[rank.clamp(min=0).long()], untouched)
        sdf = mean[:, :1]
        if self.solid:
            sdf = torch.where(inside[lattice, None], -sdf.abs(), sdf)
        parts = [sdf, self.cubes.positions(lattice, mean[:, 1:4])]
        if mean.shape[1] > 4:
            # contiguous, because a processor rounds the exponential of strided numbers otherwise
            parts.append(torch.sigmoid(mean[:, 4:].contiguous()))
        return torch.cat(parts, dim=1)

    def _quads(self, surface: Tensor, rank: Tensor, own: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
        """Interior crossing edges in the order of their faces: those that start outside, then the others.

        Args:
            surface: [S] flat indices of surface cubes.
            rank: [count] int32 their rows.
            own: [S] their cases.
            ring: [6, 4] steps to the cubes around an edge.

        Returns:
            [Q] row of the cube where the edge starts and [Q] its code.
        """
        code = self.table["code"][own]
        # The cube farthest down is an unused cell, and none of the surface, where an edge lies on the border.
        interior = rank[surface[:, None] + ring[:3, 0]] >= 0
        row, axis = ((code >= 0) & interior).nonzero(as_tuple=True)
        code = code[row, axis].long()
        first = 3 * self.cubes.steps["first"] + self.table["place"]
        key = 3 * surface[row] + first.add(self.table["turn"], alpha=3 * self.box.count)[code]
        if 6 * self.box.count < 1 << 31:
            key = key.int()  # sorted in half the passes
        order = key.argsort()
        return row[order], code[order]

    def _with_training_terms(
        self, result: MeshResult, attributes: Tensor, deviation: Tensor | None
    ) -> MeshResult:
        """`result` with regulariser and lattice samples filled in."""
        cubes = self.cubes
        average = attributes[self.box.ranks(cubes.touched)[cubes.corners].long()]
        own = cubes.corner_values()
        loss = (own - average).square().mean()
        loss = loss + 0.2 * self.feats[:, WEIGHTS][:, :20].abs().mean()
        if deviation is not None:
            loss = loss + 0.5 * deviation
        result.reg_loss = loss
        result.tsdf_vertices = cubes.positions(cubes.touched, attributes[:, 1:4])
        result.tsdf_values = attributes[:, 0]
        return result
