"""Norms, gates and scales between the sub-layers of the grid transformer: by hand, and by one kernel on a GPU.

The kernel also runs in triton's interpreter, see test_rotation.
"""

import pytest
import torch
from torch import Tensor, nn

from gap3d_app.nn.grid_norms import gated_sum, gated_sum_norm, scaled_norm
from gap3d_app.nn.norms import RMSNorm


def norm_with_gain(channels: int, eps: float) -> RMSNorm:
    norm = RMSNorm(channels, eps=eps)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    return norm


def between(x: Tensor, y: Tensor, mods: Tensor, norms: list[RMSNorm], fused: bool) -> list[Tensor]:
    """All three functions, as a block calls them."""
    scale, gate = mods.unsqueeze(1).chunk(2, dim=-1)
    source = scaled_norm(x, norms[0], scale, fused)
    total, inner = gated_sum_norm(x, y, gate, norms[1], norms[2], scale, fused)
    return [source, total, inner, gated_sum(total, source, gate, norms[0], fused)]


@torch.no_grad()
def test_by_hand() -> None:
    """The sum of squares is 4 times 25 / 4, so both norms halve their rows."""
    x, y = torch.full((1, 2, 4), 2.5), torch.tensor([5.0, 0.0, 0.0, 0.0]).expand(1, 2, 4)
    norm = RMSNorm(4, eps=0.0)
    assert torch.allclose(scaled_norm(x, norm, torch.tensor([[[1.0]]])), torch.tensor(2.0))
    gate = torch.tensor([[[1000.0, 0.0, 0.0, 0.0]]])
    total, inner = gated_sum_norm(x, y, gate, norm, norm, torch.zeros(1, 1, 1))
    assert torch.allclose(total[0, 1], torch.tensor([4.5, 2.5, 2.5, 2.5]))
    assert torch.allclose(inner.square().mean(-1), torch.tensor(1.0))
    assert torch.equal(gated_sum(x, y, gate, norm), total)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 6e-3), (torch.float16, 1e-3), (torch.float32, 1e-6)])
@torch.no_grad()
def test_on_cuda(dtype: torch.dtype, tolerance: float, samples: int) -> None:
    """The sizes of the released network, eager and within compiled code, against float32."""
    torch.manual_seed(0)
    norms = [norm_with_gain(1792, eps).cuda() for eps in (1e-5, 1e-6, 1e-5)]
    x, y = (torch.randn(2, 1374, 1792, device="cuda").to(dtype) for _ in range(2))
    mods = torch.randn(samples, 2 * 1792, device="cuda").to(dtype)
    for norm in norms:
        norm.weight.data = norm.weight.to(dtype).float()
    exact = between(x.float(), y.float(), mods.float(), norms, fused=False)
    norms = [norm.to(dtype) for norm in norms]
    compiled = torch.compile(between, fullgraph=True)
    for made in (between(x, y, mods, norms, fused=True), compiled(x, y, mods, norms, fused=True)):
        for one, other in zip(made, exact, strict=True):
            assert one.dtype == dtype
            assert ((one.float() - other).norm() / other.norm()).item() < tolerance
