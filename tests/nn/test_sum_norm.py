"""Sums, orders of rows and norms between a decoder's layers: by torch, and by one kernel on a GPU.

The kernel also runs in triton's interpreter, see test_rotation.
"""

import pytest
import torch

from gap3d_app.kernels import kernel_module, triton_fits
from gap3d_app.models import slat_vae
from gap3d_app.models.slat_vae import SLatEncoder
from gap3d_app.nn import attention, norms
from gap3d_app.sparse.tensor import SparseTensor
from tests.models.test_fast_paths import voxels

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def encoder(mode: str) -> SLatEncoder:
    torch.manual_seed(0)
    sizes = dict(resolution=8, in_channels=5, model_channels=32, num_blocks=4, num_heads=2, window_size=4)
    return SLatEncoder.from_args(**sizes, attn_mode=mode)


@pytest.mark.parametrize("mode", ["swin", "windowed", "full"])
def test_linked_blocks(mode: str, varlen_on_cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of blocks whose sums and norms are made together, against one block after the other for gradients."""
    model, x = encoder(mode), SparseTensor(torch.randn(150, 5), voxels([90, 60]))
    for where in (slat_vae, attention):
        monkeypatch.setattr(where, "packed_kernel_fits", lambda *_: True)
    slow = model.trunk(x).feats
    with torch.no_grad():
        torch.testing.assert_close(model.trunk(x).feats, slow, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("rows, channels", [(20216, 768), (1, 64), (37, 100)])
def test_on_cuda(rows: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows far from zero; a sum is rounded before it is normed."""
    if kernel_module("gap3d_app.nn.triton_sum_norm", triton_fits) is None:
        pytest.skip("Triton does not run here")
    x, y = ((torch.randn(rows, channels, device="cuda") * 2 + 5).half() for _ in range(2))
    order, norm = torch.randperm(rows, device="cuda"), norms.LayerNorm32(channels)
    asked = [(y, order, norm), (y, None, norm), (None, order, norm), (None, None, norm), (y, order, None)]
    found = [norms.sum_norm(x, *given) for given in asked]
    monkeypatch.setattr(norms, "kernel_module", lambda *_: None)
    for made, given in zip(found, asked, strict=True):
        total, normed = norms.sum_norm(x, *given)
        assert torch.equal(made[0], total)
        assert normed is None and made[1] is None or torch.allclose(made[1], normed, rtol=2e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.gpu
@needs_cuda
def test_a_trunk_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision with the kernel, without it, and float32."""
    model, x = encoder("swin").cuda(), SparseTensor(torch.randn(150, 5, device="cuda"), voxels([90, 60]).cuda())
    exact = model.trunk(x).feats
    model.to_torso_dtype(torch.float16)
    linked = model.trunk(x).feats.float()
    monkeypatch.setattr(norms, "kernel_module", lambda *_: None)
    apart = model.trunk(x).feats.float()
    assert (apart - exact).norm() < 1e-2 * exact.norm()
    assert (linked - apart).norm() < 2e-3 * apart.norm()
