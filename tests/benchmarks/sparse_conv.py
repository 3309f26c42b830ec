"""Milliseconds of the submanifold convolution by backend, at the sizes of the full networks, on a CUDA device.

    python -m tests.benchmarks.sparse_conv [--tiles]

Each row is one layer: a shell of voxels, C channels in and O out, float16. TFLOP/s counts existing neighbours only.
Maps, plans and rulebooks are made beforehand, as they are made once an asset; what that costs is printed per shell.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import torch
from triton.testing import do_bench

from gap3d_app.nn.device_clock import milliseconds
from gap3d_app.sparse.conv import Backend, NativeBackend, SparseConv3d, SpconvBackend, TritonBackend, neighbour_map
from gap3d_app.sparse.resample import SparseSubdivide, subdivide_conv
from gap3d_app.sparse.tensor import SparseTensor
from tests.sparse.shells import shell

VOXELS = (8048, 20216)
# Plain squares, then what the networks hold: the SLAT flow's coarse level (V / 5.3 rows) and the ends of its skips.
SQUARE = (64, 128, 768, 1024)
FLOW = ((1.0, 256, 128), (1 / 5.3, 1024, 1024), (1 / 5.3, 128, 1024))


def backends() -> dict[str, Backend]:
    """Those that can be built here, the native one first."""
    found: dict[str, Backend] = {"native": NativeBackend(), "triton": TritonBackend()}
    try:
        found["spconv"] = SpconvBackend()
    except Exception as error:  # a broken installation must not stop the others
        print(f"spconv is left out: {type(error).__name__}: {error}")
    return found


def shell_tensor(voxels: int, channels: int) -> SparseTensor:
    coords = shell(voxels).cuda()
    return SparseTensor(torch.randn(voxels, channels, device="cuda", dtype=torch.float16), coords)


def measured(work: Callable[[], object]) -> float:
    """Milliseconds, median; infinite where the backend fails."""
    try:
        return do_bench(work, warmup=5, rep=25, return_mode="median")
    except Exception as error:  # say why and go on with the next row
        print(f"  failed: {type(error).__name__}: {str(error)[:160]}")
        return float("inf")


def compare(label: str, x: SparseTensor, outputs: int, found: dict[str, Backend], tiles: bool) -> None:
    """One row: all backends on one layer, and how far their results lie from the native one."""
    channels = x.feats.shape[1]
    layer = SparseConv3d(channels, outputs, backend=found["native"]).cuda().half()
    flops = 2 * int((neighbour_map(x.sites) < len(x)).sum()) * channels * outputs
    wanted, parts = layer(x).feats, []
    for name, backend in found.items():
        layer.backend = backend
        # The kernel alone: the backend would leave what torch does faster to torch.
        run = kernel_alone(x, layer, backend) if name == "triton" else lambda: layer(x).feats
        ms = measured(run)
        apart = "" if name == "native" or ms == float("inf") else f", off by {distance(run(), wanted):.0e}"
        parts.append(f"{name} {ms:7.3f} ms ({flops / ms / 1e9:4.0f} TFLOP/s{apart})")
    print(f"{label:28} {channels:5} -> {outputs:4}  " + "  ".join(parts), flush=True)
    if tiles:
        print_tiles(x, layer, found["triton"])


def kernel_alone(x: SparseTensor, layer: SparseConv3d, backend: TritonBackend) -> Callable[[], torch.Tensor]:
    taps, plan = layer.conv.weight.flatten(1, 3), backend.plan(x.sites)
    return lambda: backend.kernel.planned_matmul(x.feats, taps, plan, layer.conv.bias)


def distance(there: torch.Tensor, here: torch.Tensor) -> float:
    return ((there.float() - here.float()).norm() / here.float().norm()).item()


def print_tiles(x: SparseTensor, layer: SparseConv3d, backend: TritonBackend) -> None:
    kernel, plan = backend.kernel, backend.plan(x.sites)
    taps = layer.conv.weight.flatten(1, 3)
    out = x.feats.new_empty(len(x), layer.out_channels)
    for tile in kernel.fitting_tiles(plan.block, layer.in_channels, layer.out_channels):
        run = functools.partial(kernel.launch, tile, x.feats, taps, plan, layer.conv.bias, out)
        print(f"    {milliseconds([run])[0]:7.3f} ms {tile}", flush=True)


def time_maps(x: SparseTensor, backend: TritonBackend) -> None:
    """What the neighbour map and the plan take, once an asset; printed for the second time that they are made."""
    for _ in range(2):
        fresh = SparseTensor(x.feats, x.coords.clone())
        marks = [time.perf_counter()]
        for make in (neighbour_map, backend.plan):
            make(fresh.sites)
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
    spans = [1e3 * (end - start) for start, end in zip(marks[:-1], marks[1:], strict=True)]
    print(f"{len(x)} voxels: neighbour map {spans[0]:.2f} ms, plan {spans[1]:.2f} ms")


def compare_subdivision(x: SparseTensor, outputs: int, found: dict[str, Backend]) -> None:
    """The mesh decoder's first convolution after subdividing: folded, by backend; plain for spconv."""
    channels = x.feats.shape[1]
    layer = SparseConv3d(channels, outputs, backend=found["native"]).cuda().half()
    parts = []
    for name, backend in found.items():
        layer.backend = backend
        plain = name == "spconv"
        ms = measured(lambda: layer(SparseSubdivide()(x)) if plain else subdivide_conv(x, layer))  # noqa: B023
        parts.append(f"{name} {ms:7.3f} ms")
    print(f"{f'subdivided {len(x)} x 8':28} {channels:5} -> {outputs:4}  " + "  ".join(parts), flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", action="store_true", help="print every tile of the Triton kernel too")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("This measures a CUDA device, and there is none.")
    torch.manual_seed(0)
    found = backends()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for voxels in VOXELS:
        time_maps(shell_tensor(voxels, 64), found["triton"])
        for channels in SQUARE:
            compare(f"V = {voxels}", shell_tensor(voxels, channels), channels, found, args.tiles)
        for share, channels, outputs in FLOW:
            rows = int(voxels * share)
            compare(f"V = {rows} (flow)", shell_tensor(rows, channels), outputs, found, args.tiles)
        compare_subdivision(shell_tensor(voxels, 768), 192, found)
        middle = SparseSubdivide()(shell_tensor(voxels, 192))
        compare(f"V = {len(middle)} (mesh decoder)", middle, 192, found, args.tiles)
        compare_subdivision(middle, 96, found)
        fine = SparseSubdivide()(SparseSubdivide()(shell_tensor(voxels, 96)))
        compare(f"V = {len(fine)} (mesh decoder)", fine, 96, found, args.tiles)


if __name__ == "__main__":
    main()
