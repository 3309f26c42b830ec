"""Pictures that the stages draw during training (`runs/<stage>/samples`)."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gap3d_app.geometry.cameras import orbit_camera
from gap3d_app.geometry.flexicubes import extract
from gap3d_app.models.decoders import SLatGaussianDecoder, SLatMeshDecoder
from gap3d_app.render.gaussians import render_gaussians
from gap3d_app.render.mesh import render_mesh
from gap3d_app.render.pictures import contact_sheet, to_image, voxel_picture
from gap3d_app.sparse.tensor import SparseTensor

CELL = 192  # pixels per picture


def save_sheet(
    folder: Path, step: int, images: Sequence[Image.Image], captions: Sequence[str] | None = None, columns: int = 2
) -> Path:
    """Write `<step>.png`: pictures in rows of `columns`."""
    path = folder / f"{step:07d}.png"
    contact_sheet(images, captions, columns, CELL).save(path)
    return path


def photo(image: Tensor) -> Image.Image:
    """A picture of [3, H, W] in 0..1."""
    return to_image(image.permute(1, 2, 0).float())


def voxel_photo(logits: Tensor) -> Image.Image:
    """Voxels of a grid [1, R, R, R] that are positive; an empty grid is an empty picture."""
    coords = torch.nonzero(logits[0] > 0)
    if not len(coords):
        return Image.new("RGB", (CELL, CELL), (255, 255, 255))
    return voxel_picture(coords, logits.shape[-1], CELL)


def slat_photos(slat: SparseTensor, decoder: SLatGaussianDecoder | SLatMeshDecoder) -> list[Image.Image]:
    """One picture per asset of a latent (not normalised), from the front three-quarter view."""
    extrinsics, intrinsics = (v[None].to(slat.feats.device) for v in orbit_camera(math.pi - 0.6, 0.35, 2.0, 40.0))
    decoded = decoder(slat)
    if isinstance(decoder, SLatGaussianDecoder):
        values = decoder.to_representation(decoded.replace(decoded.feats.float()))
        pictures = [render_gaussians(g, extrinsics, intrinsics, CELL, background=(1, 1, 1))[0] for g in values]
        return [to_image(p) for p in pictures]
    images = []
    for rows in decoded.layout:
        coords, feats = decoded.coords[rows, 1:], decoded.feats[rows].float()
        mesh = extract(coords, feats, decoder.out_resolution, solid=True).to_mesh()
        if mesh.is_empty:
            images.append(Image.new("RGB", (CELL, CELL), (255, 255, 255)))
        else:
            images.append(to_image(render_mesh(mesh, extrinsics, intrinsics, CELL, background=(1, 1, 1), ssaa=2)[0]))
    return images
