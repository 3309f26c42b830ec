"""Stage: the SLAT flow (noise on the active voxels -> structured latent, given image tokens).

    accelerate launch -m train.slat_flow --config train/configs/mini/slat_flow.yaml

Flow matching on latents normalised per channel (spec/trellis 1.6, 9.4). Latents are the SLAT encoder's
posterior means, made anew for every batch, because half of the assets are recoloured, picture and surface alike
(train/recolor.py); the encoder's forward pass costs a tenth of a step. Their mean and standard deviation are written
next to the model as `slat_normalization.json`.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models.checkpoint import load_model, save_model
from gap3d_app.models.slat_flow import SLatFlowModel
from gap3d_app.sparse.tensor import SparseTensor
from train.data.packed import PackedAssets, Voxels
from train.flow_matching import ConditionSource, noisy_state, sample_times
from train.loop import Stage, read_config, run
from train.recolor import color_maps, recolored_rows
from train.samples import photo, save_sheet, slat_photos


class SLatFlowStage(Stage):
    """The flow, conditioned on the frozen image encoder."""

    trained = ("flow",)

    def __init__(
        self, model: dict, data: str, test: str, parts: dict, condition: dict, views: int, max_voxels: int, device: str
    ):
        super().__init__()
        self.flow = SLatFlowModel.from_args(**model)
        self.max_voxels = max_voxels
        self.data = PackedAssets(data, device, views=views, surface=True)
        self.test = PackedAssets(test, device, views=views, surface=True)
        self.condition = ConditionSource(parts["image_encoder"], device=device, **condition)
        self._encoder = load_model(parts["slat_encoder"], device=device).eval().requires_grad_(False)
        stem = parts.get("slat_decoder")
        self._decoder = load_model(stem, device=device).eval().requires_grad_(False) if stem else None
        self.mean, self.std = self._statistics()

    @torch.no_grad()
    def _encode(self, voxels: Voxels) -> SparseTensor:
        """Posterior means, float32."""
        x = SparseTensor(voxels.features(), voxels.coords)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            mean, _ = self._encoder.posterior(x)
        return x.replace(mean.float())

    def _statistics(self, assets: int = 2048) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [8] of the latents, over `assets` that spread over the whole set."""
        ids = torch.linspace(0, len(self.data) - 1, min(assets, len(self.data)), device=self.data.device).long()
        feats = torch.cat([self._encode(self.data.voxels(part)).feats for part in ids.split(64)])
        return feats.mean(0), feats.std(0).clamp(min=1e-4)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Noisy latents of random assets with condition tokens and times."""
        ids = self.data.draw(batch_size, generator, self.max_voxels)
        return self._batch(self.data, ids, color_maps(batch_size, generator)[0], generator)

    def _batch(self, data: PackedAssets, ids: Tensor, maps: Tensor, generator: torch.Generator) -> dict:
        voxels = data.voxels(ids)
        batch = voxels.coords[:, 0].long()
        voxels.colors = recolored_rows(voxels.colors, maps, batch)
        latents = self._encode(voxels)
        x0 = (latents.feats - self.mean) / self.std
        t = sample_times(len(ids), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        x_t, velocity = noisy_state(x0, noise, t[batch][:, None])
        cond = self.condition(data, ids, generator, maps)
        return {"x": latents.replace(x_t), "t": t * 1000, "v": velocity, "cond": cond}

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the velocity over all voxels."""
        v = self.flow(batch["x"], batch["t"], batch["cond"])
        return (v.feats.float() - batch["v"]).square().mean(), {}

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out velocity error in true colours; assets sampled on their true voxels, beside their picture."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        ids = self.test.draw(min(64, len(self.test)), generator, self.max_voxels)
        batch = self._batch(self.test, ids, color_maps(len(ids), generator, 0.0)[0], generator)
        if self._decoder is not None:
            self._draw_samples(folder, step, generator)
        return {"test_loss": float(self.forward(batch)[0])}

    def _draw_samples(self, folder: Path, step: int, generator: torch.Generator, count: int = 2) -> None:
        """12 steps without guidance on the true voxels of the first held-out assets, decoded."""
        ids = torch.arange(min(count, len(self.test)), device=self.test.device)
        images, coords = self.test.images(ids, 0), self.test.coords_of(ids)
        cond = self.condition.encoder.encode(images).float()
        noise = torch.randn(len(coords), self.mean.shape[0], generator=generator, device=coords.device)
        sampler = FlowSampler(steps=12, rescale_t=3.0, cfg_strength=0.0)
        made = sampler.sample(self.flow, SparseTensor(noise, coords), cond, torch.zeros_like(cond))
        made = made.replace(made.feats.float() * self.std + self.mean)
        pictures = zip(images, slat_photos(made, self._decoder), strict=True)
        save_sheet(folder, step, [p for image, result in pictures for p in (photo(image), result)])

    def hot_modules(self):
        """Transformer blocks see a different token count each step: not worth compiling."""
        return ()

    def save_models(self, folder: Path) -> None:
        """`slat_flow` and the normalisation of its latents."""
        save_model(self.flow, folder / "slat_flow")
        numbers = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        (folder / "slat_normalization.json").write_text(json.dumps(numbers, indent=1))


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {k: config[k] for k in ("parts", "condition", "views", "max_voxels")}
    stage = SLatFlowStage(config["model"], **config["data"], **settings, device=device)
    run(stage, loop, out)


if __name__ == "__main__":
    main()
