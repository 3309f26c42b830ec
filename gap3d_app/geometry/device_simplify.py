"""Quadric edge collapse of a closed mesh in parallel rounds, in torch on any device.

One after the other, collapses from half a million faces take half a second on a processor. Here every round makes
all collapses at once that are the cheapest of their neighbourhood: no face touches two of them, so each can be judged
on the mesh as it was. What `gap3d_app.geometry.simplify` makes in one go is its slow twin; its last stretch, where
few faces are left and their order counts, stays with that one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 100
SMALLEST_GAIN = 0.005
"""A round that removes less than this share of the faces is the last."""
LEAST_COSINE = 0.3
"""Between a face's normal before and after a collapse."""
PASSES = 3
"""Choices of edges per round."""
FAILURE_COST = 8.0
"""By which every failure at an end raises an edge's cost."""
NONE = 1 << 40
"""A rank beyond every edge's."""
FRACTION = 2.0**44
"""Quadrics are summed as whole parts of the largest area, so that the order of threads does not matter."""


def collapse(vertices: Tensor, faces: Tensor, target_faces: int) -> tuple[Tensor, Tensor]:
    """Collapse edges until about `target_faces` are left; a closed mesh stays closed.

    Args:
        vertices: [V, 3] float; faces: [F, 3] int64, closed: every edge belongs to two faces that run through it in
            opposite directions (see `is_closed`).
        target_faces: F' to stop at. Fewer collapses happen where none is left that keeps the surface sound.

    Returns:
        vertices [V', 3] float32 and faces [F', 3] int64; the same input gives the same output.
    """
    origin = vertices.mean(0, dtype=torch.float64)
    place = vertices.double() - origin
    quadric = vertex_quadrics(place, faces)
    failures = place.new_zeros(len(place))
    for _ in range(ROUNDS):
        surplus = len(faces) - target_faces
        if surplus < 2:
            break
        chosen = _independent(place, faces, quadric, failures, surplus // 2)
        if 2 * len(chosen.keep) < SMALLEST_GAIN * len(faces):
            break
        place[chosen.keep] = chosen.place
        quadric[chosen.keep] += quadric[chosen.drop]
        failures[chosen.keep] = 0
        target = torch.arange(len(place), device=faces.device)
        target[chosen.drop] = chosen.keep
        faces = target[faces]
        a, b, c = faces.unbind(1)
        faces = faces[(a != b) & (b != c) & (c != a)]
        faces, place, quadric, failures = _compact(faces, place, quadric, failures)
    return (place + origin).float(), faces


def keep_main_parts(vertices: Tensor, faces: Tensor, *values: Tensor, min_area: float = 0.005) -> tuple[Tensor, ...]:
    """`simplify.keep_main_parts` on tensors: without connected parts below a share of the whole area."""
    a, b, c = faces.unbind(1)
    faces = faces[(a != b) & (b != c) & (c != a)]
    if len(faces) == 0:
        return faces.new_zeros(0, 3).to(vertices.dtype), faces, *(value[:0] for value in values)
    part = part_of_vertices(faces, len(vertices))[faces[:, 0]]
    a, b, c = vertices.double()[faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    share = (area * (FRACTION / area.sum().clamp(min=1e-30))).round().long()
    total = torch.zeros(len(vertices), dtype=torch.int64, device=faces.device).index_add_(0, part, share)
    keep = total >= min_area * FRACTION
    keep[total.argmax()] = True
    faces, vertices, *values = _compact(faces[keep[part]], vertices, *values)
    return vertices, faces, *values


def part_of_vertices(faces: Tensor, count: int) -> Tensor:
    """[count] int64: the least vertex of the connected part that a vertex is in.

    Every round takes the least label of the faces around, hands it to the vertex that the old label names, and jumps
    from label to label, so that chains shorten by more than half.
    """
    label = torch.arange(count, device=faces.device)
    flat = faces.reshape(-1)
    while True:
        least = label[faces].amin(1).repeat_interleave(3)
        lower = label.scatter_reduce(0, flat, least, "amin")
        lower = lower.scatter_reduce(0, label[flat], least, "amin")
        lower = lower[lower]
        if torch.equal(lower, label):
            return label
        label = lower


def is_closed(faces: Tensor) -> bool:
    """`topology.is_watertight` on a tensor."""
    if len(faces) == 0:
        return False
    start, end = _directed(faces)
    if bool((start == end).any()):
        return False
    stride = int(faces.max()) + 1
    forward, backward = (start * stride + end).sort().values, (end * stride + start).sort().values
    return bool((forward[1:] != forward[:-1]).all() & (forward == backward).all())


def vertex_quadrics(vertices: Tensor, faces: Tensor) -> Tensor:
    """[V, 10] float64 upper triangles of sum area (n, d)(n, d)^T over the planes n.p + d = 0 of adjacent faces."""
    a, b, c = vertices[faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    area = cross.norm(dim=1, keepdim=True)
    normal = cross / area.clamp(min=1e-30)
    plane = torch.cat([normal, -(normal * a).sum(1, keepdim=True)], dim=1)
    row, column = torch.triu_indices(4, 4, device=faces.device)
    scale = FRACTION / area.amax().clamp(min=1e-30)
    share = (plane[:, row] * plane[:, column] * (area * scale)).round().long()
    total = torch.zeros(len(vertices), 10, dtype=torch.int64, device=faces.device)
    for corner in range(3):
        total.index_add_(0, faces[:, corner], share)
    return total.double() / scale


@dataclass
class _Collapses:
    """Edges [N] to collapse: `drop` goes into `keep`, which moves to `place` [N, 3]."""

    keep: Tensor
    drop: Tensor
    place: Tensor

    def where(self, kept: Tensor) -> _Collapses:
        return _Collapses(self.keep[kept], self.drop[kept], self.place[kept])


def _directed(faces: Tensor) -> tuple[Tensor, Tensor]:
    return faces.reshape(-1), faces[:, [1, 2, 0]].reshape(-1)


def _independent(vertices: Tensor, faces: Tensor, quadric: Tensor, failures: Tensor, most: int) -> _Collapses:
    """At most `most` sound collapses whose ends are neither shared nor neighbours.

    Adds one to `failures` [V] at both ends of edges that were the cheapest around but not sound: these cost more from
    then on, so that they do not stand in the way of their neighbours for ever.
    """
    start, end = _directed(faces)
    once = start < end
    edge = torch.stack([start[once], end[once]], dim=1)
    place, cost = _best_places(vertices, quadric, edge)
    cost = cost * FAILURE_COST ** (failures[edge[:, 0]] + failures[edge[:, 1]])
    # Rank by cost, ties by number: one whole number that a minimum over neighbours can carry.
    order = cost.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    first = _cheapest_around(edge, rank, len(vertices))
    found = _Collapses(edge[first, 0], edge[first, 1], place[first])
    sound = _keeps_topology(found, start, end, len(vertices)) & ~_turns_faces(found, vertices, faces)
    failures[found.keep[~sound]] += 1
    failures[found.drop[~sound]] += 1
    cheapest = rank[first].masked_fill(~sound, NONE).argsort()[: min(most, int(sound.sum()))]
    return found.where(cheapest)


def _cheapest_around(edge: Tensor, rank: Tensor, count: int) -> Tensor:
    """[N] numbers of edges [E, 2] that are the least of all that touch their ends or a neighbour of these.

    Later passes choose among what the choices before leave free.
    """
    low, high = edge.unbind(1)
    taken = torch.zeros(count, dtype=torch.bool, device=edge.device)
    chosen = torch.zeros(len(edge), dtype=torch.bool, device=edge.device)
    for _ in range(PASSES):
        here = rank.masked_fill(taken[low] | taken[high], NONE)
        near = torch.full((count,), NONE, dtype=torch.int64, device=edge.device)
        near = near.scatter_reduce(0, low, here, "amin").scatter_reduce(0, high, here, "amin")
        ring = near.scatter_reduce(0, low, near[high], "amin").scatter_reduce(0, high, near[low], "amin")
        new = (here < NONE) & (here == ring[low]) & (here == ring[high])
        chosen |= new
        ends = torch.zeros_like(taken)
        ends[edge[new].reshape(-1)] = True
        taken |= ends
        taken[high[ends[low]]] = True
        taken[low[ends[high]]] = True
    return chosen.nonzero()[:, 0]


def _best_places(vertices: Tensor, quadric: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """[E, 3] where each edge's ends should meet, and [E] the cost: quadric error and a little of the edge's length.

    The least of the quadric is sought near the middle: flat and straight places leave it open along the surface.
    """
    a, b = vertices[edge[:, 0]], vertices[edge[:, 1]]
    middle, length = (a + b) / 2, (b - a).square().sum(1)
    total = quadric[edge[:, 0]] + quadric[edge[:, 1]]
    xx, xy, xz, xd, yy, yz, yd, zz, zd, dd = total.unbind(1)
    pull = 1e-3 * (xx + yy + zz) + 1e-30
    matrix = torch.stack([xx + pull, xy, xz, xy, yy + pull, yz, xz, yz, zz + pull], dim=1).view(-1, 3, 3)
    side = pull[:, None] * middle - torch.stack([xd, yd, zd], dim=1)
    place = _solved(matrix, side)
    strayed = (place - middle).square().sum(1) > length
    place = torch.where(strayed[:, None], middle, place)
    x, y, z = place.unbind(1)
    error = x * (xx * x + 2 * (xy * y + xz * z + xd)) + y * (yy * y + 2 * (yz * z + yd)) + z * (zz * z + 2 * zd) + dd
    return place, error.clamp(min=0) + 1e-3 * length * (xx + yy + zz)


def _solved(matrix: Tensor, side: Tensor) -> Tensor:
    """[E, 3] solutions by cofactors; batched solvers are slow on many tiny systems."""
    r0, r1, r2 = matrix.unbind(1)
    c0, c1, c2 = torch.linalg.cross(r1, r2), torch.linalg.cross(r2, r0), torch.linalg.cross(r0, r1)
    determinant = (r0 * c0).sum(1, keepdim=True)
    return (c0 * side[:, :1] + c1 * side[:, 1:2] + c2 * side[:, 2:]) / determinant.clamp(min=1e-300)


def _keeps_topology(found: _Collapses, start: Tensor, end: Tensor, count: int) -> Tensor:
    """[N] bool: false where a collapse would lay two sheets onto each other or close up a tetrahedron."""
    key = (start * count + end).sort().values
    first, degree = _neighbours(key, found.drop, count)
    owner = torch.repeat_interleave(degree)
    step = torch.arange(len(owner), device=owner.device) - (degree.cumsum(0) - degree)[owner]
    wanted = found.keep[owner] * count + key[first[owner] + step] % count
    at = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
    shared = torch.zeros_like(degree).index_add_(0, owner, (key[at] == wanted).long())
    return (shared == 2) & ((degree > 3) | (_neighbours(key, found.keep, count)[1] > 3))


def _neighbours(key: Tensor, vertex: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where the neighbours of vertices [N] begin among the sorted keys start * count + end, and how many they are."""
    first = torch.searchsorted(key, vertex * count)
    return first, torch.searchsorted(key, (vertex + 1) * count) - first


def _turns_faces(found: _Collapses, vertices: Tensor, faces: Tensor) -> Tensor:
    """[N] bool: whether a face that stays would turn over or lose its area."""
    number = torch.full((len(vertices),), -1, dtype=torch.int64, device=faces.device)
    number[found.keep] = number[found.drop] = torch.arange(len(found.keep), device=faces.device)
    part = number[faces]
    touched = ((part >= 0).sum(1) == 1).nonzero()[:, 0]
    part = part[touched]
    old = vertices[faces[touched]]
    new = torch.where((part >= 0)[..., None], found.place[part.clamp(min=0)], old)
    before, after = (torch.linalg.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]) for t in (old, new))
    size = before.norm(dim=1) * after.norm(dim=1)
    edges = (new - new.roll(1, dims=1)).square().sum((1, 2))
    thin = after.norm(dim=1) < 0.05 * edges  # 0.58 for a triangle of equal sides
    bad = ((before * after).sum(1) <= LEAST_COSINE * size) | (thin & (after.norm(dim=1) < before.norm(dim=1)))
    turned = torch.zeros(len(found.keep), dtype=torch.bool, device=faces.device)
    turned[part.amax(1)[bad]] = True
    return turned


def _compact(faces: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Faces and per-vertex values without vertices that no face uses."""
    used = torch.zeros(len(values[0]), dtype=torch.bool, device=faces.device)
    used[faces.reshape(-1)] = True
    index = used.long().cumsum(0) - 1
    return index[faces], *(value[used] for value in values)
