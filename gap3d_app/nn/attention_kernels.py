"""The kernels behind an unmasked attention, and which of them is the fastest for given sizes.

torch's own choice follows a fixed order; on one H200 that is not the fastest for every length (performance.md 3.1.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.kernels import gluon_fits, triton_fits
from gap3d_app.nn.device_clock import milliseconds


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0]


def _tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from gap3d_app.nn import triton_attention  # not every machine has triton

    if not triton_attention.applies(q):
        return F.scaled_dot_product_attention(q, k, v)
    return triton_attention.tiled_attention(q, k, v)


def _gluon(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from gap3d_app.nn import gluon_attention  # nor this part of it

    if not gluon_attention.applies(q):
        return F.scaled_dot_product_attention(q, k, v)
    return gluon_attention.gluon_attention(q, k, v)


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "torch": F.scaled_dot_product_attention,
    "flash": _flash,
    "cudnn": _cudnn,
    "tiles": _tiled,
    "gluon": _gluon,
}
"""Functions of q [B, H, N, D], k and v [B, H, M, D]; all but "torch" need CUDA and half precision."""

FIXED_LENGTHS = ("torch", "flash", "cudnn", "gluon")
ANY_LENGTH = ("flash", "tiles", "gluon")
"""Kernels worth a trial where lengths are always the same, and where they vary: cuDNN plans each new one in 60 ms."""

CUDNN_CHANNELS = (64, 128)
"""Of a head, as the public networks have; with narrower ones cuDNN was seen to end the process."""


def score_scale(channels: int) -> float:
    """What the products of queries and keys of so many channels are multiplied by: 1/sqrt(D), in binary orders."""
    return channels**-0.5 * math.log2(math.e)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, kernel: str = "torch") -> Tensor:
    """Softmax attention with scale 1/sqrt(D), [B, H, N, D]; a mask leaves the choice of the kernel to torch."""
    if mask is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return KERNELS[kernel](q, k, v)


class AttentionSize(NamedTuple):
    """Of queries [batch, heads, queries, channels] and as many heads of keys and values."""

    batch: int
    heads: int
    queries: int
    keys: int
    channels: int
    dtype: torch.dtype


@lru_cache(maxsize=64)
def fastest_kernel(
    size: AttentionSize, device: torch.device, among: tuple[str, ...] = FIXED_LENGTHS, compiled: bool = False
) -> str:
    """Name of the kernel that took least time here and now; "torch" where none of them runs."""
    times = kernel_times(size, device, among, compiled)
    return min(times, key=times.get) if times else "torch"


def kernel_times(
    size: AttentionSize, device: torch.device, among: tuple[str, ...] = FIXED_LENGTHS, compiled: bool = False
) -> dict[str, float]:
    """Milliseconds of the kernels that run these sizes; empty away from CUDA and half precision.

    With `compiled` those that a compiler takes in are measured as they run inside compiled blocks.
    """
    if device.type != "cuda" or size.dtype not in (torch.float16, torch.bfloat16):
        return {}
    shapes = [(size.batch, length, size.heads, size.channels) for length in (size.queries, size.keys, size.keys)]
    q, k, v = (torch.randn(shape, dtype=size.dtype, device=device).transpose(1, 2) for shape in shapes)
    names = [name for name in among if _fits(name, size)]
    kernels = [KERNELS[name] for name in names]
    if compiled and "tiles" in names:
        tiles = names.index("tiles")
        kernels[tiles] = torch.compile(kernels[tiles], fullgraph=True, dynamic=False)
    with torch.no_grad():
        times = milliseconds([partial(kernel, q, k, v) for kernel in kernels])
    return {name: time for name, time in zip(names, times, strict=True) if time < float("inf")}


def _fits(name: str, size: AttentionSize) -> bool:
    """Whether a kernel may be tried on the current CUDA device."""
    if name == "cudnn":
        return size.channels in CUDNN_CHANNELS
    if name == "gluon":
        return gluon_fits()
    return name != "tiles" or triton_fits()
