"""Baking on the device that holds the mesh: `gap3d_app.geometry.bake` in torch, for CUDA.

The same samples, weights and texels as its slow twin, with every loop over triangles or texels as one tensor
operation. Sums that run over threads in no fixed order are taken in whole numbers, so textures repeat exactly.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FRACTION_BITS = 24
"""Weights and colours are summed as multiples of 2^-24."""
LOST_PER_PASS = 1024


class DeviceColors:
    """Colour of the nearest part of a dense coloured surface; see `bake.SurfaceColors`.

    Args:
        vertices: [V, 3] float32; faces: [F, 3] int64; colors: [V, 3] float32 in 0..1; all on one device.
    """

    def __init__(self, vertices: Tensor, faces: Tensor, colors: Tensor):
        low, high = vertices.amin(0), vertices.amax(0)
        edge = (vertices[faces[:, 0]] - vertices[faces[:, 1]]).norm(dim=1)
        # a quantile, because torch's median of an even count is the lower of the two in the middle
        middle = edge.sort().values[[(len(edge) - 1) // 2, len(edge) // 2]].mean()
        longest, middle = torch.stack([(high - low).amax(), middle]).tolist()
        longest = longest or 1.0
        self.cell = min(max(middle, longest / 160), longest / 64)
        self.push = 0.75 * self.cell
        point, color, normal = _dense_samples(vertices, faces, colors, self.cell)
        self.points, self.colors = point, color
        self.low = low - 3 * self.cell
        self.size = [ceil(v) + 4 for v in ((high - self.low) / self.cell).tolist()]
        self.volume = self._splat(point + self.push * normal, color)

    def _splat(self, point: Tensor, color: Tensor) -> Tensor:
        """[1, 4, X, Y, Z] float32 sums of weighted rgb and of weights."""
        place = (point - self.low) / self.cell
        value = torch.cat([color, torch.ones_like(color[:, :1])], dim=1)
        base = place.floor()
        upper = place - base
        steps = [self.size[1] * self.size[2], self.size[2], 1]
        index = (base.long() * base.new_tensor(steps).long()).sum(1)
        total = torch.zeros(self.size[0] * steps[0], 4, dtype=torch.int64, device=point.device)
        for corner in range(8):
            bits = [corner >> 2 & 1, corner >> 1 & 1, corner & 1]
            weight = torch.ones_like(upper[:, :1])
            for axis, bit in enumerate(bits):
                part = upper[:, axis : axis + 1]
                weight = weight * (part if bit else 1 - part)
            step = sum(bit * stride for bit, stride in zip(bits, steps, strict=True))
            total.index_add_(0, index + step, (value * weight * 2**FRACTION_BITS).round().long())
        volume = total.double().mul(2.0**-FRACTION_BITS).float()
        return volume.view(1, *self.size, 4).permute(0, 4, 1, 2, 3)

    def __call__(self, points: Tensor, normals: Tensor) -> Tensor:
        """rgb [P, 3] float32 at surface points [P, 3] with unit normals [P, 3]."""
        place = (points + self.push * normals - self.low) / self.cell
        grid = place * (2 / (place.new_tensor(self.size) - 1)) - 1
        read = F.grid_sample(
            self.volume, grid.flip(1).view(1, -1, 1, 1, 3), mode="bilinear", padding_mode="zeros", align_corners=True
        )[0, :, :, 0, 0]
        result = (read[:3] / read[3].clamp(min=1e-6)).t().contiguous()
        # where simplification moved the surface by more than the spacing
        for lost in (read[3] < 1e-4).nonzero()[:, 0].split(LOST_PER_PASS):
            distance = torch.cdist(points[lost], self.points, compute_mode="donot_use_mm_for_euclid_dist")
            result[lost] = self.colors[distance.argmin(1)]
        return result


def _face_cross(vertices: Tensor, faces: Tensor) -> Tensor:
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def _dense_samples(vertices: Tensor, faces: Tensor, colors: Tensor, spacing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices plus regular points on faces that are longer than the spacing: positions, colours, normals."""
    cross = _face_cross(vertices, faces)
    normals = vertices.new_zeros(vertices.shape, dtype=torch.int64)
    # Areas as whole parts of the largest; the order of summation then makes no difference.
    scale = 2.0**40 / cross.abs().amax().clamp(min=1e-30).double()
    normals.index_add_(0, faces.reshape(-1), (cross.double() * scale).round().long().repeat_interleave(3, dim=0))
    normals = F.normalize(normals.double(), dim=1).float()
    a, b, c = vertices[faces].unbind(1)
    longest = torch.stack([(a - b).norm(dim=1), (b - c).norm(dim=1), (c - a).norm(dim=1)]).amax(0)
    parts = torch.where(longest > 2 * spacing, (longest / spacing).ceil().clamp(max=256), 0).long()
    found = [(vertices, colors, normals)]
    for n in parts.unique().tolist():
        if n == 0:
            continue
        i, j = torch.meshgrid(*[torch.arange(n, device=parts.device)] * 2, indexing="ij")
        i, j = i[i + j < n], j[i + j < n]
        bary = torch.stack([i, j, n - 1 - i - j], dim=1).float() / n + 1 / (3 * n)
        chosen = (parts == n).nonzero()[:, 0]
        point, color = (torch.einsum("sk,fkd->fsd", bary, v[faces[chosen]]).reshape(-1, 3) for v in (vertices, colors))
        found.append((point, color, F.normalize(cross[chosen], dim=1).repeat_interleave(len(bary), dim=0)))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))


