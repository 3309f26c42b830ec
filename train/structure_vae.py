"""Stage: the structure VAE (occupancy 32^3 <-> latent 8^3 x 8).

    accelerate launch -m train.structure_vae --config train/configs/mini/structure_vae.yaml

Loss (TRELLIS, spec/trellis 9.4): soft dice over the batch and 1e-3 KL; here with a binary cross-entropy
beside the dice, which sharpens thin parts early. Augmentation: mirrors and quarter turns about all axes,
since occupancy has no preferred pose for this network.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.models.checkpoint import save_model
from gap3d_app.models.structure_vae import SparseStructureDecoder, SparseStructureEncoder
from train.data.packed import PackedAssets
from train.loop import Stage, compile_modules, read_config, run, training_device
from train.samples import save_sheet, voxel_photo


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean KL of N(mean, exp(logvar)) to N(0, 1) per element."""
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1).mean()


def intersection_over_union(logits: Tensor, target: Tensor) -> Tensor:
    """IoU [B] of the occupancies `logits > 0` and `target > 0.5`."""
    a, b = (logits > 0).flatten(1), (target > 0.5).flatten(1)
    return (a & b).sum(1) / (a | b).sum(1).clamp(min=1)


def random_symmetry(grid: Tensor, generator: torch.Generator) -> Tensor:
    """The batch under one random signed axis permutation (48 symmetries of the cube)."""
    draw = torch.rand(6, generator=generator, device=generator.device).tolist()
    axes = sorted(range(3), key=lambda a: draw[a])
    grid = grid.permute(0, 1, *(2 + a for a in axes))
    flips = [2 + a for a in range(3) if draw[3 + a] < 0.5]
    return grid.flip(flips) if flips else grid


class StructureVaeStage(Stage):
    """Encoder and decoder trained together."""

    trained = ("encoder", "decoder")

    def __init__(self, model: dict, data: str, test: str, kl_weight: float, device: str):
        super().__init__()
        self.encoder = SparseStructureEncoder.from_args(**model["encoder"])
        self.decoder = SparseStructureDecoder.from_args(**model["decoder"])
        self.kl_weight = kl_weight
        self.data = PackedAssets(data, device)
        self.test = PackedAssets(test, device)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Occupancies under a random symmetry."""
        ids = self.data.draw(batch_size, generator)
        return {"grid": random_symmetry(self.data.occupancy(ids), generator)}

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Dice, cross-entropy and KL."""
        grid = batch["grid"]
        mean, logvar = self.encoder.posterior(grid)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        logits = self.decoder(z).float()
        p = torch.sigmoid(logits)
        dice = 1 - (2 * (p * grid).sum() + 1) / (p.sum() + grid.sum() + 1)
        bce = F.binary_cross_entropy_with_logits(logits, grid, pos_weight=torch.tensor(4.0, device=grid.device))
        kl = kl_divergence(mean.float(), logvar.float())
        metrics = {"dice": dice.detach(), "bce": bce.detach(), "kl": kl.detach()}
        metrics["iou"] = intersection_over_union(logits.detach(), grid).mean()
        metrics["latent_std"] = mean.detach().std()
        return dice + bce + self.kl_weight * kl, metrics

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out IoU through the posterior mean; voxels beside their reconstruction."""
        scores, images = [], []
        for start in range(0, len(self.test), 64):
            ids = torch.arange(start, min(start + 64, len(self.test)), device=self.test.device)
            grid = self.test.occupancy(ids)
            logits = self.decoder(self.encoder.posterior(grid)[0])
            scores.append(intersection_over_union(logits, grid))
            if start == 0:
                images = [voxel_photo(g) for pair in zip(grid[:4], logits, strict=False) for g in pair]
        save_sheet(folder, step, images)
        return {"test_iou": float(torch.cat(scores).mean())}

    def compile_parts(self) -> None:
        """Both networks."""
        compile_modules((self.encoder, self.decoder))

    def save_models(self, folder: Path) -> None:
        """`structure_encoder` and `structure_decoder`."""
        save_model(self.encoder, folder / "structure_encoder")
        save_model(self.decoder, folder / "structure_decoder")


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    stage = StructureVaeStage(config["model"], **config["data"], kl_weight=config["kl_weight"], device=device)
    run(stage, loop, out)


if __name__ == "__main__":
    main()
