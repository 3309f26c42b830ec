"""Stage: the structure flow (noise -> structure latent 8^3 x 8, given image tokens).

    accelerate launch -m train.structure_flow --config train/configs/mini/structure_flow.yaml

Flow matching with logit-normal times, null condition with probability 0.1 (spec/trellis 9.4). Latents are
the structure VAE's posterior means, of every asset and of its mirror image (train/mirror.py), computed once at
the start and kept on the device.
"""

from pathlib import Path

import torch
from torch import Tensor

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models.checkpoint import load_model, save_model
from gap3d_app.models.structure_flow import SparseStructureFlowModel
from train.data.packed import PackedAssets
from train.flow_matching import ConditionSource, noisy_state, sample_times
from train.loop import Stage, compile_modules, read_config, run, training_device
from train.mirror import draw_mirrored, mirrored_grid
from train.recolor import color_maps
from train.samples import photo, save_sheet, voxel_photo
from train.structure_vae import intersection_over_union


class StructureFlowStage(Stage):
    """The flow, conditioned on the frozen image encoder."""

    trained = ("flow",)

    def __init__(self, model: dict, data: str, test: str, parts: dict, condition: dict, views: int, device: str):
        super().__init__()
        self.flow = SparseStructureFlowModel.from_args(**model)
        self.data = PackedAssets(data, device, views=views)
        self.test = PackedAssets(test, device, views=views)
        self.condition = ConditionSource(parts["image_encoder"], assets=len(self.data), device=device, **condition)
        self._decoder = [load_model(parts["structure_decoder"], device=device).eval()]
        encoder = load_model(parts["structure_encoder"], device=device).eval()
        self.latents = torch.stack([self._encode(encoder, self.data, mirrored) for mirrored in (False, True)])

    @torch.no_grad()
    def _encode(self, encoder, data: PackedAssets, mirrored: bool) -> Tensor:
        """Posterior means [A, 8, 8, 8, 8] of every asset, or of its mirror image."""
        out = []
        for start in range(0, len(data), 256):
            ids = torch.arange(start, min(start + 256, len(data)), device=data.device)
            grid = mirrored_grid(data.occupancy(ids), torch.full_like(ids, mirrored, dtype=torch.bool))
            out.append(encoder.posterior(grid)[0].float())
        return torch.cat(out)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Latents, condition tokens, noise and times."""
        device = generator.device
        ids = self.data.draw(batch_size, generator)
        from_text = self.condition.draw_generated(batch_size, generator)
        mirrored = draw_mirrored(batch_size, generator) & ~from_text
        x0 = self.latents[mirrored.long(), ids]
        t = sample_times(batch_size, generator)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        x_t, velocity = noisy_state(x0, noise, t.view(-1, 1, 1, 1, 1))
        maps = color_maps(batch_size, generator)[0]
        cond = self.condition(self.data, ids, generator, maps, from_text, mirrored)
        return {"x": x_t, "t": t * 1000, "v": velocity, "cond": cond}

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the velocity."""
        v = self.flow(batch["x"], batch["t"], batch["cond"]).float()
        return (v - batch["v"]).square().mean(), {}

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out image-to-structure IoU (view 0, 12 steps, guidance 2); picture, truth and result."""
        ids = torch.arange(min(128, len(self.test)), device=self.test.device)
        images = self.test.images(ids, 0)
        cond = self.condition.encoder.encode(images).float()
        generator = torch.Generator(ids.device).manual_seed(0)
        noise = torch.randn(len(ids), *self.latents.shape[2:], generator=generator, device=ids.device)
        sampler = FlowSampler(steps=12, rescale_t=3.0, cfg_strength=2.0, cfg_interval=(0.5, 1.0))
        z = sampler.sample(self.flow, noise, cond, torch.zeros_like(cond))
        logits = self._decoder[0](z)
        truth = self.test.occupancy(ids)
        scores = intersection_over_union(logits, truth)
        rows = zip(images[:4], truth, logits, strict=False)
        save_sheet(folder, step, [p for i, a, b in rows for p in (photo(i), voxel_photo(a), voxel_photo(b))], None, 3)
        empty = (logits > 0).flatten(1).sum(1).eq(0).sum()
        return {"test_iou": float(scores.mean()), "test_empty": float(empty)}

    def compile_parts(self) -> None:
        """Transformer blocks of the flow and of the image encoder."""
        compile_modules((*self.flow.blocks, *self.condition.encoder.blocks()))

    def save_models(self, folder: Path) -> None:
        """`structure_flow`."""
        save_model(self.flow, folder / "structure_flow")


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    settings = {k: config[k] for k in ("parts", "condition", "views")}
    stage = StructureFlowStage(config["model"], **config["data"], **settings, device=device)
    run(stage, loop, out)


if __name__ == "__main__":
    main()
