"""The steps of the data pipeline: what is made of one asset, from which files, where it goes.

A step reads the asset's GLB or what earlier steps wrote (see layout.py) and writes one file or folder, whole or
not at all. `train.data.prepare` runs them over a folder.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gap3d_app.errors import InputError
from gap3d_app.models.checkpoint import load_model
from gap3d_app.models.pictures import IMAGENET_MEAN, IMAGENET_STD, normalize
from gap3d_app.output import write_atomic
from gap3d_app.posed_views import OPENGL, read_cameras
from gap3d_app.sparse.tensor import SparseTensor
from train.data.fields import surface_fields
from train.data.glb_reader import load_glb
from train.data.layout import SourceAsset, count_voxels, load_arrays, load_voxels, save_arrays, save_voxels
from train.data.packed import Voxels, quantized_surface
from train.data.views import Cameras, condition_cameras, project_features, render_views

VIEWS_PER_PASS = 4
SURFACE_CHANNELS = 206  # input of an encoder that reads the measured surface (train/slat_vae.py)


@dataclass
class Context:
    """Where and how: folders, sizes, device; networks are loaded when a step first asks for them."""

    out: Path
    encoder: Path
    device: torch.device
    views: int = 24
    size: int = 448
    resolution: int = 32

    @cached_property
    def image_encoder(self):
        """Makes the features."""
        return load_model(self.encoder / "image_encoder", device=self.device).eval()

    @cached_property
    def structure_encoder(self):
        """Makes structure latents."""
        return load_model(self.encoder / "structure_encoder", device=self.device).eval()

    @cached_property
    def slat_encoder(self):
        """Makes structured latents."""
        return load_model(self.encoder / "slat_encoder", device=self.device).eval()

    def renders(self, sha: str) -> Path:
        """Folder of an asset's views."""
        return self.out / "renders_cond" / sha

    def voxels(self, sha: str) -> Path:
        """PLY of an asset's voxels."""
        return self.out / "voxels" / f"{sha}.ply"

    def surface(self, sha: str) -> Path:
        """Distances and colours of an asset's surface."""
        return self.out / "surfaces" / f"{sha}.npz"

    def array(self, kind: str, sha: str) -> Path:
        """A file that the networks of `encoder` made: kind is features, ss_latents or latents."""
        return self.out / kind / self.encoder.name / f"{sha}.npz"


def render(asset: SourceAsset, ctx: Context) -> None:
    """Condition views of the whole unit cube: RGBA pictures, transforms.json, depth."""
    mesh = load_glb(asset.path).to(ctx.device)
    cameras = condition_cameras(int(asset.sha256[:8], 16), ctx.views)
    target = ctx.renders(asset.sha256)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    depth = []
    for first in range(0, ctx.views, VIEWS_PER_PASS):
        rows = slice(first, first + VIEWS_PER_PASS)
        some = Cameras(*(getattr(cameras, k)[rows] for k in cameras.__dataclass_fields__))
        views = render_views(mesh, some, ctx.size)
        straight = views.rgb.float() * 255 / views.alpha.float().clamp(min=1)[..., None]
        rgba = torch.cat([straight.round().clamp(0, 255).to(torch.uint8), views.alpha[..., None]], dim=-1).cpu()
        for number, picture in enumerate(rgba, first):
            Image.fromarray(picture.numpy(), "RGBA").save(part / f"{number:03d}.png")
        depth.append(views.depth.half().cpu().numpy())
    save_arrays(part / "depth.npz", depth=np.concatenate(depth))
    write_atomic(part / "transforms.json", json.dumps(_transforms(cameras)).encode())
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _transforms(cameras: Cameras) -> dict:
    """transforms.json: camera-to-world matrices with OpenGL axes (x right, y up, z back)."""
    matrices = torch.linalg.inv(cameras.extrinsics.double()) * torch.tensor(OPENGL)
    angles = 2 * torch.atan(0.5 / cameras.intrinsics[:, 0, 0].double())
    frames = [
        {"file_path": f"{i:03d}.png", "camera_angle_x": float(angle), "transform_matrix": matrix.tolist()}
        for i, (angle, matrix) in enumerate(zip(angles, matrices, strict=True))
    ]
    return {"aabb": [[-0.5] * 3, [0.5] * 3], "frames": frames}


def voxelize(asset: SourceAsset, ctx: Context) -> None:
    """Active voxels, and the surface measured on their lattices."""
    fields = surface_fields(load_glb(asset.path).to(ctx.device), ctx.resolution)
    arrays = {k: v.cpu().numpy() for k, v in quantized_surface(fields).items()}
    save_arrays(ctx.surface(asset.sha256), **arrays)
    save_voxels(ctx.voxels(asset.sha256), arrays["coords"], ctx.resolution)


