"""Base-colour textures: which surface point lies under each texel, and the colour there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree

from gap3d_app.geometry.topology import face_cross, normalized, vertex_normals

ColorFn = Callable[[np.ndarray], np.ndarray]
"""Maps surface points [P, 3] (object space) to rgb [P, 3] in 0..1, sRGB."""


def rasterize_uv(uv: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texels whose centre lies in a UV triangle, found row by row for all triangles at once.

    Args:
        uv: [W, 2] in 0..1, origin top left; faces: [F, 3].
        size: texture edge in texels.

    Returns:
        texel [P] int64 (row * size + column), face [P] int64, bary [P, 3] float32. A texel on a shared edge may
        occur twice.
    """
    slack = 1e-4  # texels; keeps centres that lie exactly on a chart border
    corner = uv[faces] * size - 0.5  # texel centres at whole numbers
    top = np.maximum(np.ceil(corner[..., 1].min(1) - slack), 0).astype(np.int64)
    bottom = np.minimum(np.floor(corner[..., 1].max(1) + slack), size - 1).astype(np.int64)
    rows = np.maximum(bottom - top + 1, 0)
    face = np.repeat(np.arange(len(faces)), rows)
    y = np.arange(len(face)) - np.repeat(np.cumsum(rows) - rows, rows) + top[face]
    left, right = np.full(len(face), np.inf), np.full(len(face), -np.inf)
    for k in range(3):
        a, b = corner[:, k], corner[:, (k + 1) % 3]
        low, high = np.minimum(a[:, 1], b[:, 1])[face], np.maximum(a[:, 1], b[:, 1])[face]
        height = b[:, 1] - a[:, 1]
        slope = (b[:, 0] - a[:, 0]) / np.where(height == 0, 1.0, height)
        crossing = a[face, 0] + slope[face] * (np.clip(y, low, high) - a[face, 1])
        hit = (y >= low - slack) & (y <= high + slack)
        flat = hit & (height == 0)[face]
        left = np.where(hit, np.minimum(left, crossing), left)
        right = np.where(hit, np.maximum(right, crossing), right)
        far = b[face, 0]
        left = np.where(flat, np.minimum(left, far), left)
        right = np.where(flat, np.maximum(right, far), right)
    valid = right >= left
    first = np.where(valid, np.maximum(np.ceil(np.where(valid, left, 0) - slack), 0), 0).astype(np.int64)
    last = np.where(valid, np.minimum(np.floor(np.where(valid, right, 0) + slack), size - 1), -1).astype(np.int64)
    count = np.maximum(last - first + 1, 0)
    span = np.repeat(np.arange(len(face)), count)
    x = np.arange(len(span)) - np.repeat(np.cumsum(count) - count, count) + first[span]
    # Barycentric coordinates are affine in (x, y): one value per span, one step per texel.
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    inverse = 1.0 / np.where(np.abs(area) < 1e-12, np.inf, area)
    d1x, d1y = (c[:, 1] - a[:, 1]) * inverse, -(c[:, 0] - a[:, 0]) * inverse
    d2x, d2y = -(b[:, 1] - a[:, 1]) * inverse, (b[:, 0] - a[:, 0]) * inverse
    dy = y - a[face, 1]
    step = (x - a[face[span], 0]).astype(np.float32)
    owner = face[span]
    b1 = (d1y[face] * dy).astype(np.float32)[span] + d1x.astype(np.float32)[owner] * step
    b2 = (d2y[face] * dy).astype(np.float32)[span] + d2x.astype(np.float32)[owner] * step
    bary = np.stack([1 - b1 - b2, b1, b2], axis=1)
    return y[span] * size + x, owner, bary


