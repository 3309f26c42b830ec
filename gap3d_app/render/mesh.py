"""Triangle meshes to pictures: a batched z-buffer rasteriser in plain torch, the same on CPU and CUDA.

Every triangle of every view is expanded into the pixels of its screen bounding box (one flat list of
fragments), fragments outside the triangle are dropped, and a scatter-minimum over (depth, face) packed into
one 64-bit integer keeps the nearest one. The minimum does not depend on the order of fragments, so pictures
repeat exactly. There is no loop over triangles or views. Camera conventions: trellis.md section 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.render import with_nvdiffrast
from gap3d_app.values import GREY, Mesh

FRAGMENTS_PER_PASS = {"cpu": 1 << 21, "cuda": 1 << 24}
EDGE_TOLERANCE = 1e-5  # barycentric; a pixel on an edge belongs to both triangles and depth decides
FACE_BITS = 32
SHADINGS = ("lambert", "albedo", "normal", "depth")


@dataclass
class Raster:
    """What every pixel of K views sees.

    Attributes:
        face_id: [K, S, S] int64, nearest face, -1 where there is none.
        bary: [K, S, S, 3] float32, perspective-correct weights of the face's corners, 0 where there is none.
        depth: [K, S, S] float32, camera z in object units, 0 where there is none.
    """

    face_id: Tensor
    bary: Tensor
    depth: Tensor

    @property
    def mask(self) -> Tensor:
        """[K, S, S] bool, true where a face is seen."""
        return self.face_id >= 0


def rasterize(
    vertices: Tensor,
    faces: Tensor,
    extrinsics: Tensor,
    intrinsics: Tensor,
    size: int,
    near: float = 0.05,
) -> Raster:
    """Find the nearest triangle behind every pixel centre: by nvdiffrast on CUDA where it is installed, else in torch.

    Args:
        vertices: [V, 3] float, world space.
        faces: [F, 3] int64; both sides are visible.
        extrinsics: [K, 4, 4] world to camera, OpenCV axes.
        intrinsics: [K, 3, 3] for an image of size 1.
        size: pixels S per side.
        near: triangles that reach closer than this camera z are left out, object units.
    """
    if len(faces) and with_nvdiffrast.applies(vertices, size):
        cameras = (extrinsics.to(vertices.device), intrinsics.to(vertices.device))
        return Raster(*with_nvdiffrast.rasterize(vertices, faces, *cameras, size, near))
    return rasterize_in_torch(vertices, faces, extrinsics, intrinsics, size, near)


def rasterize_in_torch(
    vertices: Tensor, faces: Tensor, extrinsics: Tensor, intrinsics: Tensor, size: int, near: float = 0.05
) -> Raster:
    """`rasterize` by this file's own z-buffer."""
    device, views, pixels = vertices.device, extrinsics.shape[0], size * size
    best = torch.full((views * pixels,), torch.iinfo(torch.int64).max, dtype=torch.int64, device=device)
    setup = None
    if faces.shape[0]:
        setup = _setup_triangles(vertices, faces, extrinsics.to(device), intrinsics.to(device), size, near)
    if setup is None or setup.count.numel() == 0:
        return Raster(
            face_id=best.new_full((views, size, size), -1),
            bary=vertices.new_zeros(views, size, size, 3, dtype=torch.float32),
            depth=vertices.new_zeros(views, size, size, dtype=torch.float32),
        )
    for first, last in passes(setup.count, FRAGMENTS_PER_PASS[device.type]):
        _splat(setup, first, last, best, size)
    return _resolve(setup, best, views, size)


@dataclass
class _Setup:
    """Screen-space triangles that cover at least one pixel centre's box, T of them over all views.

    `plane` [T, 3, 3] holds, for (barycentric 1, barycentric 2, 1/z), the slopes along x and y and the value
    at the first pixel of the box; working relative to that pixel keeps float32 exact enough.
    """

    view: Tensor
    face: Tensor
    x0: Tensor
    y0: Tensor
    width: Tensor
    count: Tensor
    plane: Tensor
    inverse_z: Tensor