def feature(asset: SourceAsset, ctx: Context) -> None:
    """Patch features of the image encoder (before any norm), projected onto the voxels and averaged."""
    folder, encoder = ctx.renders(asset.sha256), ctx.image_encoder
    coords, resolution = load_voxels(ctx.voxels(asset.sha256))
    extrinsics, intrinsics = (v.to(ctx.device) for v in read_cameras(folder / "transforms.json"))
    depth = torch.from_numpy(load_arrays(folder / "depth.npz")["depth"]).float().to(ctx.device)
    side, maps = encoder.grid_size, []
    for first in range(0, len(extrinsics), VIEWS_PER_PASS):
        numbers = range(first, min(first + VIEWS_PER_PASS, len(extrinsics)))
        images = torch.stack([_premultiplied(folder / f"{i:03d}.png") for i in numbers]).to(ctx.device)
        images = F.interpolate(images, size=(encoder.config.image_size,) * 2, mode="area")
        tokens = encoder.prenorm(normalize(images, IMAGENET_MEAN, IMAGENET_STD))
        maps.append(tokens[:, -side * side :].reshape(len(images), side, side, -1).float())
    rows = torch.from_numpy(coords).to(ctx.device)
    values = project_features(torch.cat(maps), rows, extrinsics, intrinsics, depth, resolution)
    limit = torch.finfo(torch.float16).max
    save_arrays(
        ctx.array("features", asset.sha256),
        patchtokens=values.clamp(-limit, limit).half().cpu().numpy(),
        indices=coords.astype(np.uint8),
    )


def _premultiplied(path: Path) -> Tensor:
    """A picture [3, H, W] in 0..1 on black."""
    rgba = torch.from_numpy(np.array(Image.open(path).convert("RGBA"))).float() / 255
    return (rgba[..., :3] * rgba[..., 3:]).permute(2, 0, 1)


def ss_latent(asset: SourceAsset, ctx: Context) -> None:
    """Mean of the structure encoder's posterior."""
    coords, resolution = load_voxels(ctx.voxels(asset.sha256))
    grid = torch.zeros(1, 1, resolution, resolution, resolution)
    grid[0, 0, coords[:, 0], coords[:, 1], coords[:, 2]] = 1
    mean, _ = ctx.structure_encoder.posterior(grid.to(ctx.device))
    save_arrays(ctx.array("ss_latents", asset.sha256), mean=mean[0].float().cpu().numpy())


def latent(asset: SourceAsset, ctx: Context) -> None:
    """Mean of the SLAT encoder's posterior, of projected features or of the measured surface.

    Which of the two is read follows from the number of channels that the encoder takes.
    """
    wanted = ctx.slat_encoder.config.in_channels
    if wanted == SURFACE_CHANNELS:
        arrays = {k: torch.from_numpy(v) for k, v in load_arrays(ctx.surface(asset.sha256)).items()}
        coords = arrays["coords"].int()
        values = Voxels.from_packed(coords, arrays["sdf"], arrays["colors"]).features()
    else:
        path = ctx.array("features", asset.sha256)
        if not path.exists():
            raise InputError(f"{asset.name} has no features of {ctx.encoder.name}; run the step feature before latent.")
        arrays = load_arrays(path)
        coords = torch.from_numpy(arrays["indices"]).int()
        values = torch.from_numpy(arrays["patchtokens"]).float()
    if values.shape[1] != wanted:
        raise InputError(f"The SLAT encoder of {ctx.encoder.name} reads {wanted} channels, but {asset.name} has "
                         f"{values.shape[1]}; make features with the matching image encoder.")  # fmt: skip
    coords = torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1)
    mean, _ = ctx.slat_encoder.posterior(SparseTensor(values.to(ctx.device), coords.to(ctx.device)))
    save_arrays(
        ctx.array("latents", asset.sha256),
        feats=mean.float().cpu().numpy(),
        coords=coords[:, 1:].numpy().astype(np.uint8),
    )


@dataclass(frozen=True)
class Step:
    """One step: what makes it, what shows that it is done, what it needs, its columns in metadata.csv."""

    run: Callable[[SourceAsset, Context], None]
    target: Callable[[Context, str], Path]
    needs: tuple[str, ...]
    columns: Callable[[Context, Path], dict]


STEPS = {
    "render": Step(render, Context.renders, (), lambda ctx, path: {"cond_rendered": True}),
    "voxelize": Step(
        voxelize, Context.voxels, (), lambda ctx, path: {"voxelized": True, "num_voxels": count_voxels(path)}
    ),
    "feature": Step(
        feature,
        lambda ctx, sha: ctx.array("features", sha),
        ("render", "voxelize"),
        lambda ctx, path: {f"feature_{ctx.encoder.name}": True},
    ),
    "ss_latent": Step(
        ss_latent,
        lambda ctx, sha: ctx.array("ss_latents", sha),
        ("voxelize",),
        lambda ctx, path: {f"ss_latent_{ctx.encoder.name}": True},
    ),
    "latent": Step(
        latent,
        lambda ctx, sha: ctx.array("latents", sha),
        ("voxelize",),
        lambda ctx, path: {f"latent_{ctx.encoder.name}": True},
    ),
}
