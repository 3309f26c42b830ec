"""Stage: the SLAT flow (noise on the active voxels -> structured latent, given image tokens).

    accelerate launch -m train.slat_flow --config train/configs/mini/slat_flow.yaml

Flow matching on latents normalised per channel (spec/trellis 1.6, 9.4). Latents are the SLAT encoder's
posterior means, computed once at the start, of every asset in its own colours and in one random recolouring
(train/recolor.py), which its pictures then get too; the mean and standard deviation of the former are written next
to the model as `slat_normalization.json`.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models.checkpoint import load_model, save_model
from gap3d_app.models.slat_flow import SLatFlowModel
from gap3d_app.sparse.conv import neighbour_map
from gap3d_app.sparse.resample import pooled_sites, unpooled_products
from gap3d_app.sparse.tensor import Sites, SparseTensor
from train.data.packed import PackedAssets
from train.flow_matching import ConditionSource, noisy_state, sample_times
from train.loop import Stage, compile_modules, read_config, run, training_device
from train.recolor import color_maps, recolored_rows
from train.samples import photo, save_sheet, slat_photos

ENCODED_AT_ONCE = 256
"""Assets; with fewer the device waits for launches."""


def flow_sites(coords: Tensor) -> Sites:
    """Voxels [N, 4] with the maps that a flow that pools once needs of them."""
    sites = Sites(coords)
    coarse, _ = pooled_sites(sites)
    for level in (sites, coarse):
        neighbour_map(level)
        level.segments.padding  # noqa: B018  made for the rows' times
    unpooled_products(coarse)
    return sites


class SLatFlowStage(Stage):
    """The flow, conditioned on the frozen image encoder."""

    trained = ("flow",)

    def __init__(
        self, model: dict, data: str, test: str, parts: dict, condition: dict, views: int, max_voxels: int,
        times: dict, device: str,
    ):  # fmt: skip
        super().__init__()
        self.flow = SLatFlowModel.from_args(**model)
        self.max_voxels, self.times = max_voxels, times
        self.data = PackedAssets(data, device, views=views, surface=True)
        self.test = PackedAssets(test, device, views=views, surface=True)
        self.condition = ConditionSource(parts["image_encoder"], assets=len(self.data), device=device, **condition)
        encoder = load_model(parts["slat_encoder"], device=device).eval()
        stem = parts.get("slat_decoder")
        self._decoder = [load_model(stem, device=device).eval().requires_grad_(False)] if stem else []
        own = color_maps(len(self.data), torch.Generator(device).manual_seed(0), 0.0)[0]
        other = color_maps(len(self.data), torch.Generator(device).manual_seed(1), 1.0)[0]
        self.maps = torch.stack([own, other])
        latents = [self._encode(encoder, self.data, maps) for maps in self.maps]
        self.mean, self.std = latents[0].mean(0), latents[0].std(0).clamp(min=1e-4)
        self.latents = torch.stack([((part - self.mean) / self.std).half() for part in latents])
        true_colors = color_maps(len(self.test), torch.Generator(device).manual_seed(0), 0.0)[0]
        self.test_maps = true_colors[None]
        test = self._encode(encoder, self.test, true_colors)
        self.test_latents = ((test - self.mean) / self.std)[None]
        self.data.forget_surface()
        self.test.forget_surface()

    @torch.no_grad()
    def _encode(self, encoder, data: PackedAssets, maps: Tensor) -> Tensor:
        """Posterior means [all voxels, 8] of every asset in the colours of `maps` [A, 3, 3]."""
        out = []
        for start in range(0, len(data), ENCODED_AT_ONCE):
            ids = torch.arange(start, min(start + ENCODED_AT_ONCE, len(data)), device=data.device)
            voxels = data.voxels(ids)
            voxels.colors = recolored_rows(voxels.colors, maps[ids], voxels.coords[:, 0].long())
            with torch.autocast(data.device.type, torch.bfloat16, enabled=data.device.type == "cuda"):
                mean, _ = encoder.posterior(SparseTensor(voxels.features(), voxels.coords))
            out.append(mean.float())
        return torch.cat(out)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Noisy latents of random assets, half of them recoloured, with condition tokens and times."""
        ids = self.data.draw(batch_size, generator, self.max_voxels)
        variant = torch.randint(2, (batch_size,), generator=generator, device=ids.device)
        from_text = self.condition.draw_generated(batch_size, generator)
        variant[from_text] = 0  # a prompt with words names the asset's own colours
        t = sample_times(batch_size, generator, **self.times)
        return self._batch(self.data, self.latents, self.maps, ids, variant, t, generator, from_text)

    def _batch(
        self, data: PackedAssets, latents: Tensor, maps: Tensor, ids: Tensor, variant: Tensor, t: Tensor,
        generator: torch.Generator, from_text: Tensor | None = None,
    ) -> dict:  # fmt: skip
        """Assets `ids` [B] at times `t` [B], in colours `variant` [B] of `latents` [variants, voxels, 8] and `maps`
        [variants, A, 3, 3]."""
        rows, batch = data.rows(ids)
        x0 = latents[variant[batch], rows].float()
        coords = torch.cat([batch[:, None].int(), data.coords[rows].int()], dim=1)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        x_t, velocity = noisy_state(x0, noise, t[batch][:, None])
        cond = self.condition(data, ids, generator, maps[variant, ids], from_text)
        return {"x": x_t, "sites": flow_sites(coords), "t": t * 1000, "v": velocity, "cond": cond}

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the velocity over all voxels."""
        v = self.flow(SparseTensor(batch["x"], sites=batch["sites"]), batch["t"], batch["cond"])
        return (v.feats.float() - batch["v"]).square().mean(), {}

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out velocity error in true colours, at TRELLIS's times whatever those of the training are; assets
        sampled on their true voxels, beside their picture."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        ids = self.test.draw(min(64, len(self.test)), generator, self.max_voxels)
        own, t = torch.zeros_like(ids), sample_times(len(ids), generator)
        batch = self._batch(self.test, self.test_latents, self.test_maps, ids, own, t, generator)
        if self._decoder:
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
        pictures = zip(images, slat_photos(made, self._decoder[0]), strict=True)
        save_sheet(folder, step, [p for image, result in pictures for p in (photo(image), result)])

    def compile_parts(self) -> None:
        """Transformer blocks of the flow and of the image encoder."""
        compile_modules((*self.flow.blocks, *self.condition.encoder.blocks()))

    def save_models(self, folder: Path) -> None:
        """`slat_flow` and the normalisation of its latents."""
        save_model(self.flow, folder / "slat_flow")
        numbers = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        (folder / "slat_normalization.json").write_text(json.dumps(numbers, indent=1))


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    settings = {k: config[k] for k in ("parts", "condition", "views", "max_voxels", "times")}
    stage = SLatFlowStage(config["model"], **config["data"], **settings, device=device)
    run(stage, loop, out)


if __name__ == "__main__":
    main()
