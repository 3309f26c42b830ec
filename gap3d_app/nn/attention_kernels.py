"""The kernels behind an unmasked attention, and which of them is the fastest for given sizes.

torch's own choice follows a fixed order; on one H200 that is not the fastest for every length (performance.md 3.1.5).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0]


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "torch": F.scaled_dot_product_attention,
    "flash": _flash,
    "cudnn": _cudnn,
}
"""Functions of q [B, H, N, D], k and v [B, H, M, D]; all but "torch" need CUDA and half precision."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, kernel: str = "torch") -> Tensor:
    """Softmax attention with scale 1/sqrt(D), [B, H, N, D]; a mask leaves the choice of the kernel to torch."""
    if mask is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return KERNELS[kernel](q, k, v)


@lru_cache(maxsize=64)
def fastest_kernel(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    channels: int,
    dtype: torch.dtype,
    device: torch.device,
    any_length: bool = False,
) -> str:
    """Name of the kernel that took least time here and now; "torch" where the others do not run.

    With `any_length` those that plan every new length anew, in some 40 ms, are left out.
    """
    times = kernel_times(batch, heads, queries, keys, channels, dtype, device)
    if any_length:
        times = {name: taken for name, taken in times.items() if name == "flash"}
    return min(times, key=times.get) if times else "torch"


def kernel_times(
    batch: int, heads: int, queries: int, keys: int, channels: int, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Milliseconds of every kernel that runs these sizes; empty away from CUDA and half precision."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return {}
    shapes = [(batch, length, heads, channels) for length in (queries, keys, keys)]
    q, k, v = (torch.randn(shape, dtype=dtype, device=device).transpose(1, 2) for shape in shapes)
    times = {}
    for name, kernel in KERNELS.items():
        try:
            times[name] = _milliseconds(lambda run=kernel: run(q, k, v))
        except RuntimeError:  # not built for this chip, or not for these sizes
            continue
    return times


def _milliseconds(run: Callable[[], Tensor], runs: int = 10) -> float:
    """Least time of a few runs, by the device's clock."""
    best = float("inf")
    for attempt in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if attempt:  # the first one builds plans and loads code
            best = min(best, start.elapsed_time(end))
    return best