def _setup_triangles(
    vertices: Tensor, faces: Tensor, extrinsics: Tensor, intrinsics: Tensor, size: int, near: float
) -> _Setup:
    vertices = vertices.float()
    camera = vertices @ extrinsics[:, :3, :3].transpose(1, 2) + extrinsics[:, None, :3, 3]
    z = camera[..., 2].clamp(min=1e-6)
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=-1)[:, None]
    screen = (camera[..., :2] / z[..., None] * focal + intrinsics[:, None, :2, 2]) * size - 0.5
    # rows (x, y, z) of the corners; index_select is several times faster than indexing on the CPU
    corners = torch.cat([screen, camera[..., 2:]], -1).index_select(1, faces.reshape(-1))
    corners = corners.reshape(camera.shape[0], -1, 3, 3)
    corners, corner_z = corners[..., :2], corners[..., 2]  # pixel centres are at integers
    low = corners.amin(2).clamp(-1, size).ceil().clamp(min=0)
    high = corners.amax(2).clamp(-1, size).floor().clamp(max=size - 1)
    extent = (high - low + 1).clamp(min=0)
    edge1, edge2 = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    area = edge1[..., 0] * edge2[..., 1] - edge1[..., 1] * edge2[..., 0]
    seen = (extent.prod(-1) > 0) & (corner_z.amin(-1) > near) & (area.abs() > 1e-12)
    view, face = seen.nonzero(as_tuple=True)

    low, extent = low[view, face], extent[view, face].long()
    edge1, edge2, area = edge1[view, face], edge2[view, face], area[view, face][:, None]
    offset = low - corners[view, face, 0]
    inverse_z = 1.0 / corner_z[view, face]
    slope1 = torch.stack([edge2[:, 1], -edge2[:, 0]], -1) / area
    slope2 = torch.stack([-edge1[:, 1], edge1[:, 0]], -1) / area
    weight1 = torch.cat([slope1, (slope1 * offset).sum(-1, keepdim=True)], -1)
    weight2 = torch.cat([slope2, (slope2 * offset).sum(-1, keepdim=True)], -1)
    rise = inverse_z[:, 1:] - inverse_z[:, :1]
    depth = weight1 * rise[:, :1] + weight2 * rise[:, 1:]
    depth[:, 2] += inverse_z[:, 0]
    low = low.long()
    return _Setup(
        view=view,
        face=face,
        x0=low[:, 0],
        y0=low[:, 1],
        width=extent[:, 0],
        count=extent[:, 0] * extent[:, 1],
        plane=torch.stack([weight1, weight2, depth], dim=1),
        inverse_z=inverse_z,
    )


def passes(count: Tensor, limit: int) -> list[tuple[int, int]]:
    """Ranges of things [N] that count at most `limit` together (or one thing alone); `count` is not negative."""
    total = count.cumsum(0)
    if int(total[-1]) <= limit:
        return [(0, count.shape[0])]
    ends = total.cpu()
    ranges, first, done = [], 0, 0
    while first < count.shape[0]:
        last = max(first + 1, int(torch.searchsorted(ends, done + limit, right=True)))
        ranges.append((first, last))
        first, done = last, int(ends[last - 1])
    return ranges


def _splat(setup: _Setup, first: int, last: int, best: Tensor, size: int) -> None:
    """Lower `best` [K*S*S] by the fragments of triangles first..last-1."""
    count = setup.count[first:last]
    owner = torch.repeat_interleave(count)
    start = count.cumsum(0) - count
    index = torch.arange(owner.shape[0], device=owner.device) - start.index_select(0, owner)
    width = setup.width[first:last].index_select(0, owner)
    if size <= 2048:  # float32 division is exact for indices below 2^23, and several times faster
        row = ((index.float() + 0.5) / width.float()).long()
    else:
        row = torch.div(index, width, rounding_mode="floor")
    column = index - row * width
    plane = setup.plane[first:last].reshape(-1, 9).index_select(0, owner)
    x, y = column.float(), row.float()
    weight1 = plane[:, 0] * x + plane[:, 1] * y + plane[:, 2]
    weight2 = plane[:, 3] * x + plane[:, 4] * y + plane[:, 5]
    inside = (torch.minimum(weight1, weight2) >= -EDGE_TOLERANCE) & (weight1 + weight2 <= 1 + EDGE_TOLERANCE)
    kept = inside.nonzero(as_tuple=True)[0]
    plane, owner = plane.index_select(0, kept), owner.index_select(0, kept) + first
    column, row = column.index_select(0, kept), row.index_select(0, kept)
    depth = 1.0 / (plane[:, 6] * column.float() + plane[:, 7] * row.float() + plane[:, 8])
    corner = (setup.view * size + setup.y0) * size + setup.x0
    pixel = corner.index_select(0, owner) + row * size + column
    # bits of a positive float order like the float; the row of the setup stands for (view, face)
    key = (depth.clamp(min=1e-9).view(torch.int32).long() << FACE_BITS) | owner
    best.scatter_reduce_(0, pixel, key, "amin")


