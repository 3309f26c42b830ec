"""GLB files to coloured meshes in object space: what the data pipeline needs of an asset it did not build.

Materials become colours of face corners (base colour only, no lighting): each face keeps its own three
corners, so hard colour edges stay hard, and faces whose texture varies inside are cut until corners carry it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gap3d_app.geometry.mesh_reader import placed_corners, read_parts
from gap3d_app.values import Mesh

LONGEST_SIDE = 0.98
TEXTURE_STEP = 1 / 96  # corner distance, object units, on faces with texture detail
MOST_PARTS = 48  # cuts of one edge
VARIATION = 0.06  # sRGB difference from the corners' blend that counts as detail
INSET = 0.03  # corners are sampled this far towards the centre: texture atlases bleed at their borders


@dataclass
class _Part:
    """Triangles with their corners' texture coordinates and colours (linear), F of them."""

    corners: np.ndarray  # [F, 3, 3]
    uv: np.ndarray | None  # [F, 3, 2], v up
    tint: np.ndarray  # [F, 3, 4] linear factor and alpha
    image: np.ndarray | None  # [H, W, 4] sRGB and alpha, 0..1
    cutout: bool


def load_glb(path: str | Path) -> Mesh:
    """Read a GLB (or any scene that trimesh reads) as a mesh with vertex colours.

    Y-up, front +Z becomes Z-up, front -Y; the longest side of the box becomes 0.98, centred at the origin.

    Returns:
        Mesh with 3 vertices per face, colours sRGB 0..1.

    Raises:
        InputError: the file cannot be read or holds no triangles.
    """
    parts = [_read_part(*part) for part in read_parts(path)]
    _normalise(parts)
    painted = [_paint(part) for part in parts]
    corners = torch.from_numpy(np.concatenate([c for c, _ in painted])).float()
    colors = torch.from_numpy(np.concatenate([c for _, c in painted])).float()
    return Mesh(
        vertices=corners.reshape(-1, 3),
        faces=torch.arange(corners.shape[0] * 3).reshape(-1, 3),
        colors=colors.reshape(-1, 3),
    )


def _read_part(geometry, transform: np.ndarray) -> _Part:
    """One geometry in object axes; missing materials are light grey."""
    corners, faces = placed_corners(geometry, transform)
    tint = np.ones((len(faces), 3, 4))
    uv = image = None
    cutout = False
    visual = geometry.visual
    painted = getattr(visual, "vertex_attributes", {}).get("color")
    if visual.kind == "texture":
        material = visual.material.to_pbr() if hasattr(visual.material, "to_pbr") else visual.material
        factor = getattr(material, "baseColorFactor", None)
        if factor is not None:
            factor = np.asarray(factor)
            tint = tint * (factor / 255 if factor.dtype == np.uint8 else factor)
        texture = getattr(material, "baseColorTexture", None)
        if texture is not None and visual.uv is not None:
            image = np.asarray(texture.convert("RGBA"), dtype=np.float32) / 255
            uv = np.asarray(visual.uv)[faces]
        cutout = getattr(material, "alphaMode", None) in ("MASK", "BLEND")
    elif visual.kind == "vertex":
        painted = np.asarray(visual.vertex_colors)
    elif visual.kind == "face":
        tint = tint * (np.asarray(visual.face_colors)[:, None] / 255)
    elif visual.kind is None:
        tint[..., :3] = 0.6
    if painted is not None and len(painted) == len(geometry.vertices):
        painted = np.asarray(painted)
        painted = painted / np.iinfo(painted.dtype).max if painted.dtype.kind == "u" else painted
        tint[..., : painted.shape[1]] *= painted[faces]
    return _Part(corners, uv, tint, image, cutout)


def _normalise(parts: list[_Part]) -> None:
    """Centre all parts and scale them to the unit cube, in place."""
    points = np.concatenate([part.corners.reshape(-1, 3) for part in parts])
    low, high = points.min(0), points.max(0)
    scale = LONGEST_SIDE / max(float((high - low).max()), 1e-9)
    for part in parts:
        part.corners = (part.corners - (low + high) / 2) * scale


def _paint(part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Corners [T, 3, 3] and their sRGB colours [T, 3, 3], with textured faces cut where needed."""
    if part.image is None:
        return part.corners, _to_srgb(part.tint[..., :3])
    parts = _cuts(part)
    owner, weight = _subdivide(parts)
    corners = weight @ part.corners[owner]
    inset = weight * (1 - INSET) + weight.mean(1, keepdims=True) * INSET
    texel = _sample(part.image, inset @ part.uv[owner])
    tint = weight @ part.tint[owner]
    if part.cutout:  # leaves and fences: what is transparent is not there
        kept = (texel[..., 3] * tint[..., 3]).mean(1) > 0.5
        corners, texel, tint = corners[kept], texel[kept], tint[kept]
    return corners, _to_srgb(_to_linear(texel[..., :3]) * tint[..., :3])


def _cuts(part: _Part) -> np.ndarray:
    """[F] parts into which each edge of a face is cut: 1 unless the texture differs from the corners' blend."""
    steps = np.array([(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)]) / 6
    steps = steps * (1 - INSET) + INSET / 3
    texels = _sample(part.image, np.einsum("sk,fkc->fsc", steps, part.uv))
    ends = texels[:, [int(np.argmax(steps[:, k])) for k in range(3)]]
    detail = np.abs(texels - np.einsum("sk,fkc->fsc", steps, ends)).max(axis=(1, 2)) > VARIATION
    longest = np.linalg.norm(part.corners - np.roll(part.corners, 1, axis=1), axis=-1).max(1)
    return np.where(detail, np.clip(np.ceil(longest / TEXTURE_STEP), 1, MOST_PARTS), 1).astype(np.int64)


def _subdivide(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face of each piece [T] and the pieces' corners as barycentric weights [T, 3, 3]; n^2 pieces a face."""
    count = parts * parts
    owner = np.repeat(np.arange(len(parts)), count)
    piece = np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
    row = np.floor(np.sqrt(piece + 0.5)).astype(np.int64)
    half, odd = np.divmod(piece - row * row, 2)
    along = np.stack([row, row + 1, row + 1 - odd], axis=1) / parts[owner, None]
    across = np.stack([half, half + odd, half + 1], axis=1) / parts[owner, None]
    return owner, np.stack([1 - along, along - across, across], axis=-1)


def _sample(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Nearest texel [..., 4] at repeating coordinates with v up."""
    height, width = image.shape[:2]
    column = np.floor((uv[..., 0] % 1) * width).astype(np.int64).clip(0, width - 1)
    row = np.floor(((1 - uv[..., 1]) % 1) * height).astype(np.int64).clip(0, height - 1)
    return image[row, column]


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
