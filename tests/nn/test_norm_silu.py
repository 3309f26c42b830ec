"""Norm and SiLU of dense volumes and sparse voxels, and the blocks they stand in: by torch, and by one kernel on a GPU.

The kernel also runs in triton's interpreter, see test_rotation.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.kernels import kernel_module, triton_fits
from gap3d_app.models.slat_flow import activate
from gap3d_app.models.structure_vae import ResBlock3d, SparseStructureDecoder, pixel_shuffle_3d
from gap3d_app.nn.norms import ChannelLayerNorm32, GroupNorm32, LayerNorm32, norm_silu

LAST = torch.channels_last_3d
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def random_norm(channels: int) -> ChannelLayerNorm32:
    norm = ChannelLayerNorm32(channels)
    torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    torch.nn.init.normal_(norm.bias, 0.0, 0.3)
    return norm


def exact_norm_silu(norm: ChannelLayerNorm32, x: Tensor) -> Tensor:
    rows, weight, bias = x.double().movedim(1, -1), norm.weight.double(), norm.bias.double()
    return F.silu(F.layer_norm(rows, norm.normalized_shape, weight, bias, norm.eps)).movedim(-1, 1)


def relative(there: Tensor, here: Tensor) -> float:
    return ((there.double() - here.double()).norm() / here.double().norm()).item()


def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the volumes that the kernel is given from now on."""
    kernel, shapes = kernel_module("gap3d_app.nn.triton_norm_silu", triton_fits), []
    if kernel is None:
        pytest.skip("Triton does not run here")
    made = kernel.norm_silu
    monkeypatch.setattr(kernel, "norm_silu", lambda x, *given: shapes.append(x.shape) or made(x, *given))
    return shapes


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 32, 48, 128, 512])
def test_norm_silu(channels: int) -> None:
    """Voxels far from zero, in the memory of the input and in its dtype or float32; by one kernel on a GPU."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    norm = random_norm(channels).to(device)
    x = (torch.randn(2, channels, 9, 5, 7, device=device) * 2 + 5).half().contiguous(memory_format=LAST)
    exact = exact_norm_silu(norm, x)
    for dtype, tolerance in ((None, 1e-3), (torch.float32, 1e-5)):
        for fused in (True, False):
            made = norm_silu(norm, x, dtype, fused)
            assert made.dtype == (dtype or x.dtype) and made.is_contiguous(memory_format=LAST)
            assert relative(made, exact) < tolerance


@pytest.mark.gpu
@needs_cuda
def test_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision without gradients in channels_last_3d memory; a block of other memory, never."""
    calls = kernel_calls(monkeypatch)
    x = torch.randn(1, 32, 4, 4, 4, device="cuda", dtype=torch.bfloat16)
    last, norm, block = x.contiguous(memory_format=LAST), random_norm(32).cuda(), ResBlock3d(32).cuda()
    for conv in (block.conv1, block.conv2):
        conv.to(torch.bfloat16)
    norm_silu(norm, last)
    with torch.no_grad():
        norm_silu(norm, x)
        norm_silu(norm, last.float())
        norm_silu(GroupNorm32(8, 32).cuda(), last)
        block(x)
        assert not calls
        assert relative(norm_silu(norm, last), exact_norm_silu(norm, last)) < 6e-3
        block(last)
    assert len(calls) == 3


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
@pytest.mark.parametrize("norm_type", ["layer", "group"])
def test_decoder_on_cuda(norm_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All norms but a head's group norm go by the kernel; the logits are those of float32."""
    calls = kernel_calls(monkeypatch)
    torch.manual_seed(0)
    decoder = SparseStructureDecoder.from_args(latent_channels=8, channels=[128, 64, 32], norm_type=norm_type).cuda()
    for block in decoder.modules():
        if isinstance(block, ResBlock3d):
            torch.nn.init.normal_(block.conv2.weight, 0.0, 0.02)
    x = torch.randn(1, 8, 8, 8, 8, device="cuda")
    exact = decoder(x)
    made = decoder.to_torso_dtype(torch.float16)(x)
    assert len(calls) == 2 * 8 + (norm_type == "layer")
    assert made.dtype == torch.float32 and relative(made, exact) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_pixel_shuffle(dtype: torch.dtype) -> None:
    """The same numbers from both memory formats; half precision keeps channels last."""
    x = torch.arange(2 * 16 * 2 * 3 * 4).view(2, 16, 2, 3, 4).to(dtype)
    plain, last = pixel_shuffle_3d(x), pixel_shuffle_3d(x.contiguous(memory_format=LAST))
    assert plain.shape == (2, 2, 4, 6, 8) and torch.equal(plain, last)
    for i, j, k in ((0, 0, 0), (1, 0, 1), (0, 1, 1)):
        assert torch.equal(plain[:, 1, i::2, j::2, k::2], x[:, 8 + 4 * i + 2 * j + k])
    assert plain.is_contiguous() and last.is_contiguous(memory_format=LAST) == (dtype == torch.float16)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("rows", "channels", "affine"), [(20_216, 128, False), (4448, 2048, True), (7, 24, True)])
@torch.no_grad()
def test_rows_of_sparse_voxels_on_cuda(rows: int, channels: int, affine: bool) -> None:
    """Under a modulation and without; what the kernel does not take gives the same by torch."""
    torch.manual_seed(0)
    norm = LayerNorm32(channels, affine=affine).cuda()
    if affine:
        torch.nn.init.normal_(norm.weight, 1.0, 0.3)
        torch.nn.init.normal_(norm.bias, 0.0, 0.3)
    x = (torch.randn(rows, channels, device="cuda") * 2 + 5).half()
    levels = torch.randn(1, 6 * channels, device="cuda").half()
    for mod in (None, levels[:, channels : 3 * channels], levels[:, 1 : 2 * channels + 1]):
        wide = None if mod is None else mod.double()
        exact = F.layer_norm(x.double(), (channels,), eps=norm.eps)
        if affine:
            exact = exact * norm.weight.double() + norm.bias.double()
        if mod is not None:
            exact = exact * (1 + wide[:, :channels]) + wide[:, channels:]
        for fused in (True, False):
            made = activate(norm, x, mod, fused)
            assert made.dtype == x.dtype and relative(made, F.silu(exact)) < 2e-3
        several = None if mod is None else mod.expand(rows, -1)
        assert relative(activate(norm, x, several, True), F.silu(exact)) < 2e-3
