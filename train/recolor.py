"""Random colour maps: the same asset in other colours, pictures and surface alike.

A linear map of RGB commutes with white light and with premultiplied alpha, so a picture may be recoloured after
it was rendered and stays consistent with its recoloured surface. Without this the networks learn that a category
comes in the colours it was seen in, and fail on pairs that were held out.
"""

import itertools

import torch
from torch import Tensor


def color_maps(count: int, generator: torch.Generator, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """(maps [count, 3, 3], changed [count] bool): the identity for all but `share` of them.

    A changed map swaps channels, mixes each with their mean by up to 0.4 and scales it by 0.7 to 1.2.
    """
    device = generator.device
    r = torch.rand(count, 6, generator=generator, device=device)
    orders = torch.tensor(list(itertools.permutations(range(3))), device=device)
    swap = torch.eye(3, device=device)[orders[(r[:, 0] * len(orders)).long()]]
    gray = (0.4 * r[:, 1])[:, None, None]
    gain = (0.7 + 0.5 * r[:, 2:5])[..., None]
    changed = r[:, 5] < share
    maps = gain * ((1 - gray) * swap + gray / 3)
    return torch.where(changed[:, None, None], maps, torch.eye(3, device=device)), changed


def tints(count: int, generator: torch.Generator) -> Tensor:
    """Maps [count, 3, 3] to somewhat other colours: up to half of the way to those of `color_maps`."""
    maps = color_maps(count, generator, 1.0)[0]
    way = 0.5 * torch.rand(count, 1, 1, generator=generator, device=maps.device)
    return torch.lerp(torch.eye(3, device=maps.device), maps, way)


def recolored(images: Tensor, maps: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 under maps [B, 3, 3]."""
    return torch.einsum("bij,bjhw->bihw", maps, images).clamp_(0, 1)


def recolored_rows(colors: Tensor, maps: Tensor, owner: Tensor) -> Tensor:
    """Colours [N, K, 3] in 0..1 of which row n belongs to map `owner[n]`."""
    return torch.bmm(colors, maps.mT[owner]).clamp_(0, 1)
