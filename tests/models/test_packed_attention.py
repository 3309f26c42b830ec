"""Variable-length attention on CUDA against the padded path."""

import pytest
import torch

from gap3d_app.nn.attention import MultiHeadAttention, Segments

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="variable-length attention needs a CUDA GPU"),
]


def _module(context: int | None) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(64, 2, ctx_channels=context, qk_rms_norm=context is None).cuda()


def _both(module, x, *args):
    """Result and input gradient in float32 (padded) and under bfloat16 autocast (packed)."""
    found = []
    for half in (False, True):
        given = x.clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            out = module(given, *args)
        (gradient,) = torch.autograd.grad(out.float().square().sum(), given)
        found.append((out.float(), gradient))
    return found


def test_sets_in_any_order():
    keys = torch.randint(0, 9, (300,), device="cuda")
    (slow, slow_gradient), (fast, fast_gradient) = _both(
        _module(None), torch.randn(300, 64, device="cuda"), None, Segments.grouped(keys)
    )
    assert (fast - slow).norm() < 0.02 * slow.norm()
    assert (fast_gradient - slow_gradient).norm() < 0.03 * slow_gradient.norm()


def test_runs_of_rows_with_a_dense_context():
    lengths = [70, 3, 129]
    segments = Segments.consecutive(lengths, torch.device("cuda"))
    context = torch.randn(3, 21, 32, device="cuda")
    (slow, slow_gradient), (fast, fast_gradient) = _both(
        _module(32), torch.randn(sum(lengths), 64, device="cuda"), context, segments
    )
    assert (fast - slow).norm() < 0.02 * slow.norm()
    assert (fast_gradient - slow_gradient).norm() < 0.03 * slow_gradient.norm()