def _resolve(setup: _Setup, best: Tensor, views: int, size: int) -> Raster:
    """Unpack the winners and recompute their weights with perspective correction."""
    device = best.device
    face_id = torch.full_like(best, -1)
    bary = torch.zeros(best.shape[0], 3, device=device)
    depth = torch.zeros(best.shape[0], device=device)
    pixel = (best != torch.iinfo(torch.int64).max).nonzero(as_tuple=True)[0]
    owner = best[pixel] & ((1 << FACE_BITS) - 1)
    face_id[pixel] = setup.face.index_select(0, owner)
    inner = pixel % (size * size)
    x = (inner % size - setup.x0.index_select(0, owner)).float()
    y = (inner // size - setup.y0.index_select(0, owner)).float()
    plane = setup.plane.index_select(0, owner)
    value = plane[..., 0] * x[:, None] + plane[..., 1] * y[:, None] + plane[..., 2]
    linear = torch.stack([1 - value[:, 0] - value[:, 1], value[:, 0], value[:, 1]], -1).clamp(0, 1)
    weights = linear * setup.inverse_z.index_select(0, owner)
    bary[pixel] = weights / (weights[:, :1] + weights[:, 1:2] + weights[:, 2:])
    depth[pixel] = 1.0 / value[:, 2].clamp(min=1e-9)
    shape = (views, size, size)
    return Raster(face_id.reshape(shape), bary.reshape(*shape, 3), depth.reshape(shape))


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F, 3] unit normals, right-handed over the corner order; zero for faces without area."""
    a, b, c = vertices[faces].unbind(1)
    return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-20)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """[V, 3] unit normals, area-weighted mean of the faces around each vertex."""
    a, b, c = vertices[faces].unbind(1)
    weighted = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    total.index_add_(0, faces.reshape(-1), weighted.repeat_interleave(3, dim=0))
    return F.normalize(total, dim=-1, eps=1e-20)


def render_mesh(
    mesh: Mesh,
    extrinsics: Tensor,
    intrinsics: Tensor,
    size: int,
    shading: str = "lambert",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ssaa: int = 1,
    *,
    light: Tensor | None = None,
    ambient: float | Tensor = 0.5,
    diffuse: float | Tensor = 0.5,
    smooth: bool = False,
    raster: Raster | None = None,
) -> Tensor:
    """Pictures of a mesh.

    Args:
        mesh: vertices in world space; colours default to light grey.
        extrinsics, intrinsics: [K, 4, 4] and [K, 3, 3].
        size: pixels per side.
        shading: "lambert" (albedo * (ambient + diffuse * max(0, n.l))), "albedo", "normal" (world-space
            normal that faces the viewer, mapped to 0..1) or "depth" (camera z, object units).
        background: rgb behind the mesh, 0..1; black gives rgb premultiplied by alpha.
        ssaa: render at this multiple of `size` and average.
        light: [3] or [K, 3] world-space direction towards the key light; default over the viewer's left
            shoulder.
        ambient, diffuse: weights; numbers or [K] tensors.
        smooth: interpolate vertex normals (the mesh's own, else from faces) instead of flat ones.
        raster: result of `rasterize` at size * ssaa, when the caller has it already.

    Returns:
        [K, size, size, 4] float32: rgb composited on the background, and coverage alpha 0..1.

    Raises:
        ValueError: unknown shading.
    """
    if shading not in SHADINGS:
        raise ValueError(f"shading must be one of {SHADINGS}, got {shading!r}")
    device = mesh.vertices.device
    extrinsics, intrinsics = extrinsics.to(device), intrinsics.to(device)
    if raster is None:
        raster = rasterize(mesh.vertices, mesh.faces, extrinsics, intrinsics, size * ssaa)
    picture = torch.zeros(raster.face_id.numel(), 4, device=device)
    pixel = raster.mask.reshape(-1).nonzero(as_tuple=True)[0]
    view = pixel // raster.face_id[0].numel()
    face = raster.face_id.reshape(-1).index_select(0, pixel)
    if shading == "depth":
        rgb = raster.depth.reshape(-1).index_select(0, pixel)[:, None].expand(-1, 3)
    else:
        bary = raster.bary.reshape(-1, 3).index_select(0, pixel)
        corners = mesh.faces.index_select(0, face)
        if shading != "normal":
            rgb = _albedo(mesh, corners, bary)
        if shading != "albedo":
            normals = _seen_normals(mesh, face, corners, bary, extrinsics, view, smooth)
        if shading == "normal":
            rgb = normals * 0.5 + 0.5
        elif shading == "lambert":
            if light is None:  # camera axes are right, down, forward
                light = extrinsics[:, :3, :3].mT @ extrinsics.new_tensor([-0.45, -0.65, -0.6])
            light = F.normalize(light.to(device).float().expand(extrinsics.shape[0], 3), dim=-1)
            facing = _dot(normals, light.index_select(0, view)).clamp(min=0)
            ambient, diffuse = (_per_view(v, extrinsics).index_select(0, view) for v in (ambient, diffuse))
            rgb = rgb * (ambient + diffuse * facing)[:, None]
    picture[pixel] = torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=-1)
    picture = picture.reshape(*raster.face_id.shape, 4)
    if ssaa > 1:
        # a sum of shifted grids: a mean over two small axes is slow on the CPU
        samples = [picture[:, i::ssaa, j::ssaa] for i in range(ssaa) for j in range(ssaa)]
        picture = torch.stack(samples).sum(0) / ssaa**2
    if any(background):
        picture[..., :3] += picture.new_tensor(background) * (1 - picture[..., 3:])
    return picture


def _per_view(value: float | Tensor, extrinsics: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32, device=extrinsics.device).expand(extrinsics.shape[0])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    # written out: a reduction over an axis of three is slow on the CPU
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _blend(values: Tensor, corners: Tensor, bary: Tensor) -> Tensor:
    """[M, 3] vertex values [V, 3] interpolated at M points inside faces with corners [M, 3]."""
    parts = [values.index_select(0, corners[:, k]) * bary[:, k : k + 1] for k in range(3)]
    return parts[0] + parts[1] + parts[2]


def _albedo(mesh: Mesh, corners: Tensor, bary: Tensor) -> Tensor:
    if mesh.colors is None:
        return torch.full((corners.shape[0], 3), GREY, device=corners.device)
    return _blend(mesh.colors.float(), corners, bary)


def _seen_normals(
    mesh: Mesh, face: Tensor, corners: Tensor, bary: Tensor, extrinsics: Tensor, view: Tensor, smooth: bool
) -> Tensor:
    """[M, 3] unit normals, turned round where the face is seen from behind: winding cannot be trusted."""
    vertices = mesh.vertices.float()
    flat = face_normals(vertices, mesh.faces).index_select(0, face)
    eyes = -(extrinsics[:, :3, :3].mT @ extrinsics[:, :3, 3:])[..., 0]
    towards = eyes.index_select(0, view) - vertices.index_select(0, corners[:, 0])
    sign = torch.where(_dot(flat, towards) < 0, -1.0, 1.0)[:, None]
    if not smooth:
        return flat * sign
    normals = mesh.normals if mesh.normals is not None else vertex_normals(vertices, mesh.faces)
    return F.normalize(_blend(normals.float(), corners, bary), dim=-1) * sign
