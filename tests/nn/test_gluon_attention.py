"""What attention by Gluon does beside attention, on a Hopper GPU: the queries' norm, and the condition's part."""

import pytest
import torch
import torch.nn.functional as F

from gap3d_app.kernels import gluon_fits, kernel_module
from gap3d_app.models.grid_layers import Cross, GridBlock
from gap3d_app.models.grid_sampling import GridDiTConfig
from gap3d_app.nn.attention import MultiHeadAttention
from gap3d_app.nn.grid_rope import tiled_rope

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gluon_fits(), reason="needs a Hopper GPU and Triton's Gluon"),
]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [50, 700])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 1.2e-2)])
def test_normalised_queries(tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    """Within a layer whose queries are of all sizes, one of them zero."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(192, 3, qk_rms_norm=True).cuda()
    for norm in (layer.q_rms_norm, layer.k_rms_norm):
        torch.nn.init.normal_(norm.gamma, 1.0, 0.3)
    x = torch.randn(2, tokens, 192, device="cuda") * torch.logspace(-2, 2, tokens, device="cuda")[:, None]
    x[:, 7] = 0
    exact = layer(x)
    for part in (layer.to_qkv, layer.to_out):
        part.to(dtype)
    layer.kernel = "gluon"
    compiled = torch.compile(layer.forward, fullgraph=True)
    for made in (layer(x.to(dtype)), compiled(x.to(dtype))):
        assert made.dtype == dtype and distance(made, exact) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 1.2e-2)])
@pytest.mark.parametrize("case", ["near", "high", "low", "one key high", "one sample low"])
def test_scores_of_any_height(case: str, dtype: torch.dtype, tolerance: float) -> None:
    """The way through the kernel depends on the scores of the last tile of keys; all lead to the same result."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 300, 64, device="cuda").unbind(0)
    gain = torch.ones(2, 64, device="cuda")
    along = F.normalize(torch.randn(64, device="cuda"), dim=0)
    if case in ("high", "low"):  # about 8 and -8 for all keys
        q, k = q * 0.1 + along * 8, k * 0.1 + along * (8 if case == "high" else -8)
    elif case == "one key high":
        k[:, :, 3] = q[:, :, 200] * 5
    elif case == "one sample low":
        q[1], k[1] = q[1] * 0.1 + along * 8, k[1] * 0.1 - along * 8
    q, k, v = (part.to(dtype) for part in (q, k, v))
    attention = kernel_module("gap3d_app.nn.gluon_attention").gluon_attention
    made = attention(q, k, v, gain)
    exact = F.scaled_dot_product_attention(F.normalize(q.double(), dim=-1) * 8, k.double(), v.double())
    assert made.isfinite().all() and distance(made, exact) < tolerance


def block_and_crosses(keys: int, null: bool) -> tuple[GridBlock, list[Cross]]:
    torch.manual_seed(0)
    config = GridDiTConfig(
        input_size=4, in_channels=8, dim=192, n_layers=1, n_heads=3, n_kv_heads=3, ffn_dim=256, latent_embedding_size=16
    )
    block = GridBlock(config).cuda()
    torch.nn.init.normal_(block.gate, std=0.7)
    crosses = [Cross(torch.randn(1, 3, keys, 64, device="cuda"), torch.randn(1, 3, keys, 64, device="cuda"))]
    return block, [*crosses, Cross(None, torch.randn(1, 3, 1, 64, device="cuda"))] if null else crosses


@torch.no_grad()
@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("keys, side", [(64, 4), (300, 9), (1, 12)])
def test_joint_attention(keys: int, side: int, null: bool) -> None:
    """A block under a condition, or that and the null condition, against float32 and two kernels."""
    block, crosses = block_and_crosses(keys, null)
    rope = tiled_rope(side, side, 64, 3, 5, torch.device("cuda"))
    x, source = torch.randn(2, len(crosses), 5 + side * side, 192, device="cuda").unbind(0)
    exact = block._mixed(source, rope, crosses)
    block.half()
    halves = [Cross(*(None if part is None else part.half() for part in cross)) for cross in crosses]
    assert distance(block._mixed(source.half(), rope, halves), exact) < 3e-3
    block.attn1.kernel = "gluon"
    compiled = torch.compile(block._mixed, fullgraph=True)
    for mixed in (block._mixed, compiled):
        made = mixed(source.half(), rope, halves)
        assert made.shape == exact.shape and distance(made, exact) < 3e-3
