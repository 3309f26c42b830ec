"""Pooled voxels and convolutions of un-pooled ones by the kernel that sums rows, on a CUDA device.

The kernel also runs in triton's interpreter, see test_backends.
"""

import pytest
import torch

from gap3d_app.kernels import kernel_module, triton_fits
from gap3d_app.sparse.conv import NativeBackend
from gap3d_app.sparse.resample import SparseDownsample, unpooled_conv
from gap3d_app.sparse.tensor import SparseTensor
from tests.sparse.test_backends import HALF, layer_pair, needs_cuda, relative, two_shells


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", HALF)
@torch.no_grad()
def test_pooling_on_cuda(dtype: torch.dtype) -> None:
    """By a kernel that adds in a fixed order, against float64; torch's sums have the bits that chance gives them."""
    pytest.importorskip("triton", reason="triton is not installed")
    fine = two_shells(128, dtype)
    exact = SparseDownsample()(fine.to(torch.float64)).feats
    made = SparseDownsample()(fine)
    assert made.dtype == dtype and relative(made.feats, exact) <= HALF[dtype]
    again = SparseDownsample()(SparseTensor(fine.feats, fine.coords))
    assert torch.equal(again.feats, made.feats) and torch.equal(again.coords, made.coords)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("channels", "outputs"), [(64, 128), (32, 40), (96, 200)])
@torch.no_grad()
def test_unpooled_convolution_on_cuda(dtype: torch.dtype, channels: int, outputs: int) -> None:
    """Its sums by a kernel, against float64; under autocast the bias is wider, and torch sums."""
    pytest.importorskip("triton", reason="triton is not installed")
    kernel = kernel_module("gap3d_app.sparse.triton_bag", triton_fits)
    assert kernel.applies(torch.zeros(1, dtype=dtype), torch.zeros(1, dtype=dtype))
    fine = two_shells(channels, dtype)
    coarse = SparseDownsample()(fine)
    layer, wide = layer_pair(channels, outputs, NativeBackend(), dtype)
    exact = unpooled_conv(coarse.to(torch.float64), wide.double()).feats
    made = unpooled_conv(coarse, layer).feats
    assert made.dtype == dtype and relative(made, exact) <= HALF[dtype]
    assert torch.equal(unpooled_conv(coarse, layer).feats, made)
    with torch.autocast("cuda", dtype):
        assert relative(unpooled_conv(coarse.to(torch.float32), wide.float()).feats, exact) <= HALF[dtype]
