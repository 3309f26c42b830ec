"""Surface fields: what the SLAT encoder reads and its decoders must give back.

One route for every mesh, closed or not: exact distances to the triangles on a fine lattice near the surface,
then a flood from outside decides what is inside. The surface that comes out lies `SHELL` fine cells outside
the triangles wherever the flood can reach, so it is always closed, a sheet becomes a thin plate, overlapping
parts merge, and cavities that the outside cannot reach are solid. Runs on CPU and CUDA; the only loops are over
passes that bound memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from gap3d_app.geometry.cube_tables import CORNERS
from gap3d_app.geometry.flexicubes import extract
from gap3d_app.render.mesh import passes
from gap3d_app.values import GREY, Mesh

SHELL = 0.75  # fine cells between the triangles and the surface that is returned
BAND = 1.8  # fine cells searched around the triangles: SHELL + 1, so both ends of a crossed edge are known
LONGEST_EDGE = 8.0  # fine cells; longer triangles are cut so that their boxes stay tight
PAIRS_PER_PASS = {"cpu": 1 << 20, "cuda": 1 << 23}
UNSEEN = torch.iinfo(torch.int64).max
NO_TRIANGLE = -1


@dataclass
class SurfaceFields:
    """A surface on the lattice corners of the voxels that it crosses.

    Corner c of a voxel is offset (i, j, k) with c = (i * 5 + j) * 5 + k, in steps of 1/4 voxel.

    Attributes:
        coords: [V, 3] int16 voxel coordinates, in lexicographic order.
        sdf: [V, 125] float16 signed distance in coarse voxels, negative inside, clipped to [-1, 1].
        colors: [V, 125, 3] uint8 sRGB colour of the nearest surface point.
        resolution: coarse voxels per axis of the cube [-0.5, 0.5]^3.
        fine: fine cells per voxel edge.
    """

    coords: Tensor
    sdf: Tensor
    colors: Tensor
    resolution: int = 32
    fine: int = 4

    def __len__(self) -> int:
        return self.coords.shape[0]


def surface_fields(
    mesh: Mesh, resolution: int = 32, fine: int = 4, device: str | torch.device | None = None
) -> SurfaceFields:
    """Sample the signed distance and the colours of a mesh.

    Args:
        mesh: any triangles inside the unit cube; vertices closer than one fine cell to its sides are moved
            inwards. Without colours it is light grey.
        resolution, fine: coarse voxels per axis, fine cells per voxel edge.
        device: where to compute; default where the mesh is.

    Raises:
        ValueError: the mesh has no faces.
    """
    return surface_fields_of([mesh if device is None else mesh.to(device)], resolution, fine)[0]


def surface_fields_of(meshes: list[Mesh], resolution: int = 32, fine: int = 4) -> list[SurfaceFields]:
    """`surface_fields` of several meshes on one device at once: a GPU has as many launches and waits as for one.

    Lattices lie one behind the other; lattice vertex i of mesh m is number m * P^3 + i.
    """
    if not all(len(mesh.faces) for mesh in meshes):
        raise ValueError("a mesh without faces has no surface fields")
    cells = resolution * fine
    padded = cells + 3  # lattice vertices per axis, with one more on either side for the flood
    parts = [_cut_triangles(mesh, cells) for mesh in meshes]
    triangles, colors = (torch.cat(part) for part in zip(*parts, strict=True))
    device = triangles.device
    count = torch.tensor([len(part) for part, _ in parts], device=device)
    owner = torch.repeat_interleave(count, output_size=len(triangles))
    frames = _local_frames(triangles)
    best = _nearest_triangles(triangles, frames, owner, len(meshes), padded)

    seen = best != UNSEEN
    squared = (best >> 32).int().view(torch.float32)  # NaN where unseen, which compares as false
    nearest = torch.where(seen, best.int(), NO_TRIANGLE)
    outside = _flood(~(squared <= SHELL * SHELL), padded)
    # the shell's outer half is negative only by what is left of the shell, its inner half by both
    outer = outside | _outer_half(squared, nearest, outside, triangles, frames, padded)
    negative = (~outside).view(-1, padded, padded, padded)[:, 1:-1, 1:-1, 1:-1]
    coords = _crossed_voxels(negative, fine)

    corner = torch.arange(fine + 1, device=device)
    offset = torch.cartesian_prod(corner, corner, corner)
    index = _flat(coords[:, None, 1:] * fine + offset + 1, padded) + coords[:, :1] * padded**3  # [V, 125]
    needed = torch.zeros_like(outside)
    needed[index.reshape(-1)] = True
    needed = needed.nonzero(as_tuple=True)[0]
    _spread(nearest, needed[nearest[needed] == NO_TRIANGLE], padded, fine)
    length, color = _measure(needed, nearest[needed], triangles, colors, frames, padded)

    slot = torch.empty(len(outside), dtype=torch.int32, device=device)
    slot[needed] = torch.arange(needed.shape[0], dtype=torch.int32, device=device)
    slot = slot.index_select(0, index.reshape(-1))
    signed = torch.where(outer[needed], length, -length) - SHELL
    sdf = (signed / fine).clamp(-1, 1).half().index_select(0, slot).view(len(coords), -1)
    color = (color.clamp(0, 1) * 255).round().to(torch.uint8).index_select(0, slot).view(len(coords), -1, 3)
    lengths = torch.bincount(coords[:, 0], minlength=len(meshes)).tolist()
    split = zip(*(values.split(lengths) for values in (coords[:, 1:].to(torch.int16), sdf, color)), strict=True)
    return [SurfaceFields(*values, resolution=resolution, fine=fine) for values in split]


def fields_to_mesh(fields: SurfaceFields) -> Mesh:
    """Extract the surface again (tests, metrics): the inverse of `surface_fields` up to the lattice's detail.

    Every fine cell of the active voxels becomes one FlexiCubes cube without deformation.
    """
    cube, features = fields_to_cubes(fields)
    return extract(cube, features, fields.resolution * fields.fine, solid=True).to_mesh()


def fields_to_cubes(fields: SurfaceFields) -> tuple[Tensor, Tensor]:
    """The fine cells as FlexiCubes input: coords [V*64, 3] int32 and feats [V*64, 101] float32.

    Layout of feats (trellis.md section 6.5): 8 sdf, 24 deformation, 21 weights, 48 colour and normal.
    """
    fine, side = fields.fine, fields.fine + 1
    count, device = len(fields), fields.coords.device
    corner = torch.from_numpy(CORNERS).to(device)
    cell = torch.arange(fine, device=device)
    cell = torch.cartesian_prod(cell, cell, cell)
    pick = cell[:, None] + corner
    pick = (pick[..., 0] * side + pick[..., 1]) * side + pick[..., 2]  # [64, 8]
    coords = (fields.coords.int()[:, None] * fine + cell).reshape(-1, 3).int()
    feats = torch.zeros(count * fine**3, 101, device=device)
    # the extraction subtracts one over its resolution from what a network emits
    bias = 1 / (fields.resolution * fine)
    feats[:, :8] = fields.sdf.float()[:, pick].reshape(-1, 8) * fine + bias
    rgb = fields.colors.float()[:, pick].reshape(-1, 8, 3) / 255
    color = torch.cat([rgb, torch.zeros_like(rgb)], dim=-1)
    feats[:, 53:] = torch.logit(color.clamp(1e-4, 1 - 1e-4)).reshape(-1, 48)
    return coords, feats


def _flat(position: Tensor, padded: int) -> Tensor:
    return (position[..., 0] * padded + position[..., 1]) * padded + position[..., 2]


def _unflat(index: Tensor, padded: int) -> Tensor:
    """[U, 3] float32 positions in their lattice; float32 division is exact below 2^23 vertices."""
    index = (index % padded**3).float()
    row = ((index + 0.5) / padded).floor()
    layer = ((row + 0.5) / padded).floor()
    return torch.stack([layer, row - layer * padded, index - row * padded], dim=-1)


def _cut_triangles(mesh: Mesh, cells: int) -> tuple[Tensor, Tensor]:
    """Corners [T, 3, 3] in padded lattice units and corner colours [T, 3, 3], long triangles cut into n^2."""
    vertices = ((mesh.vertices.float() + 0.5) * cells).clamp(1, cells - 1) + 1
    corners = vertices[mesh.faces]
    if mesh.colors is None:
        colors = torch.full_like(corners, GREY)
    else:
        colors = mesh.colors.float()[mesh.faces]
    edges = (corners - corners.roll(1, dims=1)).norm(dim=-1)
    parts = (edges.amax(1) / LONGEST_EDGE).ceil().clamp(min=1).long()
    count = parts * parts
    owner = torch.repeat_interleave(count)
    piece = torch.arange(owner.shape[0], device=owner.device) - (count.cumsum(0) - count)[owner]
    # row r from the first corner holds 2r + 1 pieces; odd ones point back
    row = (piece.float() + 0.5).sqrt().long()
    column = piece - row * row
    half, odd = column // 2, column % 2
    steps = torch.stack(
        [
            torch.stack([row, half], -1),
            torch.stack([row + 1, half + odd], -1),
            torch.stack([row + 1 - odd, half + 1], -1),
        ],
        dim=1,
    )
    share = steps.float() / parts[owner][:, None, None]
    weight = torch.stack([1 - share[..., 0], share[..., 0] - share[..., 1], share[..., 1]], dim=-1)
    return weight @ corners[owner], weight @ colors[owner]


def _local_frames(triangles: Tensor) -> Tensor:
    """[T, 12] per triangle: axes along the first edge, in the plane, and normal; then b_x, c_x, c_y.

    In these axes, from the first corner, the triangle is (0, 0), (b_x, 0), (c_x, c_y) with c_y >= 0.
    Triangles without area keep a right frame: a segment (or point) with any plane through it.
    """
    first, second = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    along = F.normalize(first, dim=-1, eps=1e-9)
    missing = first.norm(dim=-1, keepdim=True) < 1e-6
    along = torch.where(missing, F.normalize(second, dim=-1, eps=1e-9), along)
    along = torch.where(along.norm(dim=-1, keepdim=True) < 0.5, along.new_tensor([1.0, 0, 0]), along)
    across = second - (second * along).sum(-1, keepdim=True) * along
    # any direction across the edge will do for a sliver: take the axis that it follows least
    axis = torch.eye(3, device=along.device)[along.abs().argmin(-1)]
    other = F.normalize(axis - (axis * along).sum(-1, keepdim=True) * along, dim=-1)
    across = torch.where(across.norm(dim=-1, keepdim=True) < 1e-5, other, F.normalize(across, dim=-1, eps=1e-9))
    normal = torch.linalg.cross(along, across)
    plane = torch.stack([(first * along).sum(-1), (second * along).sum(-1), (second * across).sum(-1)], dim=-1)
    return torch.cat([along, across, normal, plane], dim=-1)


def _planar_distance(x: Tensor, y: Tensor, bx: Tensor, cx: Tensor, cy: Tensor) -> Tensor:
    """Squared distance in the plane from (x, y) to the triangle (0, 0), (bx, 0), (cx, cy); 0 inside."""
    tiny = 1e-12
    step = (x / bx.clamp(min=tiny)).clamp(0, 1)
    square = (x - step * bx).square() + y.square()
    step = ((x * cx + y * cy) / (cx * cx + cy * cy).clamp(min=tiny)).clamp(0, 1)
    square = torch.minimum(square, (x - step * cx).square() + (y - step * cy).square())
    ex, px = cx - bx, x - bx
    step = ((px * ex + y * cy) / (ex * ex + cy * cy).clamp(min=tiny)).clamp(0, 1)
    square = torch.minimum(square, (px - step * ex).square() + (y - step * cy).square())
    inside = (y >= 0) & (y * cx <= x * cy) & (px * cy <= y * ex)
    return torch.where(inside, 0.0, square)


def _nearest_triangles(triangles: Tensor, frames: Tensor, mesh: Tensor, meshes: int, padded: int) -> Tensor:
    """[meshes * P^3] int64: bits of the squared distance (fine cells) over the triangle's number; UNSEEN off the band.

    mesh: [T] which one a triangle belongs to.
    """
    device = triangles.device
    best = torch.full((meshes * padded**3,), UNSEEN, dtype=torch.int64, device=device)
    low = (triangles.amin(1) - BAND).ceil().clamp(min=1).long()
    high = (triangles.amax(1) + BAND).floor().clamp(max=padded - 2).long()
    extent = high - low + 1
    count = extent.prod(-1)
    # position along the local axes = slopes * offset from the box corner + start
    start = (frames[:, :9].reshape(-1, 3, 3) @ (low - triangles[:, 0])[..., None])[..., 0]
    box = torch.cat([frames[:, 6:9], start[:, 2:], extent[:, 1:].float()], dim=-1)
    table = torch.cat([frames[:, :6], start[:, :2], frames[:, 9:]], dim=-1)
    corner = _flat(low, padded) + mesh * padded**3
    for first, last in passes(count, PAIRS_PER_PASS[device.type]):
        part = count[first:last]
        owner = torch.repeat_interleave(part)
        index = torch.arange(owner.shape[0], device=device) - (part.cumsum(0) - part).index_select(0, owner)
        owner += first
        nx, ny, nz, height, wide, deep = box.index_select(0, owner).unbind(-1)
        # boxes are at most about 13 cells wide, so float32 division of the index is exact
        index = index.float()
        ij = ((index + 0.5) / deep).floor()
        k = index - ij * deep
        i = ((ij + 0.5) / wide).floor()
        j = ij - i * wide
        height = nx * i + ny * j + nz * k + height
        kept = (height.abs() <= BAND).nonzero(as_tuple=True)[0]
        owner, height, i, j, k = (v.index_select(0, kept) for v in (owner, height, i, j, k))
        ax, ay, az, bx, by, bz, x, y, *plane = table.index_select(0, owner).unbind(-1)
        x = ax * i + ay * j + az * k + x
        y = bx * i + by * j + bz * k + y
        square = height.square() + _planar_distance(x, y, *plane)
        kept = (square <= BAND * BAND).nonzero(as_tuple=True)[0]
        owner, square, i, j, k = (v.index_select(0, kept) for v in (owner, square, i, j, k))
        vertex = corner.index_select(0, owner) + ((i * padded + j) * padded + k).long()
        best.scatter_reduce_(0, vertex, (square.view(torch.int32).long() << 32) | owner, "amin")
    return best


def _flood(free: Tensor, padded: int) -> Tensor:
    """[M * P^3] bool: free lattice vertices that their cube's outside reaches along lattice edges.

    The labelling runs on the CPU for CUDA tensors too: it takes some 20 ms of one core a cube, moves 2 MB each way,
    and leaves the GPU to the other workers.
    """
    grids = free.view(-1, padded, padded, padded).cpu().numpy()
    labels = (ndimage.label(grid)[0] for grid in grids)
    return torch.from_numpy(np.stack([label == label[0, 0, 0] for label in labels])).view(-1).to(free.device)


def _outer_half(
    squared: Tensor, nearest: Tensor, outside: Tensor, triangles: Tensor, frames: Tensor, padded: int
) -> Tensor:
    """[M * P^3] bool: vertices of the shell on the same side of the triangles as a flooded neighbour."""
    shell = (squared <= SHELL * SHELL).nonzero(as_tuple=True)[0]
    reached = outside & (nearest != NO_TRIANGLE)
    result = torch.zeros_like(outside)
    pairs = []
    for step in (padded * padded, -padded * padded, padded, -padded, 1, -1):
        own = shell.index_select(0, reached.index_select(0, shell + step).nonzero(as_tuple=True)[0])
        pairs.append(torch.stack([own, own + step]))
    pairs = torch.cat(pairs, dim=1)
    offset = _offsets(pairs.reshape(-1), nearest, triangles, frames, padded)
    own, there = offset.reshape(2, -1, 3)
    # a right angle counts: in a valley the neighbour's nearest triangle may be the other slope
    same = own[:, 0] * there[:, 0] + own[:, 1] * there[:, 1] + own[:, 2] * there[:, 2] > -1e-4
    result[pairs[0, same]] = True
    return result


def _offsets(index: Tensor, nearest: Tensor, triangles: Tensor, frames: Tensor, padded: int) -> Tensor:
    """[U, 3] vectors from the surface to lattice vertices whose triangle is known."""
    number = nearest.index_select(0, index)
    position = _unflat(index, padded)
    weight = _weights(position, number, triangles, frames)
    return position - _blend(weight, triangles, number)


def _blend(weight: Tensor, values: Tensor, number: Tensor) -> Tensor:
    """[U, 3] corner values [T, 3, 3] of triangles `number` [U] under barycentric weights."""
    picked = values.reshape(-1, 9).index_select(0, number)
    parts = [picked[:, 3 * k : 3 * k + 3] * weight[:, k : k + 1] for k in range(3)]
    return parts[0] + parts[1] + parts[2]


def _weights(position: Tensor, number: Tensor, triangles: Tensor, frames: Tensor) -> Tensor:
    """[U, 3] barycentric weights of the point of triangle `number` nearest to `position` [U, 3]."""
    offset = position - triangles[:, 0].index_select(0, number)
    frame = frames.index_select(0, number)
    x = frame[:, 0] * offset[:, 0] + frame[:, 1] * offset[:, 1] + frame[:, 2] * offset[:, 2]
    y = frame[:, 3] * offset[:, 0] + frame[:, 4] * offset[:, 1] + frame[:, 5] * offset[:, 2]
    bx, cx, cy = frame[:, 9], frame[:, 10], frame[:, 11]
    tiny = 1e-12
    ex, px = cx - bx, x - bx
    ab = (x / bx.clamp(min=tiny)).clamp(0, 1)
    ac = ((x * cx + y * cy) / (cx * cx + cy * cy).clamp(min=tiny)).clamp(0, 1)
    bc = ((px * ex + y * cy) / (ex * ex + cy * cy).clamp(min=tiny)).clamp(0, 1)
    third = y / cy.clamp(min=tiny)
    second = (x - third * cx) / bx.clamp(min=tiny)
    inside = (y >= 0) & (y * cx <= x * cy) & (px * cy <= y * ex) & (cy * bx > tiny)
    # nearest of the three edges unless inside
    on_ab = (x - ab * bx).square() + y.square()
    on_ac = (x - ac * cx).square() + (y - ac * cy).square()
    on_bc = (px - bc * ex).square() + (y - bc * cy).square()
    use_ab, use_ac = (on_ab <= on_ac) & (on_ab <= on_bc), on_ac <= on_bc
    second = torch.where(inside, second, torch.where(use_ab, ab, torch.where(use_ac, 0.0, 1 - bc)))
    third = torch.where(inside, third, torch.where(use_ab, 0.0, torch.where(use_ac, ac, bc)))
    return torch.stack([1 - second - third, second, third], dim=-1)


def _crossed_voxels(negative: Tensor, fine: int) -> Tensor:
    """[V, 4] int64 lattices and voxels among whose lattice corners the sign changes, lexicographic."""
    value = negative.to(torch.float16 if negative.is_cuda else torch.float32)[:, None]
    high = F.max_pool3d(value, fine + 1, stride=fine)
    low = -F.max_pool3d(-value, fine + 1, stride=fine)
    return (high != low)[:, 0].nonzero()


def _spread(nearest: Tensor, unknown: Tensor, padded: int, steps: int) -> None:
    """Give lattice vertices off the band the triangle of a neighbour, `steps` times along each axis in turn."""
    for _ in range(steps):
        for stride in (padded * padded, padded, 1):
            own = nearest.index_select(0, unknown)
            left = nearest.index_select(0, unknown - stride)
            right = nearest.index_select(0, unknown + stride)
            found = torch.where(left == NO_TRIANGLE, right, left)
            nearest[unknown] = torch.where(own == NO_TRIANGLE, found, own)


def _measure(
    index: Tensor, number: Tensor, triangles: Tensor, colors: Tensor, frames: Tensor, padded: int
) -> tuple[Tensor, Tensor]:
    """Distance [U] in fine cells and colour [U, 3] of the nearest point on each vertex's triangle."""
    number = number.clamp(min=0)
    position = _unflat(index, padded)
    weight = _weights(position, number, triangles, frames)
    distance = (position - _blend(weight, triangles, number)).square()
    return (distance[:, 0] + distance[:, 1] + distance[:, 2]).sqrt(), _blend(weight, colors, number)
