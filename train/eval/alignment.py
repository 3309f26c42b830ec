"""How well generated token grids agree with the image encoder's: the dense-alignment metrics (spec gap3d.md 7.1).

Keys follow the released evaluation: bare names are patches, `sum_*` the class token, `reg_*` the registers.
"""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.models.token_grid import GridState

NEIGHBOURS = 10


def token_metrics(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Per-image figures ``[B]`` float32 of tokens ``[B, n, C]``: cosine, squared error, norms and their ratio.

    `_std` is the unbiased deviation over the n tokens of one image (NaN for a single token).
    """
    prediction, target = prediction.float(), target.float()
    pred_norm, target_norm = prediction.norm(dim=-1), target.norm(dim=-1)
    per_token = {
        "cos": F.cosine_similarity(prediction, target, dim=-1),
        "norm_ratio": pred_norm / (target_norm + 1e-8),
        "pred_norm": pred_norm,
        "target_norm": target_norm,
    }
    figures = {"mse": (prediction - target).square().mean(dim=(1, 2))}
    for name, value in per_token.items():
        figures[f"{name}_mean"] = value.mean(dim=1)
        if value.shape[1] > 1:
            figures[f"{name}_std"] = value.std(dim=1)
    return figures


def grid_metrics(prediction: GridState, target: GridState) -> dict[str, Tensor]:
    """`token_metrics` ``[B]`` of patches, class (`sum_`) and registers (`reg_`)."""

    def patches(state: GridState) -> Tensor:
        return state.patch.flatten(2).transpose(1, 2)

    parts = {
        "": (patches(prediction), patches(target)),
        "sum_": (prediction.cls.unsqueeze(1), target.cls.unsqueeze(1)),
        "reg_": (prediction.reg, target.reg),
    }
    return {prefix + k: v for prefix, pair in parts.items() for k, v in token_metrics(*pair).items()}


def neighbour_overlap(prediction: Tensor, target: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Share ``[B, n]`` of a patch's k nearest patches (cosine, itself excluded) that both grids agree on.

    prediction, target: patches ``[B, n, C]``.
    """

    def nearest(x: Tensor) -> Tensor:
        x = F.normalize(x.float(), dim=-1)
        similarity = x @ x.transpose(1, 2)
        similarity.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
        index = similarity.topk(k, dim=-1).indices
        return torch.zeros_like(similarity, dtype=torch.bool).scatter_(-1, index, True)

    return (nearest(prediction) & nearest(target)).sum(-1) / k


class AlignmentMetrics:
    """Running averages over batches.

    As in the released evaluation, all figures but the neighbour overlap are means over batches of batch means, so a
    short last batch weighs as much as a full one; the overlap is averaged over images, and its `_std` is the
    deviation across images of the deviation within an image.
    """

    def __init__(self) -> None:
        self._batches: dict[str, list[float]] = defaultdict(list)
        self._overlap_mean: list[Tensor] = []
        self._overlap_std: list[Tensor] = []

    def update(self, prediction: GridState, target: GridState) -> None:
        """Add one batch."""
        for name, value in grid_metrics(prediction, target).items():
            self._batches[name].append(value.double().mean().item())
        patches = (state.patch.flatten(2).transpose(1, 2) for state in (prediction, target))
        overlap = neighbour_overlap(*patches)
        self._overlap_mean.append(overlap.mean(dim=1).cpu())
        self._overlap_std.append(overlap.std(dim=1).cpu())

    def compute(self) -> dict[str, float]:
        """All averages and `n_images`."""
        result = {name: sum(values) / len(values) for name, values in self._batches.items()}
        means, deviations = torch.cat(self._overlap_mean).double(), torch.cat(self._overlap_std).double()
        result["neigh_overlap_mean"] = means.mean().item()
        result["neigh_overlap_std"] = deviations.std().item() if len(deviations) > 1 else 0.0
        result["n_images"] = float(len(means))
        return result
