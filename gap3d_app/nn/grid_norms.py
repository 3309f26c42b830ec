"""What stands between the sub-layers of a GridDiT block (gap3d.md section 3.3): sandwich norms, gates and scales.

With `fused` each is one Triton kernel where it takes the rows; else plain torch, which that must equal up to rounding.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn


def _kernels(x: Tensor, fused: bool) -> ModuleType | None:
    if fused and x.is_cuda:
        from gap3d_app.nn import triton_rms  # not every machine has triton

        return triton_rms if triton_rms.applies(x) else None
    return None


def scaled_norm(x: Tensor, norm: nn.RMSNorm, scale: Tensor, fused: bool = False) -> Tensor:
    """norm(x) * (1 + scale): what a sub-layer reads.

    Args:
        x: [B, N, C].
        norm: over C, with a gain.
        scale: [B or 1, 1, C].
    """
    if (kernels := _kernels(x, fused)) is not None:
        return kernels.scaled_norm(x, norm, scale)
    return norm(x) * (1 + scale)


def gated_sum(x: Tensor, y: Tensor, gate: Tensor, norm: nn.RMSNorm, fused: bool = False) -> Tensor:
    """x + tanh(gate) * norm(y): a sub-layer's result `y` [B, N, C] joins the residual stream; gate [B or 1, 1, C]."""
    if (kernels := _kernels(x, fused)) is not None:
        return kernels.gated_sum(x, y, gate, norm)
    return torch.addcmul(x, gate.tanh(), norm(y))


def gated_sum_norm(
    x: Tensor, y: Tensor, gate: Tensor, norm: nn.RMSNorm, following: nn.RMSNorm, scale: Tensor, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """`gated_sum`, and the `scaled_norm` of it by `following`."""
    if (kernels := _kernels(x, fused)) is not None:
        return kernels.gated_sum_norm(x, y, gate, norm, following, scale)
    total = gated_sum(x, y, gate, norm)
    return total, scaled_norm(total, following, scale)
