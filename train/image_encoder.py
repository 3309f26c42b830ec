"""Stage: the image encoder of gap3d-mini, a small ViT with registers, multi-task supervised.

    accelerate launch -m train.image_encoder --config train/configs/mini/image_encoder.yaml

Why supervised and not self-distilled: the tokens have two readers, the structure flow, which needs pose and
shape, and the SLAT flow, which needs colour where it is seen. Procedural assets know all of that exactly, so
every image gives dense targets for free, and minutes of training do what self-distillation needs days for.

Heads (thrown away afterwards) read the same layer-normalised tokens that the flows will read:
* CLS: category, main colour, finish (cross-entropy);
* each patch: its 4x4 down-sampled colours; normals, depth and positions on the object at 2x2 (L1). Pictures are cropped
  to the object, so where a patch belongs in the object's cube is not told by where it is in the picture;
* all tokens: 512 learnt queries, one per cell of an 8^3 grid in the asset's own frame, cross-attend to the
  tokens and say which of their 4^3 voxels are occupied (binary cross-entropy). This is what teaches pose.
The heads see the tokens with noise, of a random size up to `noise`: prompts lead to tokens that are not exact (mean
cosine 0.9), and what is told by a faint direction of a clean token is lost there.
Augmentation: small crops and shifts, brightness, saturation, noise, half of the assets mirrored (train/mirror.py),
and for half of the pictures other colours (train/recolor.py), whose colour label is then unknown: categories must
not be told by their usual colours.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.models.checkpoint import save_model
from gap3d_app.models.image_encoder import ImageEncoder
from gap3d_app.render.pictures import token_basis, token_picture
from train.data.packed import PackedAssets
from train.loop import Stage, compile_modules, read_config, run, training_device
from train.mirror import draw_mirrored, mirrored_geometry, mirrored_grid, mirrored_images
from train.recolor import color_maps, recolored
from train.samples import photo, save_sheet


def augment(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Jittered copies of `images` [B, 3, H, W] in 0..1, and the affine maps [B, 2, 3] that were applied.

    Zoom 0.9 to 1.15, shift up to 5 % of the side, brightness 0.75 to 1.25, saturation 0.8 to 1.2, noise.
    """
    b, device = len(images), images.device
    r = torch.rand(b, 6, generator=generator, device=device)
    zoom = 0.9 + 0.25 * r[:, 0]
    theta = torch.zeros(b, 2, 3, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / zoom
    theta[:, :, 2] = (r[:, 1:3] - 0.5) * 0.2
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False)
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * (0.8 + 0.4 * r[:, 3, None, None, None])
    images = images * (0.75 + 0.5 * r[:, 4, None, None, None])
    noise = torch.randn(images.shape, generator=generator, device=device)
    return (images + 0.03 * r[:, 5, None, None, None] * noise).clamp(0, 1), theta


class ReadOut(nn.Module):
    """Learnt queries over tokens, each for the `values` of one cell: by default 4^3 voxels of the 32^3 grid."""

    def __init__(self, width: int, cells: int = 512, values: int = 64):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, cells, width) * 0.02)
        layer = {"d_model": width, "nhead": 4, "dim_feedforward": 2 * width, "batch_first": True}
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**layer, dropout=0.0, activation="gelu", norm_first=True), 2
        )
        self.out = nn.Linear(width, values)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, C] to [B, cells, values]."""
        return self.out(self.decoder(self.queries.expand(len(tokens), -1, -1), tokens))


def cells_of(grid: Tensor) -> Tensor:
    """Occupancy [B, 1, 32, 32, 32] to [B, 512 cells, 64 voxels], both row-major."""
    b = len(grid)
    grid = grid.view(b, 8, 4, 8, 4, 8, 4).permute(0, 1, 3, 5, 2, 4, 6)
    return grid.reshape(b, 512, 64)


def occupancy_loss(logits: Tensor, cells: Tensor, stress: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(loss, IoU over all voxels of the batch) of a `ReadOut`'s logits; all [B, 512, 64]; `stress`: factors."""
    weight = torch.tensor(3.0, device=cells.device)  # few voxels are occupied
    loss = F.binary_cross_entropy_with_logits(logits, cells, stress, pos_weight=weight)
    hit, either = ((logits > 0) & (cells > 0)).sum(), ((logits > 0) | (cells > 0)).sum()
    return loss, hit / either.clamp(min=1)