def cover_texels(uv: Tensor, faces: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Texels whose centre lies in a UV triangle, each once: what `bake.rasterize_uv` finds, by bounding boxes.

    Args:
        uv: [W, 2] float64 in 0..1, origin top left; faces: [F, 3].
        size: texture edge in texels.

    Returns:
        texel [P] int64 ascending (row * size + column), face [P] int64 (the last of those that share a texel),
        bary [P, 3] float32.
    """
    slack = 1e-4  # texels; keeps centres that lie exactly on a chart border
    corner = uv[faces] * size - 0.5  # texel centres at whole numbers
    first = (corner.amin(1) - slack).ceil().clamp(min=0).long()
    count = ((corner.amax(1) + slack).floor().clamp(max=size - 1).long() - first + 1).clamp(min=0)
    boxes = count[:, 0] * count[:, 1]
    face = torch.repeat_interleave(boxes)
    inside = torch.arange(len(face), device=face.device) - (boxes.cumsum(0) - boxes)[face]
    width = count[face, 0]
    row = torch.div(inside, width, rounding_mode="floor")
    x, y = first[face, 0] + inside - row * width, first[face, 1] + row
    a, b, c = corner.unbind(1)
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    inverse = torch.where(area.abs() < 1e-12, 0.0, 1 / area)
    dx, dy = x - a[face, 0], y - a[face, 1]
    b1 = (ac[face, 1] * dx - ac[face, 0] * dy) * inverse[face]
    b2 = (ab[face, 0] * dy - ab[face, 1] * dx) * inverse[face]
    # The slack is a distance in texels; a barycentric coordinate changes by |opposite edge| / area per texel.
    reach = slack * inverse.abs()
    limit = torch.stack([(c - b).norm(dim=1), ac.norm(dim=1), ab.norm(dim=1)], dim=1) * reach[:, None]
    bary = torch.stack([1 - b1 - b2, b1, b2], dim=1)
    kept = ((bary >= -limit[face]).all(1) & (inverse[face] != 0)).nonzero()[:, 0]
    face, texel, bary = face[kept], (y * size + x)[kept], bary[kept].float()
    slot = torch.full((size * size,), -1, dtype=torch.int64, device=uv.device)
    slot.scatter_reduce_(0, texel, torch.arange(len(texel), device=uv.device), "amax")
    chosen = slot[slot >= 0]
    return texel[chosen], face[chosen], bary[chosen]


def fill_gutters(color: Tensor, covered: Tensor) -> Tensor:
    """Colour for texels outside charts, [S, S, 3] float32; see `bake.fill_gutters`."""
    weight = covered.float()
    levels = [(color * weight[..., None], weight)]
    while levels[-1][1].shape[0] % 2 == 0 and levels[-1][1].shape[0] > 1:
        total, weight = (_halved(v) for v in levels[-1])
        scale = torch.where(weight > 0, 1 / weight.clamp(min=1e-9), 0)
        levels.append((total * scale[..., None], (weight > 0).float()))
    total, weight = levels.pop()
    filled = torch.where(weight[..., None] > 0, total, total.sum((0, 1)) / weight.sum().clamp(min=1))
    for total, weight in reversed(levels):
        filled = filled.repeat_interleave(2, 0).repeat_interleave(2, 1)
        filled = torch.where(weight[..., None] > 0, total, filled)
    return filled


def _halved(values: Tensor) -> Tensor:
    """Sums of 2 x 2 neighbours."""
    return (values[::2, ::2] + values[1::2, ::2]) + (values[::2, 1::2] + values[1::2, 1::2])


def bake(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, uv_faces: np.ndarray, size: int, colors: DeviceColors
) -> np.ndarray:
    """Texture [size, size, 3] uint8 of a mesh, made on the device of `colors`; see `bake.bake` for the rest."""
    device = colors.points.device
    corner = torch.from_numpy(np.asarray(vertices, dtype=np.float32)).to(device)
    triangles, uv_triangles = (torch.from_numpy(v).to(device) for v in (faces, uv_faces))
    texel, face, bary = cover_texels(torch.from_numpy(uv).to(device, torch.float64), uv_triangles, size)
    point = torch.einsum("pk,pkd->pd", bary, corner[triangles[face]])
    normal = F.normalize(_face_cross(corner, triangles), dim=1, eps=1e-20)
    color = corner.new_zeros(size * size, 3)
    color[texel] = colors(point, normal[face])
    covered = torch.zeros(size * size, dtype=torch.bool, device=device)
    covered[texel] = True
    filled = fill_gutters(color.view(size, size, 3), covered.view(size, size))
    return (filled * 255 + 0.5).clamp(0, 255).to(torch.uint8).cpu().numpy()
