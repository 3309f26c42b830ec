"""Group norm and the SiLU after it as Triton kernels that read the rows twice and write once; inference only.

Columns of a block of rows are summed up first, then the blocks' sums of every group, then rows are normalised. No sum
is of squares of the values themselves: a mean far from zero would drown the variance. Blocks are added in a fixed
order, so that the same rows give the same bits.

What it must equal is `SparseGroupNorm32` and `SparseSiLU` for one batch element.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.kernels import Launcher
from gap3d_app.sparse.triton_conv import device_fits

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ROWS, STEPS = 32, 8
"""Rows of a tile, and tiles one below the other whose sums one program makes."""
COLUMNS = 128
"""Columns of a tile, at most."""
GROUP_TILE = 4096
"""Sums of a group that are added at a time."""
GROUP_LIMIT = 1024
"""Channels of a group, at most."""


# Every asset has another number of rows: kernels must not be compiled anew for what divides it.
@triton.jit(do_not_specialize=["rows"])
def _sum_columns(
    x_ptr, mean_ptr, square_ptr, rows, channels,
    ROWS: tl.constexpr, STEPS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean of every column over ROWS * STEPS rows, and sum of squared distances from it, both [blocks, C] float32."""
    block = tl.program_id(0)
    first = block.to(tl.int64) * (ROWS * STEPS)  # rows x channels may pass 2^31
    here = tl.minimum(rows - first, ROWS * STEPS).to(tl.int32)
    row = tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tile = x_ptr + first * channels + row[:, None] * channels + column[None, :]
    # Welford's recurrence in every place of the tile: nothing is added across threads before the end.
    mean = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    square = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in tl.static_range(STEPS):
        there = (step * ROWS + row < here)[:, None] & (column < channels)[None, :]
        x = tl.load(tile + step * ROWS * channels, mask=there, other=0.0).to(tl.float32)
        delta = tl.where(there, x - mean, 0.0)
        mean += delta * (1.0 / (step + 1))
        square += delta * (x - mean)
    count = tl.maximum((here - row + ROWS - 1) // ROWS, 0).to(tl.float32)[:, None]
    whole = tl.sum(mean * count, axis=0) / here
    apart = mean - whole[None, :]
    place = block * channels + column
    tl.store(mean_ptr + place, whole, mask=column < channels)
    tl.store(square_ptr + place, tl.sum(square + apart * apart * count, axis=0), mask=column < channels)


@triton.jit(do_not_specialize=["rows", "blocks"])
def _sum_groups(
    mean_ptr, square_ptr, weight_ptr, centre_ptr, scale_ptr, rows, blocks, channels, width, eps,
    BLOCK_ROWS: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Mean of a group and weight over its deviation, each [C] float32, from the sums of its `width` columns."""
    block = tl.arange(0, BLOCKS)
    inside = tl.arange(0, WIDTH)
    column = tl.program_id(0) * width + inside
    # The same recurrence, for many rows at a time (Chan's formula).
    mean = tl.zeros((BLOCKS, WIDTH), dtype=tl.float32)
    square = tl.zeros((BLOCKS, WIDTH), dtype=tl.float32)
    count = tl.zeros((BLOCKS, 1), dtype=tl.float32)
    for start in range(0, blocks, BLOCKS):
        there = (start + block < blocks)[:, None] & (inside < width)[None, :]
        place = (start + block)[:, None] * channels + column[None, :]
        more = tl.minimum(tl.maximum(rows - (start + block) * BLOCK_ROWS, 0), BLOCK_ROWS).to(tl.float32)[:, None]
        count += more
        delta = tl.where(there, tl.load(mean_ptr + place, mask=there, other=0.0) - mean, 0.0)
        move = delta * (more / tl.maximum(count, 1.0))
        mean += move
        square += tl.load(square_ptr + place, mask=there, other=0.0) + delta * (delta - move) * more
    whole = tl.sum(tl.sum(mean * count, axis=1), axis=0) / rows / width
    apart = tl.where((inside < width)[None, :], mean - whole, 0.0)
    variance = tl.sum(tl.sum(square + apart * apart * count, axis=1), axis=0) / rows / width
    weight = tl.load(weight_ptr + column, mask=inside < width, other=0.0).to(tl.float32)
    tl.store(centre_ptr + column, tl.zeros_like(weight) + whole, mask=inside < width)
    tl.store(scale_ptr + column, weight / tl.sqrt(variance + eps), mask=inside < width)


@triton.jit(do_not_specialize=["rows"])
def _apply(
    x_ptr, centre_ptr, scale_ptr, bias_ptr, out_ptr, rows, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """silu((x - centre) * scale + bias) for a tile."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (first + row < rows)[:, None] & (column < channels)[None, :]
    centre = tl.load(centre_ptr + column, mask=column < channels, other=0.0)[None, :]
    scale = tl.load(scale_ptr + column, mask=column < channels, other=0.0)[None, :]
    bias = tl.load(bias_ptr + column, mask=column < channels, other=0.0).to(tl.float32)[None, :]
    place = row[:, None] * channels + column[None, :]
    x = tl.load(x_ptr + first * channels + place, mask=there, other=0.0).to(tl.float32)
    normed = (x - centre) * scale + bias
    out = (normed / (1.0 + tl.exp(-normed))).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + first * channels + place, out, mask=there)


_launch_sums, _launch_groups, _launch_norm = map(Launcher, (_sum_columns, _sum_groups, _apply))


def applies(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the kernels can normalise `x` [T, C] with `weight` [C] in this many groups.

    They need rows, a float dtype of `DTYPES`, no gradient, groups of at most `GROUP_LIMIT` channels, and a device
    that Triton compiles for (see `device_fits`).
    """
    return (
        device_fits(x)
        and x.dtype in DTYPES
        and len(x) > 0
        and x.shape[1] // groups <= GROUP_LIMIT
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


def group_norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """SiLU of the group norm over all rows, computed in float32 and rounded once.

    Args:
        x: [T, C] of one of `DTYPES`; T at least 1.
        groups: divides C.
        weight, bias: [C], any float dtype.
        eps: added to the variance.

    Returns:
        [T, C] in the dtype of `x`.
    """
    x = x.contiguous()
    rows, channels = x.shape
    columns = min(COLUMNS, triton.next_power_of_2(channels))
    slices = -(-channels // columns)
    blocks = -(-rows // (ROWS * STEPS))
    means, squares = torch.empty(2, blocks, channels, dtype=torch.float32, device=x.device)
    _launch_sums(
        (blocks, slices),
        (x, means, squares, rows, channels),
        {"ROWS": ROWS, "STEPS": STEPS, "COLUMNS": columns},
    )
    centre, scale = torch.empty(2, channels, dtype=torch.float32, device=x.device)
    width = channels // groups
    wide = triton.next_power_of_2(width)
    _launch_groups(
        (groups,),
        (means, squares, weight, centre, scale, rows, blocks, channels, width, eps),
        {"BLOCK_ROWS": ROWS * STEPS, "BLOCKS": GROUP_TILE // wide, "WIDTH": wide},
        num_warps=8,
    )
    out = torch.empty_like(x)
    _launch_norm(
        (-(-rows // ROWS), slices),
        (x, centre, scale, bias, out, rows, channels),
        {"ROWS": ROWS, "COLUMNS": columns},
    )
    return out
