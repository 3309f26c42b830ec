"""Sums, norms and modulations between the sub-layers of a modulated block, by one kernel and one after the other."""

import pytest
import torch

from gap3d_app.nn.modulated_norms import gated_sum_norm, joined_sum_norm, last_norm, modulate, modulated_norm
from gap3d_app.nn.norms import LayerNorm32


def given(dtype: torch.dtype, device: str, samples: int = 1, tokens: int = 9, channels: int = 32) -> tuple:
    """Rows, what a condition adds to them, what another adds to all alike; shift, scale and gate."""
    torch.manual_seed(0)
    x, y = (torch.randn(samples, tokens, channels, device=device).to(dtype) * 2 + 3 for _ in range(2))
    constant, mod = (torch.randn(1, 1, n * channels, device=device).to(dtype) for n in (1, 6))
    return x, y, constant, *mod.chunk(2, dim=-1)[1].chunk(3, dim=-1)


def test_one_after_the_other() -> None:
    """Statistics by hand; a condition's rows come behind those of the one before it."""
    x, y, constant, shift, scale, gate = given(torch.float64, "cpu", 2)
    norm = LayerNorm32(32, eps=1e-3)

    def normed(total: torch.Tensor) -> torch.Tensor:
        centred = total - total.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * (1 + scale) + shift

    total, source = gated_sum_norm(x, y, gate, norm, shift, scale)
    assert torch.allclose(total, x + gate * y) and torch.allclose(source, normed(x + gate * y), atol=1e-6)
    total, source = joined_sum_norm([x, x + 1], [y, constant], norm, shift, scale)
    wanted = torch.cat([x + y, x + 1 + constant])
    assert torch.allclose(total, wanted) and torch.allclose(source, normed(wanted), atol=1e-6)


def test_norms_at_the_ends() -> None:
    """What begins a chain, with a shift and without; what ends it is rounded to where it is made."""
    x, _, _, shift, scale, _ = given(torch.float32, "cpu", 2)
    norm = LayerNorm32(32, eps=1e-3)
    exact = torch.nn.functional.layer_norm(x, (32,), eps=1e-3)
    assert torch.allclose(modulated_norm(x, norm, shift, scale), exact * (1 + scale) + shift, atol=1e-6)
    assert torch.allclose(modulated_norm(x, norm, None, scale), exact * (1 + scale), atol=1e-6)
    half = x.half()
    exact = torch.nn.functional.layer_norm(half.float(), (32,), eps=1e-3)
    for within, wanted in ((torch.float32, exact), (torch.float16, exact.half().float())):
        assert torch.equal(last_norm(half, norm, within, torch.float32), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("samples, tokens, channels", [(2, 1374, 1792), (1, 4096, 1024), (1, 20_216, 128), (3, 7, 100)])
@torch.no_grad()
def test_norms_at_the_ends_on_cuda(samples: int, tokens: int, channels: int) -> None:
    """The released sizes, by one kernel: a modulation of every sample or of all."""
    pytest.importorskip("triton", reason="triton is not installed")
    norm = LayerNorm32(channels)
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        x, _, _, shift, scale, _ = given(dtype, "cuda", samples, tokens, channels)
        several = torch.randn(samples, 1, channels, device="cuda").to(dtype)
        exact = torch.nn.functional.layer_norm(x.double(), (channels,), eps=1e-6)
        cases = [(shift, scale, exact * (1 + scale.double()) + shift.double())]
        cases += [(None, factor, exact * (1 + factor.double())) for factor in (scale, several)]
        for added, factor, wanted in cases:
            for fused in (True, False):
                made = modulated_norm(x, norm, added, factor, fused)
                assert made.dtype == dtype and ((made - wanted).norm() / wanted.norm()).item() < tolerance
        for within, bound in ((torch.float32, 1e-6), (dtype, tolerance)):
            made = last_norm(x, norm, within, torch.float32, fused=True)
            assert made.dtype == torch.float32 and ((made - exact).norm() / exact.norm()).item() < bound
            assert torch.equal(made, made.to(within).float())


def test_modulation() -> None:
    made = modulate(torch.tensor([2.0, 3.0]), shift=torch.tensor(1.0), scale=torch.tensor(0.5))
    assert torch.equal(made, torch.tensor([4.0, 5.5]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@torch.no_grad()
def test_one_kernel_on_cuda(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The released sizes, within compiled code too, where the number of tokens changes; several conditions."""
    pytest.importorskip("triton", reason="triton is not installed")
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 64)  # eight by default, and there are as many forms
    norm = LayerNorm32(1024)
    compiled = [torch.compile(function, fullgraph=True) for function in (gated_sum_norm, joined_sum_norm)]
    for tokens in (4096, 4448, 777):
        x, y, constant, shift, scale, gate = given(dtype, "cuda", 2, tokens, 1024)
        half = slice(0, 1)
        own, same = list(x.chunk(2)), [x[half]] * 2
        cases = [(0, (x, y, gate))]
        cases += [(1, case) for case in ((own, [y[half], constant]), (same, [y[half], constant]), ([x], [y]))]
        cases.append((1, (own, list(y.chunk(2)))))  # left to torch
        for kind, case in cases:
            plain = (gated_sum_norm, joined_sum_norm)[kind]
            wide = [[v.double() for v in part] if isinstance(part, list) else part.double() for part in case]
            exact = plain(*wide, norm, shift.double(), scale.double())
            for function in (plain, compiled[kind]):
                for made, wanted in zip(function(*case, norm, shift, scale, fused=True), exact, strict=True):
                    assert made.dtype == dtype and made.shape == wanted.shape
                    assert ((made.double() - wanted).norm() / wanted.norm()).item() < tolerance
