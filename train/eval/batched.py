"""The pipeline of the app on many requests at once, with encoders beside it.

Request i with seed s gets what `Gap3DPipeline` makes of it with seed s, up to the rounding of batched sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from gap3d_app.geometry.flexicubes import extract
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.prompt import Prompt
from gap3d_app.settings import Settings
from gap3d_app.sparse.tensor import SparseTensor
from gap3d_app.stages import Run
from gap3d_app.values import Mesh

EVALUATION_PARTS = ("structure_encoder", "slat_encoder")
"""Networks beside those of the app; they lie in the weights folder under these names."""


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

    @property
    def resolution(self) -> int:
        """Voxels per axis."""
        return self.part("slat_flow").config.resolution

    def make(self, requests: list[Request], settings: Settings) -> Iterator[Made]:
        """One `Made` per request, in order; meshes of one small batch at a time are alive."""
        for start in range(0, len(requests), self.batches["structure"]):
            runs = _runs(requests[start : start + self.batches["structure"]], settings)
            for run in self._through(runs):
                coords = None if run.occupancy is None else run.occupancy.coords[:, 1:]
                yield Made(run.grid.tokens[0], coords, None if run.failure else run.mesh)
                run.slat = run.surface = run.mesh = None

    def grids(self, requests: list[Request], settings: Settings) -> Tensor:
        """Token grids [B, N, C]."""
        runs = _runs(requests, settings)
        for stage in ("prompt", "grid"):
            self._run_stage(stage, runs)
        return torch.cat([run.grid.tokens for run in runs])

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


def _runs(requests: list[Request], settings: Settings) -> list[Run]:
    return [
        Run(Prompt.read(r.text, r.picture), replace(settings, seed=r.seed, formats=("glb",))) for r in requests
    ]
