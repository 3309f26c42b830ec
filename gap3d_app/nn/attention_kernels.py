"""The kernels behind an unmasked attention, and which of them is the fastest for given sizes.

torch's own choice follows a fixed order; on one H200 that is not the fastest for every length (performance.md 3.1.5).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.kernels import triton_fits


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0]


def _cudnn_with_sums(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The attention and, [B, H, N, 1] float32, the logarithm of every query's sum of exponentials."""
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]


LENGTH_STEP = 512
"""cuDNN plans every new length in some 60 ms. Rounded up to this, the 500 to 15,000 tokens of a structured latent at
full size make 30 lengths."""


def _longer(x: Tensor) -> Tensor:
    """[B, H, N, D] filled up with zeros to a rounded length, in memory [B, N, H, D]."""
    return F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, -x.shape[2] % LENGTH_STEP)).transpose(1, 2)


def _rounded_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _cudnn(_longer(q), k, v)[:, :, : q.shape[2]]


def rounded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = _cudnn_with_sums,
    short: Callable[[Tensor, Tensor, Tensor], Tensor] = _flash,
) -> Tensor:
    """Attention on rounded lengths of queries and keys.

    A mask would cost what the kernel gains. Instead, keys are filled up with their mean and values with zeros: all that
    the fillers change is the sum of exponentials, by a part that is known and taken out afterwards. Their share of it
    is at most their share of the keys, whatever those are, since the exponential of a mean is at most the mean of the
    exponentials. So that this stays under a half, lengths below a step are left to FlashAttention.

    Args:
        attention: like `_cudnn_with_sums`.
        short: a kernel for less than `LENGTH_STEP` keys.
    """
    if k.shape[2] < LENGTH_STEP:
        return short(q, k, v)
    length, extra = q.shape[2], -k.shape[2] % LENGTH_STEP
    middle = k.mean(2, keepdim=True)
    score = (q.float() * middle.float()).sum(-1, keepdim=True) * q.shape[-1] ** -0.5
    filler = middle.transpose(1, 2).expand(-1, extra, -1, -1)
    keys = torch.cat([k.transpose(1, 2), filler], dim=1).transpose(1, 2)
    out, sums = attention(_longer(q), keys, _longer(v))
    return (out[:, :, :length] / (1 - extra * torch.exp(score - sums[:, :, :length]))).to(q.dtype)


def _tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from gap3d_app.nn import triton_attention  # not every machine has triton

    if not triton_attention.applies(q):
        return F.scaled_dot_product_attention(q, k, v)
    return triton_attention.tiled_attention(q, k, v)


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "torch": F.scaled_dot_product_attention,
    "flash": _flash,
    "cudnn": _cudnn,
    "rounded": rounded_attention,
    "rounded queries": _rounded_queries,
    "tiles": _tiled,
}
"""Functions of q [B, H, N, D], k and v [B, H, M, D]; all but "torch" need CUDA and half precision."""

FIXED_LENGTHS = ("torch", "flash", "cudnn")
ANY_LENGTH = ("flash", "rounded", "tiles")
ANY_QUERIES = ("flash", "rounded queries", "tiles")
"""Kernels worth a trial where lengths are always the same, where they vary, and where those of the keys do not."""

COMPOSED = ("rounded", "rounded queries")

CUDNN = ("cudnn", *COMPOSED)
CUDNN_CHANNELS = (64, 128)
"""Of a head, as the public networks have; with narrower ones cuDNN was seen to end the process."""


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

    With `compiled` those made of several operations or in Triton are measured as they run inside compiled blocks.
    """
    if device.type != "cuda" or size.dtype not in (torch.float16, torch.bfloat16):
        return {}
    shapes = [(size.batch, length, size.heads, size.channels) for length in (size.queries, size.keys, size.keys)]
    q, k, v = (torch.randn(shape, dtype=size.dtype, device=device).transpose(1, 2) for shape in shapes)
    times = {}
    for name in among:
        if name in CUDNN and size.channels not in CUDNN_CHANNELS or name == "tiles" and not triton_fits():
            continue
        kernel = KERNELS[name]
        if compiled and name in (*COMPOSED, "tiles"):
            kernel = torch.compile(kernel, fullgraph=True, dynamic=False)
        try:
            with torch.no_grad():
                times[name] = _milliseconds(lambda run=kernel: run(q, k, v))
        except Exception:  # noqa: BLE001  not built for this chip, or not for these sizes: no candidate
            continue
    return times


def _milliseconds(run: Callable[[], Tensor], runs: int = 10) -> float:
    """Least time of a few runs, by the device's clock, while launches run ahead as they do within a network."""
    best = float("inf")
    for attempt in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1 << 20)  # cycles, about half a millisecond
        start.record()
        run()
        end.record()
        end.synchronize()
        if attempt:  # the first one builds plans and loads code
            best = min(best, start.elapsed_time(end))
    return best
