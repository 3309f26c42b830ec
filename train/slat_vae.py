"""Stage: the SLAT VAE: encoder, Gaussian decoder, mesh decoder.

    accelerate launch -m train.slat_vae --config train/configs/mini/slat_vae.yaml

The encoder reads, per active voxel, the known surface itself: signed distances on the voxel's 5^3 lattice
corners and colours on 3^3 of them. (The full-size encoder reads projected image features; at this size the
measured surface is the better teacher and needs no multi-view render at all.)

Both decoders are supervised directly by the surface, without rendering:
* mesh: signed distance on the corners of each fine voxel of a random crop, weighted towards the surface, and
  colour and normal on the corners next to it; deformations and FlexiCubes weights are kept near neutral;
* Gaussians: positions by a two-way nearest-neighbour distance to surface samples of their own voxel, colour
  of the nearest sample, flat along its normal, opaque.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.models.checkpoint import save_model
from gap3d_app.models.decoders import SLatGaussianDecoder, SLatMeshDecoder
from gap3d_app.models.slat_vae import SLatEncoder
from gap3d_app.sparse.attention import attention_sets
from gap3d_app.sparse.conv import neighbour_map
from gap3d_app.sparse.tensor import Sites, SparseTensor
from train.data.packed import FINE, LATTICE, PackedAssets, Voxels
from train.loop import Stage, read_config, run, training_device
from train.recolor import color_maps, recolored_rows
from train.samples import save_sheet, slat_photos
from train.structure_vae import kl_divergence

CELL = 2 / FINE  # a fine cell in the unit of the packed distances (half a coarse voxel)


def corner_table(device: torch.device | str) -> Tensor:
    """Lattice index (0..124) of corner j (x fastest) of fine voxel (i, j, k) in a coarse voxel: [4, 4, 4, 8]."""
    axis = torch.arange(FINE, device=device)
    fine = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)[..., None, :]
    j = torch.arange(8, device=device)
    offset = torch.stack([j & 1, (j >> 1) & 1, (j >> 2) & 1], -1)
    x, y, z = (fine + offset).unbind(-1)
    return (x * LATTICE + y) * LATTICE + z


def lattice_colors(colors: Tensor) -> Tensor:
    """Colours on 3^3 corners [N, 27, 3], linearly interpolated to the 5^3 lattice: [N, 125, 3]."""
    line = colors.new_tensor([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]])
    weights = torch.einsum("ax,by,cz->abcxyz", line, line, line).reshape(LATTICE**3, 27)
    return weights @ colors


def lattice_normals(sdf: Tensor) -> Tensor:
    """Unit gradients [N, 125, 3] of signed distances [N, 125]."""
    cube = sdf.view(-1, LATTICE, LATTICE, LATTICE)
    gradient = torch.stack(torch.gradient(cube, dim=(1, 2, 3)), -1).flatten(1, 3)
    return F.normalize(gradient, dim=-1)


class MeshLoss:
    """Direct supervision of the mesh decoder's raw channels at the corners of fine voxels."""

    def __init__(self, device: torch.device | str):
        self.corners = corner_table(device)

    def __call__(self, feats: Tensor, coords: Tensor, voxels: Voxels, parents: Tensor) -> dict[str, Tensor]:
        """Loss terms for fine voxels.

        feats [M, 101] raw decoder output, coords [M, 4] fine coordinates, parents [M] row of each one's coarse
        voxel in `voxels`.
        """
        local = (coords[:, 1:] % FINE).long()
        index = self.corners[local[:, 0], local[:, 1], local[:, 2]]
        lattice = parents[:, None] * LATTICE**3 + index
        sdf = voxels.sdf.view(-1)[lattice]
        raw = feats.float()
        # One fine cell is CELL; what counts is where the sign changes, so weigh corners by closeness.
        near = torch.exp(-(sdf / CELL).square() / 2)
        predicted = raw[:, 0:8]
        distance = ((predicted - sdf).abs() * (0.1 + near)).mean()
        sign = (F.softplus(-predicted * torch.sign(sdf) * 6) * near).mean()
        color = lattice_colors(voxels.colors).view(-1, 3)[lattice]
        normal = lattice_normals(voxels.sdf).view(-1, 3)[lattice]
        attributes = raw[:, 53:101].view(-1, 8, 6)
        weight = near[..., None]
        color_error = (torch.sigmoid(attributes[..., :3]) - color).abs()
        normal_error = (torch.sigmoid(attributes[..., 3:]) - (normal * 0.5 + 0.5)).abs()
        total = weight.sum().clamp(min=1) * 3
        return {
            "sdf": distance,
            "sign": sign,
            "mesh_color": (color_error * weight).sum() / total,
            "mesh_normal": (normal_error * weight).sum() / total,
            "neutral": raw[:, 8:53].square().mean(),
        }