class ImageEncoderStage(Stage):
    """Encoder and its throw-away heads."""

    trained = ("encoder", "labels", "patches", "occupancy")

    def __init__(self, model: dict, data: str, test: str, views: int, noise: float, device: str):
        super().__init__()
        self.noise = noise
        self.encoder = ImageEncoder.from_args(**model)
        self.data = PackedAssets(data, device, views=views, geometry=True)
        self.test = PackedAssets(test, device, views=views, geometry=True)
        width = self.encoder.config.hidden_size
        self.sizes = [len(self.data.categories), len(self.data.color_names), len(self.data.finishes)]
        self.labels = nn.Linear(width, sum(self.sizes))
        self.patches = nn.Linear(width, 3 * 16 + 7 * 4)
        self.occupancy = ReadOut(width)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Random views, augmented, with their targets."""
        return self._batch(self.data, batch_size, generator, True)

    def _batch(self, data: PackedAssets, batch_size: int, generator: torch.Generator, jitter: bool) -> dict:
        device = generator.device
        ids = data.draw(batch_size, generator)
        view = torch.randint(data.views.shape[1], (batch_size,), generator=generator, device=device)
        images = data.images(ids, view)
        geometry = data.geometry[ids, view].permute(0, 3, 1, 2).float() / 127
        labels = torch.stack([data.category[ids], data.color[ids], data.finish[ids]], 1).long()
        voxels = data.occupancy(ids)
        if jitter:
            chosen = draw_mirrored(batch_size, generator)
            images, geometry = mirrored_images(images, chosen), mirrored_geometry(geometry, chosen)
            voxels = mirrored_grid(voxels, chosen)
            maps, changed = color_maps(batch_size, generator)
            labels[changed, 1] = -1
            images, theta = augment(recolored(images, maps), generator)
            grid = F.affine_grid(theta, list(geometry.shape), align_corners=False)
            geometry = F.grid_sample(geometry, grid, align_corners=False)
        tokens = batch_size, self.encoder.num_tokens, self.encoder.config.hidden_size
        noise = torch.randn(tokens, generator=generator, device=device)
        size = self.noise * jitter * torch.rand(batch_size, 1, 1, generator=generator, device=device)
        return {
            "images": images,
            "geometry": geometry,
            "labels": labels,
            "grid": voxels,
            "noise": size * noise,
        }

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the heads' losses."""
        tokens = self.encoder.encode(batch["images"]).float() + batch["noise"]
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        side = self.encoder.grid_size
        metrics, loss = {}, 0.0
        logits = self.labels(tokens[:, 0]).float().split(self.sizes, 1)
        for i, (name, weight) in enumerate((("category", 0.5), ("color", 0.5), ("finish", 0.2))):
            target = batch["labels"][:, i]
            loss = loss + weight * known_cross_entropy(logits[i], target)
            metrics[f"acc_{name}"] = known_accuracy(logits[i].detach(), target)
        patch_tokens = tokens[:, -side * side :]
        dense = self.patches(patch_tokens).float()
        rgb, geo = dense.split([48, 28], dim=2)
        rgb_loss = F.l1_loss(rgb, per_patch(batch["images"], side, 4))
        geo_loss = F.l1_loss(geo, per_patch(batch["geometry"], side, 2))
        occ_loss, iou = occupancy_loss(self.occupancy(tokens).float(), cells_of(batch["grid"]))
        metrics |= {"rgb_l1": rgb_loss.detach(), "geometry_l1": geo_loss.detach(), "occupancy": occ_loss.detach()}
        metrics["occupancy_iou"] = iou
        return loss + 4 * rgb_loss + 4 * geo_loss + 4 * occ_loss, metrics

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out metrics; pictures beside their token grids."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        batch = self._batch(self.test, min(512, 2 * len(self.test)), generator, False)
        grids = self.encoder.encode(batch["images"][:8])
        basis = token_basis(grids[:, -self.encoder.grid_size**2 :].flatten(0, 1))
        shown = zip(batch["images"], grids, strict=False)
        pairs = [(photo(image), token_picture(grid, basis=basis)) for image, grid in shown]
        save_sheet(folder, step, [picture for pair in pairs for picture in pair], columns=4)
        return {f"test_{k}": float(v) for k, v in self.forward(batch)[1].items()}

    def compile_parts(self) -> None:
        """Transformer layers and the 3-D head."""
        compile_modules((*self.encoder.blocks(), self.occupancy))

    def save_models(self, folder: Path) -> None:
        """`image_encoder`."""
        save_model(self.encoder, folder / "image_encoder")


def known_cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the samples whose label is known (not -1); 0 if none is."""
    total = F.cross_entropy(
        logits.float(), target, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing
    )
    return total / (target >= 0).sum().clamp(min=1)


def known_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Share of right answers among the samples whose label is known; 0 if none is."""
    return (logits.argmax(1) == target).sum() / (target >= 0).sum().clamp(min=1)


def per_patch(maps: Tensor, side: int, cells: int) -> Tensor:
    """Maps [B, C, H, W] averaged to `cells` x `cells` per patch: [B, side * side, C * cells * cells]."""
    b, c = maps.shape[:2]
    maps = F.adaptive_avg_pool2d(maps, side * cells).view(b, c, side, cells, side, cells)
    return maps.permute(0, 2, 4, 1, 3, 5).reshape(b, side * side, c * cells * cells)


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    settings = {k: config[k] for k in ("views", "noise")}
    run(ImageEncoderStage(config["model"], **config["data"], **settings, device=device), loop, out)


if __name__ == "__main__":
    main()
