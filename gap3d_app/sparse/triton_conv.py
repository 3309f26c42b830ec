"""Sparse convolution as one Triton kernel: an implicit matrix product over a map of neighbours; inference only.

A program makes a tile of output rows by output channels. It walks over the taps that any of its rows has a
neighbour for and over slices of the input channels, gathers the rows from memory straight into the tile of the
matrix product, and adds the bias at the end: nothing as large as rows x taps x channels is ever stored. Rows are
ordered by which taps they have (`TapPlan`), so that rows of a tile lack the same ones.

What it must equal is `gather_matmul` of `gap3d_app.sparse.conv`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from gap3d_app.kernels import INDEX_LIMIT, INTERPRETED, Launcher
from gap3d_app.sparse.tap_plan import TapPlan

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Tile:
    """How one program works: rows x outputs of its tile, channels per step, warps, and stages of its pipeline.

    Rows are one of `tap_plan.BLOCKS`. `flat` walks over (tap, slice) in one loop, so that loads run on across taps;
    otherwise one loop is inside the other, so that a row's number is read once per tap.
    """

    rows: int
    outputs: int
    channels: int
    warps: int
    stages: int
    flat: bool = True


# The flat loop reads list, row number and row one after the other, so that three stages hold one load of the last.
TILES = (
    Tile(128, 128, 64, 8, 7),
    Tile(128, 128, 64, 8, 4, flat=False),
    Tile(128, 256, 64, 8, 3, flat=False),
    Tile(128, 64, 64, 4, 10),
    Tile(64, 128, 64, 4, 10),
    Tile(64, 64, 64, 4, 10),
    Tile(128, 32, 64, 4, 10),
    Tile(128, 128, 32, 8, 10),
    Tile(128, 64, 32, 4, 10),
    Tile(128, 32, 32, 4, 10),
)


@triton.jit
def _kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, index_ptr, out_row_ptr, list_ptr, count_ptr,
    absent, channels, outputs, padded_rows, taps, stride_tap, stride_channel, stride_output,
    HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = block * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    channel = tl.arange(0, CHANNELS)
    weight_tile = weight_ptr + channel[:, None] * stride_channel + output[None, :] * stride_output
    output_mask = output < outputs
    count = tl.load(count_ptr + block)
    steps = channels // CHANNELS
    total = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    if FLAT:
        for step in range(0, count * steps):
            number = tl.load(list_ptr + block * taps + step // steps)
            start = (step % steps) * CHANNELS
            source = tl.load(index_ptr + (number % taps) * padded_rows + row)
            a = tl.load(
                x_ptr + source[:, None] * channels + (start + channel)[None, :],
                mask=(source < absent)[:, None],
                other=0.0,
            )
            b = tl.load(
                weight_tile + number * stride_tap + start * stride_channel, mask=output_mask[None, :], other=0.0
            )
            total = tl.dot(a, b, total)
    else:
        for t in range(0, count):
            number = tl.load(list_ptr + block * taps + t)
            source = tl.load(index_ptr + (number % taps) * padded_rows + row)
            there = (source < absent)[:, None]
            x_tile = x_ptr + source[:, None] * channels + channel[None, :]
            tap_tile = weight_tile + number * stride_tap
            for start in range(0, channels, CHANNELS):
                a = tl.load(x_tile + start, mask=there, other=0.0)
                b = tl.load(tap_tile + start * stride_channel, mask=output_mask[None, :], other=0.0)
                total = tl.dot(a, b, total)
    if HAS_BIAS:
        total += tl.load(bias_ptr + output, mask=output_mask, other=0.0).to(tl.float32)[None, :]
    target = tl.load(out_row_ptr + row)
    tl.store(
        out_ptr + target[:, None] * outputs + output[None, :],
        total.to(out_ptr.dtype.element_ty),
        mask=(target >= 0)[:, None] & output_mask[None, :],
    )


_launch = Launcher(_kernel)


def device_fits(x: Tensor) -> bool:
    """Whether `x` lies on a CUDA device of the Ampere generation or later, or Triton's interpreter runs."""
    return INTERPRETED or (x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 0))


