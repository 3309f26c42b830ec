"""Muon for many small matrices: momentum, then the nearest orthogonal matrix by a Newton-Schulz iteration.

Same update as `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Jordan et al. 2024; learning rate scale of
Liu et al. 2025), but matrices of one shape are orthogonalised together. A network of ten blocks has seventy small
matrices: one by one their products are some two thousand kernel launches a step, together about eighty.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration x <- a x + (b (x x^T) + c (x x^T)^2) x, steep near zero."""


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices [K, A, B] with their singular values moved to about one (0.7 to 1.2); bfloat16 on CUDA."""
    a, b, c = QUINTIC
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class BatchedMuon(torch.optim.Optimizer):
    """Muon with Nesterov momentum over 2-D parameters.

    Args:
        params: matrices.
        lr: peak learning rate; an update has the root mean square of an AdamW step with this rate.
        weight_decay: decoupled.
        momentum: decay of the averaged gradient.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon takes matrices only; leave other parameters to another optimizer")

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Update every matrix that has a gradient."""
        if closure is not None:
            raise ValueError("closures are not supported")
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for same in shapes.values():
                self._update(same, group)

    def _update(self, params: list[Tensor], group: dict) -> None:
        grads, buffers = [p.grad for p in params], []
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers.append(self.state[p]["momentum_buffer"])
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, buffers, group["momentum"])
        updates = orthogonalized(torch.stack(ahead)).to(params[0].dtype)
        rate = group["lr"] * 0.2 * math.sqrt(max(params[0].shape))
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(updates.unbind(0)), alpha=-rate)
