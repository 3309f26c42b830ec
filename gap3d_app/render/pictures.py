"""Small pictures of what the stages hold: token grids, voxels, and sheets of results."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gap3d_app.geometry.cameras import orbit_camera
from gap3d_app.render.mesh import render_mesh
from gap3d_app.values import Mesh

CAPTION_LINES = 3
CAPTION_SIZE = 13  # pixels


def token_basis(patches: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colours for a token grid: mean [C], three directions [C, 3], and their value range [3], [3].

    Principal components of patches [P, C]; each direction is turned so that its largest weight is positive,
    which makes the colours the same from run to run. Pass one grid's basis to draw a sequence in one palette.
    """
    values = patches.detach().double().cpu()
    mean = values.mean(0)
    centred = values - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    directions = vectors[:, -3:].flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * torch.where(largest < 0, -1.0, 1.0)
    scores = centred @ directions
    return mean, directions, scores.quantile(0.02, dim=0), scores.quantile(0.98, dim=0)


def token_picture(
    tokens: Tensor,
    height: int = 0,
    width: int = 0,
    size: int = 256,
    basis: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
) -> Image.Image:
    """A token grid as a picture: the first three principal components as red, green and blue.

    Args:
        tokens: [1 + R + H * W, C] (or [1, ...]) class token, registers, patches row-major.
        height, width: H and W; when 0, the largest square that fits behind at least one leading token.
        size: pixels per side.
        basis: from `token_basis`, else made from these tokens.
    """
    tokens = tokens.detach().reshape(-1, tokens.shape[-1])
    if not height or not width:
        height = width = math.isqrt(tokens.shape[0] - 1)
    patches = tokens[tokens.shape[0] - height * width :].double().cpu()
    mean, directions, low, high = token_basis(patches) if basis is None else basis
    rgb = ((patches - mean) @ directions - low) / (high - low).clamp(min=1e-9)
    pixels = (rgb.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).reshape(height, width, 3)
    return Image.fromarray(pixels.numpy()).resize((size, size), Image.Resampling.NEAREST)


def voxel_mesh(coords: Tensor, resolution: int, gap: float = 0.06) -> Mesh:
    """Occupied voxels as cubes: every side whose neighbour is empty, coloured by its place in the cube.

    Args:
        coords: [V, 3] or [V, 4] integer voxels (a leading column is the batch index and is ignored).
        gap: how much of a side's edge is left free, so that single voxels can be told apart.
    """
    coords = coords[:, -3:].long().cpu()
    taken = torch.zeros((resolution + 2,) * 3, dtype=torch.bool)
    taken[tuple((coords + 1).T)] = True
    corners, tints = [], []
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    for axis in range(3):
        for side in (0, 1):
            step = torch.zeros(3, dtype=torch.int64)
            step[axis] = 2 * side - 1
            bare = coords[~taken[tuple((coords + 1 + step).T)]]
            local = torch.zeros(4, 3)
            local[:, axis] = side
            others = [a for a in range(3) if a != axis]
            local[:, others] = square * (1 - gap) + gap / 2
            corners.append(bare[:, None] + local)
            tints.append(bare)
    quads = torch.cat(corners) / resolution - 0.5
    place = torch.cat(tints).float() / max(resolution - 1, 1)
    colors = (0.45 + 0.45 * place)[:, None].expand(-1, 4, 3)
    first = torch.arange(quads.shape[0])[:, None] * 4
    faces = torch.cat([first + torch.tensor([0, 1, 2]), first + torch.tensor([0, 2, 3])])
    return Mesh(quads.reshape(-1, 3), faces, colors.reshape(-1, 3).contiguous())


def voxel_picture(
    coords: Tensor,
    resolution: int = 32,
    size: int = 256,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Image.Image:
    """Occupied voxels [V, 3 or 4] as shaded cubes, from the front three-quarter view."""
    extrinsics, intrinsics = orbit_camera(math.pi - 0.6, 0.35, 2.2, 40.0)
    camera = (extrinsics[None], intrinsics[None])
    picture = render_mesh(voxel_mesh(coords, resolution), *camera, size, background=background, ssaa=2)
    return to_image(picture[0])


def to_image(picture: Tensor) -> Image.Image:
    """A picture [H, W, 3 or 4] in 0..1 as 8-bit RGB."""
    return Image.fromarray((picture[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    columns: int = 8,
    cell: int = 160,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """Pictures in rows with their captions below, wrapped to the cell and cut after three lines."""
    captions = [""] * len(images) if captions is None else captions
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} pictures but {len(captions)} captions")
    font = ImageFont.load_default(CAPTION_SIZE)
    line = CAPTION_SIZE + 3
    text = (CAPTION_LINES * line + 6) if any(captions) else 0
    columns = max(1, min(columns, len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * cell, max(rows, 1) * (cell + text)), background)
    draw = ImageDraw.Draw(sheet)
    ink = (0, 0, 0) if np.mean(background) > 127 else (255, 255, 255)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        x, y = column * cell, row * (cell + text)
        tile = image.convert("RGB")
        tile.thumbnail((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(tile, (x + (cell - tile.width) // 2, y + (cell - tile.height) // 2))
        for k, words in enumerate(_wrap(caption, font, cell - 8)):
            draw.text((x + 4, y + cell + 2 + k * line), words, ink, font)
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """At most three lines no wider than `width` pixels; what is cut off shows as an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > CAPTION_LINES:
        lines = lines[:CAPTION_LINES]
        lines[-1] += "…"
    return lines