class SurfaceColors:
    """Colour of the nearest part of a dense coloured surface, read from a volume instead of a tree search.

    Samples of the surface are spread over the eight grid nodes around each of them; a query reads the volume
    trilinearly and divides by the accumulated weight, which amounts to a smoothing of about one sample spacing.
    Samples and queries are pushed outwards along their normals, so that the two sides of a thin wall are read
    from different nodes.

    Args:
        vertices: [V, 3]; faces: [F, 3]; colors: [V, 3] in 0..1.
        spacing: distance between samples; the median edge length, between 1/160 and 1/64 of the size, if None.
    """

    def __init__(
        self, vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, spacing: float | None = None
    ):
        low, high = vertices.min(0), vertices.max(0)
        longest = float((high - low).max()) or 1.0
        if spacing is None:
            edge = np.linalg.norm(vertices[faces[:, 0]] - vertices[faces[:, 1]], axis=1)
            spacing = float(np.median(edge))
        self.cell = float(np.clip(spacing, longest / 160, longest / 64))
        self.push = 0.75 * self.cell
        normals = vertex_normals(vertices, faces)
        point, color, normal = _dense_samples(vertices, faces, colors, normals, self.cell)
        self.points, self.colors = point, color
        self.low = low - 3 * self.cell
        self.size = np.ceil((high - self.low) / self.cell).astype(np.int64) + 4
        self.volume = self._splat(point + self.push * normal, color)
        self._tree: cKDTree | None = None

    def _splat(self, point: np.ndarray, color: np.ndarray) -> torch.Tensor:
        """[1, 4, X, Y, Z] sums of weighted rgb and of weights."""
        place = torch.from_numpy(((point - self.low) / self.cell).astype(np.float32))
        value = torch.from_numpy(np.concatenate([color, np.ones((len(color), 1))], axis=1).astype(np.float32))
        base = place.floor()
        upper = (place - base).split(1, dim=1)
        lower = [1 - part for part in upper]
        steps = [int(self.size[1] * self.size[2]), int(self.size[2]), 1]
        index = base.long() @ torch.tensor(steps)
        volume = torch.zeros(int(self.size.prod()), 4)
        for corner in range(8):
            bits = [corner >> 2 & 1, corner >> 1 & 1, corner & 1]
            x, y, z = (upper[k] if bits[k] else lower[k] for k in range(3))
            step = sum(bit * stride for bit, stride in zip(bits, steps, strict=True))
            volume.index_add_(0, index + step, value * (x * y * z))
        return volume.view(1, *self.size.tolist(), 4).permute(0, 4, 1, 2, 3)

    def __call__(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """rgb [P, 3] float32 at surface points [P, 3] with unit normals [P, 3]."""
        place = (points + np.float32(self.push) * normals - self.low.astype(np.float32)) / np.float32(self.cell)
        grid = place * (2 / (self.size - 1)).astype(np.float32) - 1
        # grid_sample wants the fastest axis first
        grid = torch.from_numpy(np.ascontiguousarray(grid[:, ::-1], dtype=np.float32))
        read = torch.nn.functional.grid_sample(
            self.volume, grid.view(1, -1, 1, 1, 3), mode="bilinear", padding_mode="zeros", align_corners=True
        )[0, :, :, 0, 0].numpy()
        weight = read[3]
        result = np.ascontiguousarray((read[:3] / np.maximum(weight, 1e-6)).T)
        lost = np.flatnonzero(weight < 1e-4)
        if len(lost):  # where simplification moved the surface by more than the spacing
            if self._tree is None:
                self._tree = cKDTree(self.points)
            result[lost] = self.colors[self._tree.query(points[lost])[1]]
        return result


def _dense_samples(
    vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, normals: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices plus regular points on faces that are longer than the spacing: positions, colours, normals."""
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    longest = np.sqrt(np.maximum(np.maximum(((a - b) ** 2).sum(1), ((b - c) ** 2).sum(1)), ((c - a) ** 2).sum(1)))
    parts = np.where(longest > 2 * spacing, np.minimum(np.ceil(longest / spacing), 256), 0).astype(np.int64)
    flat = normalized(face_cross(vertices, faces))
    found = [(vertices, colors, normals)]
    for n in np.unique(parts[parts > 0]):
        i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
        keep = i + j < n
        bary = np.stack([i[keep], j[keep], n - 1 - i[keep] - j[keep]], axis=1) / n + 1 / (3 * n)
        rows = faces[parts == n]
        count = len(bary)
        point = np.einsum("sk,fkd->fsd", bary, vertices[rows]).reshape(-1, 3)
        color = np.einsum("sk,fkd->fsd", bary, colors[rows]).reshape(-1, 3)
        found.append((point, color, np.repeat(flat[parts == n], count, axis=0)))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def fill_gutters(color: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Colour for texels outside charts, so that filtering and mipmaps see no seams.

    A pyramid of averages over covered texels, read back from coarse to fine.

    Args:
        color: [S, S, 3] float32, S a power of two or any even-divisible size; covered: [S, S] bool.

    Returns:
        [S, S, 3] float32, unchanged where covered.
    """
    weight = covered.astype(np.float32)
    levels = [(color * weight[..., None], weight)]
    while levels[-1][1].shape[0] % 2 == 0 and levels[-1][1].shape[0] > 1:
        total, weight = levels[-1]
        total = (total[::2, ::2] + total[1::2, ::2]) + (total[::2, 1::2] + total[1::2, 1::2])
        weight = (weight[::2, ::2] + weight[1::2, ::2]) + (weight[::2, 1::2] + weight[1::2, 1::2])
        scale = 1 / np.maximum(weight, 1e-9)
        scale = np.where(weight > 0, scale, 0)
        levels.append((total * scale[..., None], (weight > 0).astype(np.float32)))
    total, weight = levels.pop()
    mean = total.reshape(-1, 3).sum(0) / max(float(weight.sum()), 1.0)
    filled = np.where(weight[..., None] > 0, total, mean)
    while levels:
        total, weight = levels.pop()
        filled = filled.repeat(2, axis=0).repeat(2, axis=1)
        np.copyto(filled, total, where=weight[..., None] > 0)
    return filled


def bake(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, uv_faces: np.ndarray, size: int, color_fn: Callable
) -> np.ndarray:
    """Texture of a mesh.

    Args:
        vertices: [V, 3] object space; faces: [F, 3].
        uv: [W, 2] in 0..1, origin top left; uv_faces: [F, 3] into uv.
        size: texture edge in texels.
        color_fn: SurfaceColors, or any ColorFn.

    Returns:
        [size, size, 3] uint8, sRGB.
    """
    texel, face, bary = rasterize_uv(uv, uv_faces, size)
    # A texel on a shared edge needs one colour only.
    slot = np.zeros(size * size, dtype=np.int32)
    slot[texel] = np.arange(1, len(texel) + 1, dtype=np.int32)
    texel = np.flatnonzero(slot)
    chosen = slot[texel] - 1
    face, bary = face[chosen], bary[chosen]
    corner = np.asarray(vertices, dtype=np.float32)[faces]
    point = bary[:, :1] * corner[face, 0] + bary[:, 1:2] * corner[face, 1] + bary[:, 2:] * corner[face, 2]
    if isinstance(color_fn, SurfaceColors):
        normal = normalized(face_cross(np.asarray(vertices, dtype=np.float32), faces))
        rgb = color_fn(point, normal[face])
    else:
        rgb = np.asarray(color_fn(point), dtype=np.float32)
    color = np.zeros((size * size, 3), dtype=np.float32)
    color[texel] = rgb
    covered = (slot > 0).reshape(size, size)
    filled = fill_gutters(color.reshape(size, size, 3), covered)
    return np.clip(filled * 255 + 0.5, 0, 255).astype(np.uint8)
