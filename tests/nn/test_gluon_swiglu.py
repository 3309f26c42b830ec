"""The gated linear layer by Gluon against torch's operations, on a Hopper GPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gap3d_app.kernels import gluon_fits, kernel_module
from gap3d_app.models.grid_layers import GatedFeedForward

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gluon_fits(), reason="needs a Hopper GPU and Triton's Gluon"),
]
ROUNDINGS = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Largest relative L2 distance from float32: each number is rounded four times."""


def gated(x: Tensor, weight: Tensor) -> Tensor:
    gate, value = F.linear(x, weight).chunk(2, dim=-1)
    return F.silu(gate) * value


def distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("dtype", ROUNDINGS)
@pytest.mark.parametrize(
    "rows, channels, features",
    [(1, 64, 128), (130, 128, 256), (5000, 320, 1024), (1374, 1792, 4864), (2748, 1792, 7168)],
)
def test_against_separate_operations(rows: int, channels: int, features: int, dtype: torch.dtype) -> None:
    """One tile and many of them for every multiprocessor, a last one of two rows, one step along the channels.

    Roundings are the same; sums in another order may tip one.
    """
    swiglu = kernel_module("gap3d_app.nn.gluon_swiglu").swiglu
    torch.manual_seed(0)
    x = torch.randn(2, rows, channels, device="cuda", dtype=dtype)[1]
    weight = torch.randn(2 * features, channels, device="cuda").mul_(channels**-0.5).to(dtype)
    made, plain = swiglu(x, weight), gated(x, weight)
    assert made.dtype == dtype and made.shape == (rows, features)
    assert (made != plain).float().mean() < 0.02
    assert distance(made, gated(x.float(), weight.float())) < ROUNDINGS[dtype]


@torch.no_grad()
def test_rows_that_are_not_there_stay_as_they_were() -> None:
    """What lies behind the result in memory belongs to another."""
    module = kernel_module("gap3d_app.nn.gluon_swiglu")
    memory = torch.full((256, 256), 7.0, device="cuda", dtype=torch.bfloat16)
    x, weight = (torch.randn(n, 128, device="cuda", dtype=torch.bfloat16) for n in (130, 512))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_shape", lambda x, weight: memory[:130])
        made = module.swiglu(x, weight)
    assert distance(made, gated(x, weight)) < 1e-3 and (memory[130:] == 7).all()


@torch.no_grad()
@pytest.mark.parametrize("start", [0, 1])
def test_within_the_layer(start: int) -> None:
    """Compiled and recorded too, of rows that begin anywhere; what does not fit goes torch's way."""
    torch.manual_seed(0)
    layer = GatedFeedForward(128, 256).cuda().bfloat16()
    x = torch.randn(2 * 50 * 128 + start, device="cuda", dtype=torch.bfloat16)[start:].view(2, 50, 128)
    plain = layer(x)
    layer.stack()
    assert layer.fused
    compiled = torch.compile(layer.forward, fullgraph=True)
    graph = torch.cuda.CUDAGraph()
    layer(x)
    with torch.cuda.graph(graph):
        recorded = layer(x)
    graph.replay()
    for made in (layer(x), compiled(x), recorded):
        assert distance(made, plain) < 2e-3
    assert distance(layer.float()(x.float()), plain) < 1e-2
    narrow = GatedFeedForward(96, 200).cuda().bfloat16()
    plain = narrow(x[..., :96])
    narrow.stack()
    assert distance(narrow(x[..., :96]), plain) < 2e-3
