"""The wide product by one kernel against float32."""

import pytest
import torch


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows, channels, columns", [(100_003, 96, 101), (100_003, 96, 53), (7, 32, 101)])
@torch.no_grad()
def test_as_exact_as_float32(rows: int, channels: int, columns: int) -> None:
    """Weights of 1e-4 to 1e2, which a single float16 would round by 1e-4."""
    from gap3d_app.nn.triton_product import applies, wide_product

    torch.manual_seed(0)
    x = torch.randn(rows, channels, device="cuda").half()
    weight = torch.randn(columns, channels, device="cuda") * torch.logspace(-4, 2, columns, device="cuda")[:, None]
    bias = torch.randn(columns, device="cuda")
    exact = x.double() @ weight.double().t() + bias.double()
    assert applies(x, weight)
    made, plain = wide_product(x, weight, bias), torch.addmm(bias, x.float(), weight.t())
    errors = [((y.double() - exact).norm(dim=0) / exact.norm(dim=0)).max().item() for y in (made, plain)]
    assert errors[0] < max(5e-7, 2 * errors[1]), errors
