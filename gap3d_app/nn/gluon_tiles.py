"""Tiles of tensors that Gluon kernels have the copy engine of a Hopper GPU bring or take away."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from gap3d_app.kernels import Tiled

STEP = 16
"""Bytes at whose multiples the copy engine wants rows to begin."""


def aligned(x: Tensor) -> Tensor:
    """x, or a copy of it, contiguous and beginning at a multiple of `STEP`."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % STEP else x


def described(x: Tiled) -> TensorDescriptor:
    """What Triton takes in the place of x, with which it compiles a kernel (see `gap3d_app.kernels.Launcher`)."""
    return TensorDescriptor(x.base, x.shape, x.strides, list(x.block), _layout(x.block, x.base.dtype))


@cache
def _layout(block: tuple[int, ...], dtype: torch.dtype) -> gl.NVMMASharedLayout:
    """How a block lies in shared memory."""
    return gl.NVMMASharedLayout.get_default_for(list(block), gl.float16 if dtype == torch.float16 else gl.bfloat16)
