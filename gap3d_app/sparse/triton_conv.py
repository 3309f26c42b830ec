"""Sparse convolution as one Triton kernel: an implicit matrix product over a map of neighbours; inference only.

A program makes a tile of output rows by output channels. It walks over the taps that any of its rows has a
neighbour for and over slices of the input channels, gathers the rows from memory straight into the tile of the
matrix product, has the copy engine bring the weights where there is one, and adds the bias at the end: nothing as large
as rows x taps x channels is ever stored. Rows are ordered by which taps they have (`TapPlan`), so that rows of a tile
lack the same ones.

What it must equal is `gather_matmul` of `gap3d_app.sparse.conv`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from gap3d_app.kernels import INDEX_LIMIT, INTERPRETED, Launcher, Tiled
from gap3d_app.nn.device_clock import milliseconds
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


TILES = (
    Tile(128, 256, 64, 8, 3, flat=False),
    Tile(128, 128, 64, 8, 6),
    Tile(128, 64, 64, 8, 6),
    Tile(128, 32, 64, 4, 6),
    Tile(128, 256, 32, 8, 6),
    Tile(128, 128, 32, 8, 6),
    Tile(128, 64, 32, 8, 6),
    Tile(128, 32, 32, 4, 6),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
    Tile(64, 256, 32, 4, 4),
    Tile(64, 128, 32, 4, 4),
    Tile(64, 64, 32, 4, 4),
    Tile(64, 32, 32, 4, 4),
)


# Every asset has another number of rows: kernels must not be compiled anew for what divides it.
@triton.jit(do_not_specialize=["absent"])
def _kernel(
    x_ptr, weight_desc, bias_ptr, out_ptr, index_ptr, out_row_ptr, list_ptr, count_ptr, absent, outputs, taps,
    HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
    FLAT: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)
    first = tl.program_id(1) * OUTPUTS
    channel = tl.arange(0, CHANNELS)
    index_ptr += tile * taps * ROWS
    list_ptr += tile * taps
    count = tl.load(count_ptr + tile)
    total = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    if FLAT:
        for step in range(0, count * STEPS):
            tap, start = step // STEPS, step % STEPS * CHANNELS
            source = tl.load(index_ptr + tap * ROWS + row)
            place = source[:, None] * (STEPS * CHANNELS) + (start + channel)[None, :]
            a = tl.load(x_ptr + place, mask=(source < absent)[:, None], other=0.0)
            b = weight_desc.load([first, tl.load(list_ptr + tap) * (STEPS * CHANNELS) + start])
            total = tl.dot(a, b.T, total)
    else:
        for tap in range(0, count):
            source = tl.load(index_ptr + tap * ROWS + row)
            there = (source < absent)[:, None]
            x_tile = x_ptr + source[:, None] * (STEPS * CHANNELS) + channel[None, :]
            number = tl.load(list_ptr + tap) * (STEPS * CHANNELS)
            for step in range(0, STEPS):
                a = tl.load(x_tile + step * CHANNELS, mask=there, other=0.0)
                b = weight_desc.load([first, number + step * CHANNELS])
                total = tl.dot(a, b.T, total)
    output = first + tl.arange(0, OUTPUTS)
    inside = output < outputs
    if HAS_BIAS:
        total += tl.load(bias_ptr + output, mask=inside, other=0.0).to(tl.float32)[None, :]
    target = tl.load(out_row_ptr + tile * ROWS + row)
    tl.store(
        out_ptr + target[:, None] * outputs + output[None, :],
        total.to(out_ptr.dtype.element_ty),
        mask=(target >= 0)[:, None] & inside[None, :],
    )


def _described(x: Tiled) -> TensorDescriptor:
    return TensorDescriptor(x.base, x.shape, x.strides, list(x.block))


_launch = Launcher(_kernel, _described)


def device_fits(x: Tensor) -> bool:
    """Whether `x` lies on a CUDA device of the Ampere generation or later, or Triton's interpreter runs."""
    return INTERPRETED or (x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 0))


def applies(x: Tensor, weight: Tensor, rows: int) -> bool:
    """Whether the kernel can make `rows` rows from `x` [N, C] with `weight` [O, G * K, C].

    It needs half precision, no gradient, channels in multiples of 32, a device that fits, and offsets of 32 bits.
    """
    outputs, _, channels = weight.shape
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
    """y[p] = sum over taps k of x[map[p, k]] @ weight[:, k].T, summed in float32, plus the bias.

    Args:
        x: [N, C] float16 or bfloat16; C in multiples of 32.
        weight: [O, G * K, C] in the dtype of `x`.
        plan: of the map.
        bias: [O], any float dtype.
        rival: another way to the same result, taken where it is measured faster.

    Returns:
        [plan.rows, O] in the dtype of `x`.
    """
    x, weight = x.contiguous(), weight.contiguous()
    out = x.new_empty(plan.rows, len(weight))
    tile = choose_tile(x, weight, plan, bias, out, rival)
    if tile is None:
        return rival().to(x.dtype)
    launch(tile, x, weight, plan, bias, out)
    return out


def launch(tile: Tile, x: Tensor, weight: Tensor, plan: TapPlan, bias: Tensor | None, out: Tensor) -> None:
    """Run the kernel with a tile of `fitting_tiles`; see `planned_matmul`."""
    outputs, taps, channels = weight.shape
    # Tiles of the same outputs run together, so that they read the same weights.
    grid = (len(plan.counts), -(-outputs // tile.outputs))
    steps = channels // tile.channels
    block = (tile.outputs, tile.channels)
    weights = Tiled(weight, [outputs, taps * channels], [taps * channels, 1], block)
    tables = (plan.index, plan.out_row, plan.taps, plan.counts)
    constants = {
        "HAS_BIAS": bias is not None, "ROWS": tile.rows, "OUTPUTS": tile.outputs, "CHANNELS": tile.channels,
        "STEPS": steps, "FLAT": tile.flat,
    }  # fmt: skip
    _launch(
        grid,
        (x, weights, out if bias is None else bias, out, *tables, plan.absent, outputs, plan.width),
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
    fitting = fitting_tiles(plan.block, x.shape[1], len(weight))
    if not x.is_cuda:
        return fitting[0]
    sizes = (plan.rows.bit_length(), plan.block, *weight.shape)
    key = (x.device, x.dtype, *sizes, rival is None)
    if key in _chosen:
        return _chosen[key]
    if torch.cuda.is_current_stream_capturing():
        return fitting[0]  # nothing can be measured inside a graph
    runs = [partial(launch, tile, x, weight, plan, bias, out) for tile in fitting]
    times = milliseconds(runs if rival is None else [*runs, rival])
    best = min(range(len(times)), key=times.__getitem__)
    _chosen[key] = fitting[best] if best < len(fitting) else None
    return _chosen[key]


def fitting_tiles(rows: int, channels: int, outputs: int) -> list[Tile]:
    """Tiles of `rows` rows that divide the channels and are as wide as the outputs, or wide: 128 or more."""
    # A narrow tile gathers the rows again for every slice of the outputs.
    widest = max(32, triton.next_power_of_2(outputs))
    fitting = [t for t in TILES if t.rows == rows and channels % t.channels == 0]
    return [t for t in fitting if min(widest, 128) <= t.outputs <= widest]