class GaussianLoss:
    """Direct supervision of the Gaussians by surface samples of their own voxel."""

    def __init__(self, resolution: int, per_voxel: int, device: torch.device | str):
        axis = torch.linspace(0, 1, LATTICE, device=device)
        self.lattice = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
        self.resolution, self.per_voxel = resolution, per_voxel

    def samples(self, voxels: Voxels, rows: Tensor, count: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(points, normals, colours [n, count, 3], valid [n, count]) in voxel units, from voxels `rows`.

        The lattice corners closest to the surface, moved along the gradient onto it.
        """
        sdf = voxels.sdf[rows]
        jitter = sdf.abs() + 0.1 * torch.rand_like(sdf)
        index = jitter.topk(count, dim=1, largest=False).indices
        expand = index[..., None].expand(-1, -1, 3)
        distance = sdf.gather(1, index)
        normals = lattice_normals(sdf).gather(1, expand)
        points = self.lattice[index] - 0.5 * distance[..., None] * normals
        colors = lattice_colors(voxels.colors[rows]).gather(1, expand)
        return points, normals, colors, distance.abs() < 1.5 * CELL

    def __call__(self, decoder: SLatGaussianDecoder, out: SparseTensor, voxels: Voxels) -> dict[str, Tensor]:
        """Loss terms for up to 16,384 random voxels of the decoder's output."""
        n = len(out)
        rows = torch.randperm(n, device=out.feats.device)[: min(n, 16384)]
        coords = torch.cat([torch.zeros_like(out.coords[rows, :1]), out.coords[rows, 1:]], dim=1)
        (g,) = decoder.to_representation(SparseTensor(out.feats[rows].float(), coords))
        base = (coords[:, 1:].float() / self.resolution - 0.5)[:, None]
        k = self.per_voxel
        centers = (g.xyz.view(-1, k, 3) - base) * self.resolution
        points, normals, colors, valid = self.samples(voxels, rows)
        pair = torch.cdist(centers, points) + (~valid)[:, None, :] * 10.0
        to_surface, nearest = pair.min(2)
        to_gaussian = pair.min(1).values
        has = valid.any(1, keepdim=True).float()
        expand = nearest[..., None].expand(-1, -1, 3)
        color_error = (g.colors.view(-1, k, 3) - colors.gather(1, expand)).abs().mean(-1)
        scale = g.scaling.view(-1, k, 3) * self.resolution
        # Discs: 0.22 voxel across the surface, 0.05 through it; 8 of them tile a voxel's face.
        target = torch.tensor([0.22, 0.22, 0.05], device=scale.device)
        scale_error = (scale.log() - target.log()).abs().mean(-1)
        axis = g.rotation_matrix.view(-1, k, 3, 3)[..., 2]
        facing = (axis * normals.gather(1, expand)).sum(-1).abs()
        return {
            "gs_surface": (to_surface * has).mean() + (to_gaussian * valid).mean(),
            "gs_color": (color_error * has).mean(),
            "gs_scale": scale_error.mean(),
            "gs_normal": ((1 - facing) * has).mean(),
            "gs_opacity": (g.opacity - 0.95).abs().mean(),
        }


WEIGHTS = {
    "sdf": 4.0, "sign": 0.5, "mesh_color": 4.0, "mesh_normal": 0.2, "neutral": 0.02,
    "gs_surface": 0.5, "gs_color": 1.0, "gs_scale": 0.1, "gs_normal": 0.1, "gs_opacity": 0.1,
}  # fmt: skip


class SLatVaeStage(Stage):
    """Encoder and both decoders trained together; the mesh head on crops."""

    trained = ("encoder", "gaussians", "mesh")

    def __init__(self, model: dict, data: str, test: str, kl_weight: float, crop: int, max_voxels: int, device: str):
        super().__init__()
        self.encoder = SLatEncoder.from_args(**model["encoder"])
        self.gaussians = SLatGaussianDecoder.from_args(**model["gaussian_decoder"])
        self.mesh = SLatMeshDecoder.from_args(**model["mesh_decoder"])
        self.kl_weight, self.crop, self.max_voxels = kl_weight, crop, max_voxels
        self.data = PackedAssets(data, device, surface=True)
        self.test = PackedAssets(test, device, surface=True)
        self.mesh_loss = MeshLoss(device)
        per_voxel = self.gaussians.representation["num_gaussians"]
        self.gaussian_loss = GaussianLoss(self.data.resolution, per_voxel, device)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Whole assets, half of them recoloured, and, for the mesh head, one random crop of each."""
        ids = self.data.draw(batch_size, generator, self.max_voxels)
        voxels = self.data.voxels(ids)
        maps, _ = color_maps(batch_size, generator)
        voxels.colors = recolored_rows(voxels.colors, maps, voxels.coords[:, 0].long())
        return self._with_crop(voxels, batch_size, generator)

    def _with_crop(self, voxels: Voxels, batch_size: int, generator: torch.Generator) -> dict:
        """Add the rows of one box per asset, `crop` voxels wide and centred on a random voxel of it; maps of both."""
        batch = voxels.coords[:, 0].long()
        counts = torch.bincount(batch, minlength=batch_size)
        pick = torch.rand(batch_size, generator=generator, device=generator.device)
        seed_rows = (counts.cumsum(0) - counts) + (pick * counts).long()
        center = voxels.coords[seed_rows, 1:]
        reach = (voxels.coords[:, 1:] - center[batch]).abs().amax(1)
        rows = torch.nonzero(reach <= self.crop // 2).squeeze(1)
        sites, crop = Sites(voxels.coords), Sites(voxels.coords[rows])
        for block in self.encoder.blocks:  # the decoders have the same windows
            attention_sets(sites, *block.sets)
        neighbour_map(crop)
        return {"voxels": voxels, "rows": rows, "sites": sites, "crop": crop}

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """All terms, weighted."""
        voxels: Voxels = batch["voxels"]
        features = SparseTensor(voxels.features(), sites=batch["sites"])
        mean, logvar = self.encoder.posterior(features)
        slat = features.replace(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
        kl = kl_divergence(mean.float(), logvar.float())
        terms = self.gaussian_loss(self.gaussians, self.gaussians(slat), voxels)
        trunk = self.mesh.trunk(slat)
        rows = batch["rows"]
        fine = SparseTensor(trunk.feats[rows], sites=batch["crop"])
        for block in self.mesh.upsample:
            fine = block(fine)
        raw = self.mesh.out_layer(fine.feats)
        terms |= self.mesh_loss(raw, fine.coords, voxels, rows.repeat_interleave(FINE**3))
        loss = sum(WEIGHTS[k] * v for k, v in terms.items()) + self.kl_weight * kl
        return loss, {"kl": kl.detach(), **{k: v.detach() for k, v in terms.items()}}

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out loss terms; Gaussians and meshes decoded from posterior means."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        ids = torch.arange(min(32, len(self.test)), device=self.test.device)
        _, metrics = self.forward(self._with_crop(self.test.voxels(ids), len(ids), generator))
        voxels = self.test.voxels(ids[:2])
        features = SparseTensor(voxels.features(), voxels.coords)
        slat = features.replace(self.encoder.posterior(features)[0])
        images = [slat_photos(slat, decoder) for decoder in (self.gaussians, self.mesh)]
        save_sheet(folder, step, [image for pair in zip(*images, strict=True) for image in pair])
        return {f"test_{k}": float(v) for k, v in metrics.items()}

    def compile_parts(self) -> None:
        """Transformer blocks of all three, on rows in the order of their windows."""
        for network in (self.encoder, self.gaussians, self.mesh):
            network.advance = torch.compile(network.advance)

    def save_models(self, folder: Path) -> None:
        """`slat_encoder`, `slat_decoder_gs`, `slat_decoder_mesh`."""
        save_model(self.encoder, folder / "slat_encoder")
        save_model(self.gaussians, folder / "slat_decoder_gs")
        save_model(self.mesh, folder / "slat_decoder_mesh")


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    settings = {k: config[k] for k in ("kl_weight", "crop", "max_voxels")}
    run(SLatVaeStage(config["model"], **config["data"], **settings, device=device), loop, out)


if __name__ == "__main__":
    main()
