"""Surface extraction from sparse cube features: FlexiCubes on active cubes (trellis.md 6.5 and 6.6).

Attributes are kept only for active cubes and for lattice vertices at the surface (see lattice.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gap3d_app.geometry.cube_tables import EDGES, case_tables
from gap3d_app.geometry.lattice import WEIGHTS, ActiveCubes, CellRanks
from gap3d_app.geometry.solid import fill_enclosed
from gap3d_app.values import Mesh

# Per axis of a crossing edge: the two other axes (ascending) and the edge's index in each of the four cubes
# around it, cubes in ascending flat order.
_QUADS = {0: ((1, 2), (6, 4, 2, 0)), 1: ((0, 2), (10, 9, 11, 8)), 2: ((0, 1), (5, 1, 7, 3))}


PAIRS_AT_ONCE = 1 << 21
"""Crossing edges of cubes whose attributes are in memory at a time (each takes about 200 bytes)."""


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


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> dict[str, Tensor]:
    """Case tables and index constants on a device."""
    tables = case_tables()
    # One row per (patch, edge) of a case, patches in order, padded to the largest case (12 crossing edges).
    pairs = torch.full((256, 12, 2), -1, dtype=torch.int8)
    for case in range(256):
        rows = [(k, e) for k in range(4) for e in tables.patch_edges[case, k].tolist() if e >= 0]
        if rows:
            pairs[case, : len(rows)] = torch.tensor(rows, dtype=torch.int8)
    named = {
        "edges": torch.from_numpy(EDGES),
        "patch_count": torch.from_numpy(tables.patch_count),
        "edge_patch": torch.from_numpy(tables.edge_patch),
        "twin": torch.from_numpy(tables.twin),
        "pairs": pairs,
        "pair_count": (pairs[..., 0] >= 0).sum(1),
    }
    return {name: tensor.to(device) for name, tensor in named.items()}


def extract(
    coords: Tensor, feats: Tensor, resolution: int, training: bool = False, solid: bool = False
) -> MeshResult:
    """Surface of the zero level set stored in sparse cubes.

    Args:
        coords: [N, 3] integer cube coordinates in 0..resolution-1, no duplicates.
        feats: [N, 53] or [N, 101] float; raw network output, see section 6.5 for the layout. Not modified.
        resolution: cubes per axis of the whole grid.
        training: split quads around a centre vertex and return regulariser and lattice samples.
        solid: count every lattice vertex that the outside cannot reach as inside and close the surface at the
            border of the grid, so that only outer, closed surfaces remain.

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
    coords = coords.long()
    if bool(((coords < 0) | (coords >= resolution)).any()):
        raise ValueError(f"cube coordinates must be in 0..{resolution - 1}")
    return _Extraction(coords, feats, resolution, training, solid).run()


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

    def __init__(self, coords: Tensor, feats: Tensor, resolution: int, training: bool, solid: bool):
        self.feats, self.resolution, self.training, self.solid = feats, resolution, training, solid
        self.table = _tables(feats.device)
        self.cubes = ActiveCubes(coords, feats, resolution, beyond=solid)
        self.box = self.cubes.box

    def run(self) -> MeshResult:
        box, cubes = self.box, self.cubes
        # Without training only vertices next to the surface need more than their sdf, which comes later.
        attributes = cubes.mean(cubes.touched, sdf_only=not self.training)
        inside = torch.zeros(box.count, dtype=torch.bool, device=self.feats.device)
        inside[cubes.touched] = attributes[:, 0].detach() < 0
        if self.solid:
            inside = fill_enclosed(inside.view(box.size)).reshape(-1)
        case = self._cases(inside)
        surface = ((case != 0) & (case != 255)).nonzero()[:, 0]
        if len(surface) == 0:
            empty = _empty(self.feats, self.resolution, self.training)
            return self._with_training_terms(empty, attributes, None) if self.training else empty
        cell_rank = CellRanks(box, surface)
        own = case[surface].long()
        used = self._resolve_ambiguity(surface, own, cell_rank)

        # (cube, edge, dual vertex) triples, one per crossing edge of every surface cube
        count = self.table["patch_count"][used]
        order = torch.argsort(count, stable=True)
        base = torch.empty_like(count)
        ends = count[order].cumsum(0)
        base[order] = ends - count[order]
        vertex_count = int(ends[-1])
        pairs = self.table["pairs"][used]
        cube, slot = (pairs[..., 0] >= 0).nonzero(as_tuple=True)
        patch, edge = pairs[cube, slot].long().unbind(-1)
        vertex = base[cube] + patch

        # attributes of the lattice vertices at both ends of crossing edges
        cube_corner = self.table["edges"][edge]
        ends_flat = surface[cube][:, None] + cubes.offsets[cube_corner]
        lattice = box.mark(ends_flat).nonzero()[:, 0]
        value = self._lattice_values(lattice, attributes if self.training else None)
        a, b = box.ranks(lattice)[ends_flat].unbind(-1)

        weights = cubes.weights(surface)
        total = self.feats.new_zeros(vertex_count, value.shape[1])
        for start in range(0, len(vertex), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            alpha_a, alpha_b = weights[cube[some, None], 12 + cube_corner[some]].unbind(-1)
            beta = weights[cube[some], edge[some]][:, None]
            first, second = value.index_select(0, a[some]), value.index_select(0, b[some])
            wa = (second[:, 0] * alpha_b)[:, None]
            wb = (first[:, 0] * alpha_a)[:, None]
            crossing = (first[:, 1:] * wa - second[:, 1:] * wb) / (wa - wb)
            total.index_add_(0, vertex[some], torch.cat([crossing * beta, beta], dim=1))
        dual = total[:, :-1] / total[:, -1:]

        loops, corner_cubes = self._quads(surface, inside, cell_rank, base, used)
        gamma = weights[:, 20][corner_cubes]
        if self.training:
            dual, faces = self._split_training(dual, loops, gamma)
        else:
            faces = self._split(loops, gamma)
        colored = self.feats.shape[1] == 101
        result = MeshResult(dual[:, :3], faces, dual[:, 3:] if colored else None, self.resolution)
        if not self.training:
            return result
        first, second = value.index_select(0, a)[:, :4], value.index_select(0, b)[:, :4]
        s_a, s_b = first[:, :1], second[:, :1]
        plain = (first[:, 1:] * s_b - second[:, 1:] * s_a) / (s_b - s_a)
        distance = torch.linalg.norm(plain - dual[vertex, :3], dim=-1)
        deviation = self._deviation(distance, vertex, vertex_count)
        return self._with_training_terms(result, attributes, deviation)

    def _cases(self, inside: Tensor) -> Tensor:
        """[count] uint8 case id of every cell of the box (0 in the unused last layers)."""
        nx, ny, nz = self.box.size
        bits = inside.view(nx, ny, nz).to(torch.uint8)
        for axis in range(3):  # merge corners one axis at a time: 1, 2, then 4 bits to shift
            merged = torch.zeros_like(bits)
            n = bits.shape[axis] - 1
            merged.narrow(axis, 0, n).copy_(bits.narrow(axis, 0, n) | bits.narrow(axis, 1, n) << (1 << axis))
            bits = merged
        # a cell in the last layer of an axis has no far corners
        return bits.view(-1)

    def _resolve_ambiguity(self, surface: Tensor, own: Tensor, cell_rank: CellRanks) -> Tensor:
        """Case ids with the complement taken where two flagged cubes share an ambiguous face."""
        step = self.table["twin"][own]
        flagged = step.abs().sum(1).nonzero()[:, 0]
        # Neighbours outside the grid have rank -1: their cells lie in the margin or in unused layers.
        neighbour = surface[flagged] + (step[flagged] * self.box.steps).sum(1)
        rank = cell_rank(neighbour).long()
        twin = (rank >= 0) & (self.table["twin"][own[rank.clamp(min=0)]].abs().sum(1) > 0)
        used = own.clone()
        chosen = flagged[twin]
        used[chosen] = 255 - own[chosen]
        return used

    def _lattice_values(self, lattice: Tensor, attributes: Tensor | None) -> Tensor:
        """[P, 4 or 10] sdf, object-space position and colour of lattice vertices."""
        if attributes is None:
            mean = self.cubes.mean(lattice)
        else:
            mean = attributes[self.box.ranks(self.cubes.touched)[lattice].clamp(min=0).long()]
        known = self.cubes.is_touched[lattice][:, None]
        sdf = torch.where(known, mean[:, :1], 1.0)
        deform = torch.where(known, mean[:, 1:4], 0.0)
        parts = [sdf, self.cubes.positions(lattice, deform)]
        if mean.shape[1] > 4:
            parts.append(torch.sigmoid(torch.where(known, mean[:, 4:], 0.0)))
        return torch.cat(parts, dim=1)

    def _quads(
        self, surface: Tensor, inside: Tensor, cell_rank: CellRanks, base: Tensor, used: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Vertex loops [Q, 4] of all interior crossing edges and the surface cubes [Q, 4] that own them."""
        strides, low = self.box.strides, self.box.low
        position = self.box.unflat(surface) - low
        keys, cubes, edges, flips = [], [], [], []
        for axis, (others, edge_ids) in _QUADS.items():
            s, t = strides[others[0]], strides[others[1]]
            start_in, end_in = inside[surface], inside[surface + strides[axis]]
            interior = (position[:, others[0]] > 0) & (position[:, others[1]] > 0)
            cell = surface[(start_in != end_in) & interior]
            ring = torch.stack([cell - s - t, cell - s, cell - t, cell], dim=1)
            ring_rank = cell_rank(ring).long()
            # y edges point down: their first end is the upper one, and they sort before z and x edges
            first = cell + strides[1] if axis == 1 else cell
            keys.append(first * 3 + (2, 0, 1)[axis])
            cubes.append(ring_rank)
            edges.append(torch.tensor(edge_ids, device=cell.device).expand(len(cell), 4))
            flips.append(inside[first])
        key, cube, edge, flip = map(torch.cat, (keys, cubes, edges, flips))
        order = torch.argsort(key)
        order = torch.cat([order[~flip[order]], order[flip[order]]])
        cube, edge, flip = cube[order], edge[order], flip[order]
        patch = self.table["edge_patch"][used[cube], edge]
        vertex = base[cube] + patch
        outward = torch.tensor([0, 1, 3, 2], device=vertex.device)
        inward = torch.tensor([2, 3, 1, 0], device=vertex.device)
        turn = torch.where(flip[:, None], inward, outward)
        return vertex.gather(1, turn), cube.gather(1, turn)

    @staticmethod
    def _split(loops: Tensor, gamma: Tensor) -> Tensor:
        """Two triangles per quad along the diagonal with the larger product of gammas."""
        even = gamma[:, 0] * gamma[:, 2] > gamma[:, 1] * gamma[:, 3]
        p0, p1, p2, p3 = loops.unbind(1)
        first = torch.stack([p0, p1, p2, p0, p2, p3], dim=1)
        second = torch.stack([p0, p1, p3, p3, p1, p2], dim=1)
        return torch.where(even[:, None], first, second).reshape(-1, 3)

    @staticmethod
    def _split_training(dual: Tensor, loops: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Four triangles per quad around a weighted centre, through which gamma gets its gradient."""
        even = (gamma[:, 0] * gamma[:, 2])[:, None]
        odd = (gamma[:, 1] * gamma[:, 3])[:, None]
        p0, p1, p2, p3 = dual[loops].unbind(1)
        center = ((p0 + p2) / 2 * even + (p1 + p3) / 2 * odd) / (even + odd + 1e-8)
        index = len(dual) + torch.arange(len(loops), device=loops.device)
        ahead = loops.roll(-1, dims=1)
        faces = torch.stack([loops, ahead, index[:, None].expand(-1, 4)], dim=2)
        return torch.cat([dual, center]), faces.reshape(-1, 3)

    @staticmethod
    def _deviation(distance: Tensor, vertex: Tensor, count: int) -> Tensor:
        """Mean absolute deviation of the distances of a dual vertex to its edge crossings."""
        size = distance.new_zeros(count).index_add(0, vertex, torch.ones_like(distance))
        mean = distance.new_zeros(count).index_add(0, vertex, distance) / size.clamp(min=1)
        return (distance - mean[vertex]).abs().mean()

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