def applies(x: Tensor, weight: Tensor, rows: int) -> bool:
    """Whether the kernel can make `rows` rows from `x` [N, C] with `weight` [..., C, O].

    It needs half precision, no gradient, channels in multiples of 32, a device that fits, and offsets of 32 bits.
    """
    channels, outputs = weight.shape[-2:]
    return (
        device_fits(x)
        and x.dtype in HALF
        and weight.dtype == x.dtype
        and channels % 32 == 0
        and outputs % 8 == 0
        and rows > 0
        and max(x.numel(), rows * outputs, weight.numel()) < INDEX_LIMIT
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


def planned_matmul(
    x: Tensor, weight: Tensor, plan: TapPlan, bias: Tensor | None = None, rival: Callable[[], Tensor] | None = None
) -> Tensor:
    """y[p] = sum over taps k of x[map[p, k]] @ weight[k], summed in float32, plus the bias.

    Args:
        x: [N, C] float16 or bfloat16; C in multiples of 32.
        weight: [G * K, C, O] in the dtype of `x`, any strides.
        plan: of the map.
        bias: [O], any float dtype.
        rival: another way to the same result, taken where it is measured faster.

    Returns:
        [plan.rows, O] in the dtype of `x`.
    """
    x = x.contiguous()
    out = x.new_empty(plan.rows, weight.shape[2])
    tile = choose_tile(x, weight, plan, bias, out, rival)
    if tile is None:
        return rival().to(x.dtype)
    launch(tile, x, weight, plan, bias, out)
    return out


def launch(tile: Tile, x: Tensor, weight: Tensor, plan: TapPlan, bias: Tensor | None, out: Tensor) -> None:
    """Run the kernel with a given tile."""
    lists, counts = plan.tap_lists(tile.rows)
    outputs = weight.shape[2]
    # Tiles of the same outputs run together, so that they read the same weights.
    grid = (len(counts), -(-outputs // tile.outputs))
    sizes = (plan.absent, x.shape[1], outputs, plan.index.shape[1], plan.taps, *weight.stride())
    constants = {
        "HAS_BIAS": bias is not None, "ROWS": tile.rows, "OUTPUTS": tile.outputs, "CHANNELS": tile.channels,
        "FLAT": tile.flat,
    }  # fmt: skip
    _launch(
        grid,
        (x, weight, out if bias is None else bias, out, plan.index, plan.out_row, lists, counts, *sizes),
        constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


_chosen: dict[tuple, Tile | None] = {}


def choose_tile(
    x: Tensor,
    weight: Tensor,
    plan: TapPlan,
    bias: Tensor | None,
    out: Tensor,
    rival: Callable[[], Tensor] | None = None,
) -> Tile | None:
    """The fastest tile for these sizes on this device, None for the rival.

    Measured once per process for rows of a like number.
    """
    fitting = fitting_tiles(x.shape[1], weight.shape[2])
    if not x.is_cuda:
        return fitting[0]
    sizes = (plan.rows.bit_length(), plan.taps, plan.groups, x.shape[1], weight.shape[2])
    key = (x.device, x.dtype, *sizes, rival is None)
    if key in _chosen:
        return _chosen[key]
    if torch.cuda.is_current_stream_capturing():
        return fitting[0]  # nothing can be measured inside a graph
    best = min((milliseconds(lambda t=t: launch(t, x, weight, plan, bias, out)), i) for i, t in enumerate(fitting))
    faster = rival is not None and milliseconds(rival) < best[0]
    _chosen[key] = None if faster else fitting[best[1]]
    return _chosen[key]


def fitting_tiles(channels: int, outputs: int) -> list[Tile]:
    """Tiles that divide the channels, not wider than the outputs' next power of two nor much narrower."""
    step = 64 if channels % 64 == 0 else 32
    widest = max(32, triton.next_power_of_2(outputs))
    # A narrow tile gathers the rows again for every slice of the outputs.
    return [t for t in TILES if t.channels == step and min(widest, 128) // 2 <= t.outputs <= widest]


def milliseconds(work: Callable[[], object]) -> float:
    """Time of one call; infinite where the device lacks the memory, shared memory or registers."""
    try:
        return triton.testing.do_bench(work, warmup=2, rep=8)
    except (OutOfResources, torch.cuda.OutOfMemoryError):
        return float("inf")
