"""Normalisation layers. Statistics are always computed in float32 and the result has the input's dtype.

Epsilons follow the public checkpoints (trellis.md sections 2.5, 3, 4.4): 1e-6 inside transformer and
residual blocks, 1e-5 everywhere else; callers pass them explicitly where they differ from the default.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.kernels import kernel_module, triton_fits


class LayerNorm32(nn.LayerNorm):
    """Layer norm over the last axis, computed in float32.

    Args:
        channels: size of the last axis.
        affine: whether a learned scale and shift exist (and appear in the state dict).
        eps: added to the variance.
    """

    def __init__(self, channels: int, affine: bool = False, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 or (x.is_cuda and self.weight is None):
            # CUDA's kernel adds up in float32 and rounds once whatever the dtype; the way back is for autocast.
            return super().forward(x).to(x.dtype)
        return super().forward(x.float()).to(x.dtype)


def sum_norm(
    x: Tensor, y: Tensor | None, order: Tensor | None, norm: LayerNorm32 | None
) -> tuple[Tensor, Tensor | None]:
    """Rows `order` [T] of x + y [T, C], and their norm; without y of x, without an order as they are."""
    kernel = kernel_module("gap3d_app.nn.triton_sum_norm", triton_fits) if x.is_cuda else None
    if kernel is not None and kernel.applies(x, norm):
        return kernel.sum_norm(x, y, order, norm)
    total = x if y is None else x + y
    total = total if order is None else total.index_select(0, order)
    return total, None if norm is None else norm(total)


class ChannelLayerNorm32(nn.LayerNorm):
    """Layer norm over axis 1 of a dense volume [B, C, X, Y, Z], affine, eps 1e-5 (trellis.md section 3)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(1, -1)
        return super().forward(last.float()).to(x.dtype).movedim(-1, 1)


def norm_silu(norm: nn.Module, x: Tensor, dtype: torch.dtype | None = None, fused: bool = True) -> Tensor:
    """SiLU of the norm of a dense volume [B, C, X, Y, Z], both computed from `x` in `dtype`, its own if None.

    `fused` tells whether a kernel may do it; it takes a `ChannelLayerNorm32` of channels_last_3d memory.
    """
    dtype = x.dtype if dtype is None else dtype
    if fused and x.is_cuda and isinstance(norm, ChannelLayerNorm32):
        kernel = kernel_module("gap3d_app.nn.triton_norm_silu", triton_fits)
        if kernel is not None and kernel.applies(x):
            return kernel.norm_silu(x, norm, dtype)
    return F.silu(norm(x.to(dtype)))


class GroupNorm32(nn.GroupNorm):
    """Group norm of a dense tensor [B, C, ...], affine, eps 1e-5, computed in float32."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__(groups, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """RMS norm over the last axis with a learned gain, in the gain's dtype.

    Under autocast the input is narrower than the gain, and mixed dtypes would miss the fused kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(self.weight.dtype)
        return F.rms_norm(wide, self.normalized_shape, self.weight, self.eps).to(x.dtype)


class MultiHeadRMSNorm(nn.Module):
    """Scales every head's vector to length sqrt(D) times a learned gain (trellis.md section 2.6).

    `x / max(|x|, 1e-12) * gamma * sqrt(D)` over the last axis, in float32.

    Args:
        head_channels: D, size of a head.
        num_heads: H; `gamma` is [H, D].
    """

    def __init__(self, head_channels: int, num_heads: int) -> None:
        super().__init__()
        self.scale = head_channels**0.5
        self.gamma = nn.Parameter(torch.ones(num_heads, head_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H, D] -> same shape and dtype."""
        return (F.normalize(x.float(), dim=-1) * (self.gamma * self.scale)).to(x.dtype)
