"""The flow-matching objective of the structure and SLAT flows (spec/trellis 1.4, 9.4)."""

from pathlib import Path

import torch
from torch import Tensor

from gap3d_app.models.checkpoint import load_model
from train.generated_grids import read_grids
from train.mirror import mirrored_images
from train.recolor import recolored, tints

SIGMA_MIN = 1e-5


def sample_times(n: int, generator: torch.Generator, mean: float = 1.0, std: float = 1.0) -> Tensor:
    """Logit-normal times [n] in (0, 1): sigmoid of N(mean, std)."""
    normal = torch.randn(n, generator=generator, device=generator.device)
    return torch.sigmoid(normal * std + mean)


def noisy_state(x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, velocity) for data `x0`, standard normal `noise` and times `t` that broadcast to them."""
    x_t = (1 - t) * x0 + (SIGMA_MIN + (1 - SIGMA_MIN) * t) * noise
    return x_t, (1 - SIGMA_MIN) * noise - x0


class ConditionSource:
    """Condition tokens for flow training: frozen image encoder on random views, noised and dropped.

    With probability `drop` a sample's tokens become zeros (the null condition). With probability 0.5 they
    get noise of a random size up to `noise` and are layer-normalised again, because at inference the tokens
    often come from the grid transformer and are not exact. A share `canonical` of the views are view 0, the one that
    text prompts generate, and the others any. Pictures are seen in the colours of `maps` (train/recolor.py), and
    flipped where the asset is mirrored (train/mirror.py).

    With `generated` (a file of train.generated_grids) a `share` of the samples get a grid that a prompt with words led
    to instead, as it is: of half of them by a caption, of the others beside a picture.

    A share `tint` of the samples get the patches of the same picture in somewhat other colours, beside the class and
    register tokens of the right ones: in grids of prompts the class token names the wanted colour nearly always, and
    the flow is to follow it.
    """

    def __init__(
        self, encoder: Path | str, drop: float, noise: float, assets: int, device: str | torch.device,
        canonical: float = 0.5, generated: str | None = None, share: float = 0.5, tint: float = 0.0,
    ):  # fmt: skip
        self.encoder = load_model(encoder, device=device).eval().requires_grad_(False)
        self.drop, self.noise, self.canonical, self.tint = drop, noise, canonical, tint
        self.generated = None if generated is None else read_grids(generated, assets, device)
        self.share = 0.0 if generated is None else share

    def draw_generated(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] bool: the samples that are to see a generated grid."""
        return torch.rand(count, generator=generator, device=generator.device) < self.share

    def _tokens(self, images: Tensor) -> Tensor:
        device = images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return self.encoder.encode(images).float()

    @torch.no_grad()
    def __call__(
        self, data, ids: Tensor, generator: torch.Generator, maps: Tensor, from_text: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Tokens [B, N, C] for assets `ids` of `data`, recoloured by `maps` [B, 3, 3], some `mirrored` [B].

        Samples of `from_text` [B] see the generated grid of their asset, in its own colours and as it is.
        """
        b, device = len(ids), ids.device
        r = torch.rand(b, 6, generator=generator, device=device)
        views = data.views.shape[1]
        view = torch.where(r[:, 0] < self.canonical, 0, (r[:, 1] * views).long())
        images = recolored(data.images(ids, view), maps)
        if mirrored is not None:
            images = mirrored_images(images, mirrored)
        tokens = self._tokens(images)
        if tinted := round(self.tint * b):  # the first ones: which assets they are is random anyway
            other = self._tokens(recolored(images[:tinted], tints(tinted, generator)))
            patches = -self.encoder.grid_size**2
            tokens[:tinted, patches:] = other[:, patches:]
        size = self.noise * r[:, 2] * (r[:, 3] < 0.5)
        noise = torch.randn(tokens.shape, generator=generator, device=device)
        tokens = torch.nn.functional.layer_norm(tokens + size[:, None, None] * noise, tokens.shape[-1:])
        if self.generated is not None and from_text is not None:
            of_words = self.generated[ids, (r[:, 5] < 0.5).long()].float()
            tokens = torch.where(from_text[:, None, None], of_words, tokens)
        return tokens * (r[:, 4] >= self.drop)[:, None, None]
