"""Microseconds of the transformers' Triton kernels at full size, by rows and warps of a program, on a CUDA device.

    python -m tests.benchmarks.transformer_kernels

First what stands between the products of a GridDiT block and of a modulated block, beside the same in plain torch,
compiled for the latter, and the time that its bytes take at the speed of a copy; then, on Hopper GPUs, the GridDiT's
gated layer and attention that norms its queries; then every attention kernel at the sizes of the three flows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import torch
from torch import nn
from triton.testing import do_bench

from gap3d_app.full_size.bench import ATTENTION
from gap3d_app.kernels import gluon_fits, kernel_module
from gap3d_app.models.acceleration import ROUNDED
from gap3d_app.models.grid_layers import GatedFeedForward
from gap3d_app.nn import grid_norms, modulated_norms, triton_modulated, triton_rms, triton_rotation
from gap3d_app.nn.attention_kernels import KERNELS, kernel_times
from gap3d_app.nn.grid_rope import norm_rotate, tiled_rope
from gap3d_app.nn.norms import LayerNorm32, RMSNorm

TOKENS, CHANNELS, HEADS = 1374, 1792, 28


def microseconds(run: Callable[[], object]) -> float:
    """Median; caches are emptied between the runs, as the products between the kernels would."""
    return 1000 * do_bench(run, warmup=10, rep=50, return_mode="median")


@torch.no_grad()
def block_kernels() -> None:
    """Norms, gates, scales and rotations of both predictions of a guided step."""
    x, y = (torch.randn(2, TOKENS, CHANNELS, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    joined = torch.randn(2, TOKENS, 3 * CHANNELS, device="cuda", dtype=torch.bfloat16)
    gate, scale = torch.randn(1, 1, 2 * CHANNELS, device="cuda", dtype=torch.bfloat16).chunk(2, dim=-1)
    norm, following = (RMSNorm(CHANNELS, eps=1e-5).cuda().bfloat16() for _ in range(2))
    layer, rope = nn.LayerNorm(CHANNELS).cuda().bfloat16(), tiled_rope(37, 37, 64, HEADS, 5, x.device)
    parts = [(joined[..., :CHANNELS], layer), (joined[..., CHANNELS : 2 * CHANNELS], layer), (x[:1], layer)]
    works = {
        "scaled_norm": (2, lambda on: grid_norms.scaled_norm(x, norm, scale, on)),
        "gated_sum": (3, lambda on: grid_norms.gated_sum(x, y, gate, norm, on)),
        "gated_sum_norm": (4, lambda on: grid_norms.gated_sum_norm(x, y, gate, norm, following, scale, on)),
        "norm_rotate": (2, lambda on: norm_rotate(parts[:1], rope, on)),
        "norm_rotate, 3": (5, lambda on: norm_rotate(parts, rope, on)),
    }
    copy = microseconds(lambda: x.copy_(y)) / 2
    for name, (passes, work) in works.items():
        times = {"plain": microseconds(lambda work=work: work(False)), "bytes": passes * copy}
        for rows, warps in itertools.product((1, 2, 4, 8), (2, 4, 8)):  # a rotation's program takes one row
            triton_rms.ROWS, triton_rms.WARPS, triton_rotation.WARPS = rows, warps, warps
            times[f"{rows} x {warps}"] = microseconds(lambda work=work: work(True))
        print(f"{name:15} " + ", ".join(f"{way}: {us:.1f}" for way, us in times.items()), flush=True)


@torch.no_grad()
def modulated_kernels() -> None:
    """Sums, norms and modulations of both predictions of a guided step of the structure flow."""
    x, y = (torch.randn(2, 4096, 1024, device="cuda", dtype=torch.float16) for _ in range(2))
    constant, mod = (torch.randn(1, 1, width * 1024, device="cuda", dtype=torch.float16) for width in (1, 3))
    (shift, scale, gate), norm = mod.chunk(3, dim=-1), LayerNorm32(1024)
    rows, parts = list(x.chunk(2)), [y[:1], constant]
    works = {
        "gated": (4, modulated_norms.gated_sum_norm, (x, y, gate, norm, shift, scale)),
        "joined": (3.5, modulated_norms.joined_sum_norm, (rows, parts, norm, shift, scale)),
    }
    copy = microseconds(lambda: x.copy_(y)) / 2
    for name, (passes, function, given) in works.items():
        compiled = torch.compile(function, fullgraph=True, dynamic=False, options=dict(ROUNDED))
        times = {"compiled": microseconds(lambda run=compiled, given=given: run(*given)), "bytes": passes * copy}
        for sizes in itertools.product((1, 2, 4), (2, 4, 8)):
            triton_modulated.ROWS, triton_modulated.WARPS = sizes
            times["{} x {}".format(*sizes)] = microseconds(lambda run=function, given=given: run(*given, fused=True))
        print(f"{name:15} " + ", ".join(f"{way}: {us:.1f}" for way, us in times.items()), flush=True)


def sustained(run: Callable[[], object], seconds: float = 1.0) -> float:
    """Mean microseconds of a call while the card is kept at work, as hot and as short of power as in a sampler."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(100):
            run()
        torch.cuda.synchronize()
        calls += 100
    return 1e6 * (time.perf_counter() - start) / calls


@torch.no_grad()
def gated_layer() -> None:
    """Both products, in turn with torch's first one and a compiled SiLU and with the kernel of both."""
    layer = GatedFeedForward(CHANNELS, 4864).cuda().bfloat16()
    layer.stack()
    x = torch.randn(2, TOKENS, CHANNELS, device="cuda", dtype=torch.bfloat16)
    for fused in (False, True) * 3:
        layer.fused = fused
        torch._dynamo.reset()
        run = torch.compile(layer.forward, fullgraph=True, dynamic=False, options=dict(ROUNDED))
        run(x)
        way = "one kernel" if fused else "product and SiLU"
        print(f"gated layer, {way:16} {sustained(lambda run=run: run(x)):.1f}", flush=True)


@torch.no_grad()
def normed_attention() -> None:
    """Of queries that the kernel norms: scores near zero, as gains of one leave them, and higher ones, shifted.

    The sizes are those of the two TRELLIS flows.
    """
    attention = kernel_module("gap3d_app.nn.gluon_attention").gluon_attention
    for name in ("structure, within", "slat, within"):
        batch, heads, tokens, _, channels, dtype = ATTENTION[name]
        q, k, v = torch.randn(3, batch, heads, tokens, channels, device="cuda", dtype=dtype).unbind(0)
        for gain in (1.0, 3.0) * 2:
            gains = torch.full((heads, channels), gain, device="cuda")
            spent = sustained(lambda q=q, k=k, v=v, gains=gains: attention(q, k, v, gains))
            print(f"{name:22} queries normed, gains of {gain:.0f}: {spent:.1f}", flush=True)


def attention_kernels() -> None:
    """Every kernel on what `bench --full-size` measures the faster ones on."""
    for name, size in ATTENTION.items():
        times = kernel_times(size, torch.device("cuda"), tuple(KERNELS), compiled=True)
        print(f"{name:22} " + ", ".join(f"{way}: {1000 * ms:.1f}" for way, ms in times.items()), flush=True)


if __name__ == "__main__":
    block_kernels()
    modulated_kernels()
    if gluon_fits():
        gated_layer()
        normed_attention()
    attention_kernels()
