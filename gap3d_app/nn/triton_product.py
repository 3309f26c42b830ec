"""Product of a half-precision matrix with a float32 weight, in float32, as one Triton kernel; inference only.

Torch copies the matrix to float32 first, and multiplies it without tensor cores. Here the weight is the sum of two
numbers of float16: the nearest one and a 2,048th of another. Products of such numbers are exact in float32, so that the
result has its precision, and the matrix is read as it is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gap3d_app.kernels import INDEX_LIMIT, Launcher

ROWS, WIDEST = 128, 256
"""Rows of a program, and columns of a weight at most."""


@triton.jit
def _wide_product(
    x_ptr, weight_ptr, bias_ptr, out_ptr, rows, channels, columns,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inner = tl.arange(0, DEPTH)
    there = row < rows
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    # First what is missing to the nearest number, for all channels; its factor is taken out before the large part.
    for part in tl.static_range(2):
        for start in range(0, channels, DEPTH):
            channel = start + inner
            within = channel < channels
            x = tl.load(
                x_ptr + row[:, None] * channels + channel[None, :], mask=there[:, None] & within[None, :], other=0.0
            )
            weight = tl.load(
                weight_ptr + column[None, :] * channels + channel[:, None],
                mask=(column < columns)[None, :] & within[:, None],
                other=0.0,
            )
            half = weight.to(tl.float16)
            if part == 0:
                half = ((weight - half.to(tl.float32)) * 2048.0).to(tl.float16)
            total = tl.dot(x, half, total)
        if part == 0:
            total = total / 2048.0
    bias = tl.load(bias_ptr + column, mask=column < columns, other=0.0)
    place = row[:, None] * columns + column[None, :]
    tl.store(out_ptr + place, total + bias[None, :], mask=there[:, None] & (column < columns)[None, :])


_launch = Launcher(_wide_product)


def wide_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x.float() @ weight.t() + bias`.

    Args:
        x: [N, K] float16.
        weight: [O, K] float32, smaller than 65,504.
        bias: [O] float32.

    Returns:
        [N, O] float32.
    """
    rows, channels = x.shape
    columns = weight.shape[0]
    out = torch.empty(rows, columns, dtype=torch.float32, device=x.device)
    if rows:
        _launch(
            (-(-rows // ROWS),),
            (x.contiguous(), weight.contiguous(), bias, out, rows, channels, columns),
            {"DEPTH": 32, "WIDTH": max(16, 1 << (columns - 1).bit_length()), "ROWS": ROWS},
            num_warps=4,
        )
    return out


def applies(x: Tensor, weight: Tensor) -> bool:
    """Whether `wide_product` takes them: no gradient, the dtypes, not too many columns or elements."""
    dtypes = x.dtype == torch.float16 and weight.dtype == torch.float32
    small = len(weight) <= WIDEST and len(x) * max(x.shape[1], len(weight)) < INDEX_LIMIT
    return dtypes and small and not torch.is_grad_enabled()
