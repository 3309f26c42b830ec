"""What stands between the sub-layers of a modulated block (trellis.md section 2.5): sums, norms and modulations.

With `fused` each is one Triton kernel where it takes the rows; else plain torch, which that must equal up to rounding.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from gap3d_app.nn.norms import LayerNorm32


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift."""
    return x * (1 + scale) + shift


def modulated_norm(
    x: Tensor, norm: LayerNorm32, shift: Tensor | None, scale: Tensor, fused: bool = False
) -> Tensor:
    """The norm of x, modulated: what the first sub-layer of a chain reads.

    Args:
        x: [B, N, C].
        norm: without parameters.
        shift, scale: [B or 1, 1, C]; without a shift nothing is added.
    """
    if (kernels := _kernels(x, norm, fused)) is not None:
        return kernels.modulated_norm(x, norm, shift, scale)
    return norm(x) * (1 + scale) if shift is None else modulate(norm(x), shift, scale)


def last_norm(x: Tensor, norm: LayerNorm32, within: torch.dtype, dtype: torch.dtype, fused: bool = False) -> Tensor:
    """The norm of x [B, N, C], made of and rounded to `within`, in `dtype`: what an output layer reads."""
    if (kernels := _kernels(x, norm, fused)) is not None:
        return kernels.last_norm(x, norm, within, dtype)
    return norm(x.to(within)).to(dtype)


def gated_sum_norm(
    x: Tensor, y: Tensor, gate: Tensor, norm: LayerNorm32, shift: Tensor, scale: Tensor, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """x + gate * y, and its norm, modulated: what the next sub-layer reads.

    Args:
        x, y: [B, N, C].
        gate, shift, scale: [B or 1, 1, C].
        norm: without parameters.
    """
    if (kernels := _kernels(x, norm, fused)) is not None:
        return kernels.gated_sum_norm(x, y, gate, norm, shift, scale)
    total = torch.addcmul(x, gate, y)
    return total, modulate(norm(total), shift, scale)


def joined_sum_norm(
    rows: list[Tensor], parts: list[Tensor], norm: LayerNorm32, shift: Tensor, scale: Tensor, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """The sums of rows and what their conditions add to them, joined in a batch, and their modulated norm.

    Args:
        rows: for every condition [B, N, C]: parts of one tensor in their order, or the same tensor every time.
        parts: for every condition [B, N, C], or [B or 1, 1, C] where it is the same for all tokens.
        norm, shift, scale: as for `gated_sum_norm`.
    """
    if (kernels := _kernels(rows[0], norm, fused)) is not None and kernels.joins(rows, parts):
        return kernels.joined_sum_norm(rows, parts, norm, shift, scale)
    sums = [own + part for own, part in zip(rows, parts, strict=True)]
    total = sums[0] if len(sums) == 1 else torch.cat(sums)
    return total, modulate(norm(total), shift, scale)


def _kernels(x: Tensor, norm: LayerNorm32, fused: bool) -> ModuleType | None:
    if fused and x.is_cuda and x.ndim == 3:
        from gap3d_app.nn import triton_modulated  # not every machine has triton

        return triton_modulated if triton_modulated.applies(x, norm) else None
    return None
