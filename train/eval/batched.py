"""The pipeline of the app on many requests at once, with the same settings, noise and parts.

Request i with seed s gets what `Gap3DPipeline` makes of it with seed s, up to the rounding of batched sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.geometry.flexicubes import extract
from gap3d_app.models.grid_sampling import draw_grid_noise, generate_grid, grid_sampler
from gap3d_app.models.pictures import square_picture
from gap3d_app.pipeline import STRUCTURE_TRIES, Gap3DPipeline, stage_generator
from gap3d_app.prompt import Prompt, preprocess_image
from gap3d_app.settings import Settings
from gap3d_app.sparse.tensor import SparseTensor
from gap3d_app.values import Mesh

EVALUATION_PARTS = ("structure_encoder", "slat_encoder")
"""Networks beside those of the app; they lie in the weights folder under these names."""

BATCHES = {"cuda": {"grid": 100, "structure": 100, "slat": 20, "mesh": 10}}
SMALL_BATCHES = {"grid": 8, "structure": 8, "slat": 2, "mesh": 1}


@dataclass
class Request:
    """One thing to make: text, a picture (RGBA), or both."""

    text: str = ""
    picture: Image.Image | None = None
    seed: int = 0


@dataclass
class Made:
    """What came out: tokens [N, C] of the grid; coords [V, 3] (None when empty); mesh (None when empty)."""

    tokens: Tensor
    coords: Tensor | None = None
    mesh: Mesh | None = None


class BatchPipeline(Gap3DPipeline):
    """Adds batches and the encoders to the app's pipeline."""

    def __init__(self, folder, args: dict, weights_hash: str, device: torch.device, dtype: torch.dtype):
        extra = {name: name for name in EVALUATION_PARTS if (folder / f"{name}.json").is_file()}
        super().__init__(folder, {**args, "models": {**args["models"], **extra}}, weights_hash, device, dtype)
        self.batches = BATCHES.get(device.type, SMALL_BATCHES)

    def part(self, name: str) -> torch.nn.Module:
        """A network by its role, loaded on first use."""
        return self._part(name)

    @property
    def resolution(self) -> int:
        """Voxels per axis."""
        return self.part("slat_flow").config.resolution

    def make(self, requests: list[Request], settings: Settings) -> Iterator[Made]:
        """One `Made` per request, in order; meshes of one small batch at a time are alive."""
        for start in range(0, len(requests), self.batches["grid"]):
            chunk = requests[start : start + self.batches["grid"]]
            tokens = self.grids(chunk, settings)
            coords = self.structures(tokens, [r.seed for r in chunk], settings)
            for first in range(0, len(chunk), self.batches["slat"]):
                rows = slice(first, first + self.batches["slat"])
                seeds = [r.seed for r in chunk[rows]]
                meshes = self.surfaces(tokens[rows], coords[rows], seeds, settings)
                for t, c, mesh in zip(tokens[rows], coords[rows], meshes, strict=True):
                    yield Made(t, c, mesh)

    @torch.no_grad()
    def encode(self, pictures: list[Image.Image]) -> Tensor:
        """Tokens [B, N, C] of pictures that are already cropped and on black."""
        encoder = self.part("image_encoder")
        size = encoder.config.image_size
        batch = torch.stack([square_picture(p, size) for p in pictures])
        return encoder.encode(batch.to(self.device)).float()

    @torch.no_grad()
    def grids(self, requests: list[Request], settings: Settings) -> Tensor:
        """Token grids [B, N, C] of requests that are all of one kind (text, picture, or both)."""
        size = self.part("image_encoder").config.image_size
        prompts = [Prompt.read(r.text, r.picture) for r in requests]
        pictures = [preprocess_image(p.picture.rgba, size) for p in prompts if p.picture is not None]
        if pictures and not prompts[0].text:
            return self.encode(pictures)
        dit = self.part("grid_dit")
        # A clone, because tensors made in inference mode cannot take part in further work.
        condition = self.part("prompt_encoder")([p.text for p in prompts], pictures or None).clone().float()
        params = self._sampler_params("grid_sampler", "steps", "guidance_scale")
        sampler = grid_sampler(settings.grid_steps, settings.grid_guidance, **params)
        generators = [stage_generator(r.seed, "grid") for r in requests]
        return generate_grid(dit, condition, draw_grid_noise(dit.config, generators, device=self.device), sampler)

    @torch.no_grad()
    def structures(self, tokens: Tensor, seeds: list[int], settings: Settings) -> list[Tensor | None]:
        """Voxels [V, 3] per grid; an empty structure is tried again as in the app, then None."""
        flow, decoder = self.part("structure_flow"), self.part("structure_decoder")
        sampler = FlowSampler(
            steps=settings.structure_steps, cfg_strength=settings.structure_guidance,
            **self._sampler_params("structure_sampler", "steps", "cfg_strength"),
        )  # fmt: skip
        shape = (1, flow.config.in_channels, *[flow.config.resolution] * 3)
        found: list[Tensor | None] = [None] * len(seeds)
        for attempt in range(STRUCTURE_TRIES):
            empty = [i for i, coords in enumerate(found) if coords is None]
            for start in range(0, len(empty), self.batches["structure"]):
                rows = empty[start : start + self.batches["structure"]]
                noise = [torch.randn(shape, generator=stage_generator(seeds[i] + attempt, "structure")) for i in rows]
                cond = tokens[rows]
                z = sampler.sample(flow, torch.cat(noise).to(self.device), cond, torch.zeros_like(cond))
                for i, logits in zip(rows, decoder(z), strict=True):
                    coords = torch.argwhere(logits[0] > 0)
                    found[i] = coords if len(coords) else None
        return found

    @torch.no_grad()
    def surfaces(
        self, tokens: Tensor, coords: list[Tensor | None], seeds: list[int], settings: Settings
    ) -> list[Mesh | None]:
        """Coloured meshes on the given voxels; None where there are none or the surface is empty."""
        alive = [i for i, c in enumerate(coords) if c is not None]
        meshes: list[Mesh | None] = [None] * len(coords)
        if not alive:
            return meshes
        flow = self.part("slat_flow")
        sampler = FlowSampler(
            steps=settings.slat_steps, cfg_strength=settings.slat_guidance,
            **self._sampler_params("slat_sampler", "steps", "cfg_strength"),
        )  # fmt: skip
        channels = flow.config.in_channels
        noise = [torch.randn(len(coords[i]), channels, generator=stage_generator(seeds[i], "slat")) for i in alive]
        voxels = [torch.nn.functional.pad(coords[i].int(), (1, 0), value=n) for n, i in enumerate(alive)]
        cond = tokens[alive]
        state = SparseTensor(torch.cat(noise).to(self.device), torch.cat(voxels), batch_size=len(alive))
        state = sampler.sample(flow, state, cond, torch.zeros_like(cond))
        numbers = self.args["slat_normalization"]
        std, mean = (state.feats.new_tensor(numbers[key]) for key in ("std", "mean"))
        for i, mesh in zip(alive, self.decode(state.replace(state.feats * std + mean)), strict=True):
            meshes[i] = mesh
        return meshes

    @torch.no_grad()
    def decode(self, latent: SparseTensor) -> Iterator[Mesh | None]:
        """The mesh of every batch element of a structured latent; None where there is no surface."""
        decoder = self.part("slat_decoder_mesh")
        size = self.batches["mesh"]
        for start in range(0, latent.batch_size, size):
            items = [latent[i] for i in range(start, min(start + size, latent.batch_size))]
            surface = decoder(SparseTensor.batched(items))
            for rows in surface.layout:
                cells, feats = surface.coords[rows, 1:], surface.feats[rows]
                if not torch.isfinite(feats).all():
                    yield None
                    continue
                mesh = extract(cells, feats, decoder.out_resolution, solid=True).to_mesh()
                yield None if mesh.is_empty else mesh

    @torch.no_grad()
    def reconstruct_structure(self, occupancy: Tensor) -> Tensor:
        """Occupancies [B, R, R, R] bool through the structure VAE: the decoded occupancies."""
        mean, _ = self.part("structure_encoder").posterior(occupancy[:, None].float())
        return self.part("structure_decoder")(mean)[:, 0] > 0

    @torch.no_grad()
    def reconstruct_surface(self, feats: Tensor, coords: Tensor) -> Iterator[Mesh | None]:
        """Surface features [V, 206] at coords [V, 4] through the SLAT VAE: the decoded meshes."""
        x = SparseTensor(feats, coords)
        mean, _ = self.part("slat_encoder").posterior(x)
        yield from self.decode(x.replace(mean.float()))
