"""Norm and rotation by one kernel against one after the other."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from gap3d_app.nn.grid_rope import norm_rotate, rotate_real, tiled_rope


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (a CPU machine does not need it)"
)
def test_triton_interpreted_on_the_cpu() -> None:
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("triton's interpreter reads loop bounds in a way that numpy 2.4 and newer refuse")
    done = subprocess.run([sys.executable, "-m", "tests.nn.interpreted"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "equal"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 4e-3), (torch.float16, 5e-4), (torch.float32, 1e-6)])
@torch.no_grad()
def test_on_cuda(dtype: torch.dtype, tolerance: float) -> None:
    """The sizes of the released network: queries and keys within one product with values, those of a condition."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # eight forms by default, and there are three of every dtype
    rope = tiled_rope(37, 37, 64, 28, 5, torch.device("cuda"))
    norms = [nn.LayerNorm(1792).cuda() for _ in range(3)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, 0.0, 0.3)
    q, k, _ = torch.randn(2, 1374, 3 * 1792, device="cuda").to(dtype).chunk(3, dim=-1)
    rows = [q, k, torch.randn(1, 1374, 1792, device="cuda").to(dtype)]
    exact = [rotate_real(norm(x.float()), rope) for x, norm in zip(rows, norms, strict=True)]
    compiled = torch.compile(norm_rotate, fullgraph=True)
    for count in (1, 2, 3):
        parts = [(x, norm.to(dtype)) for x, norm in zip(rows[:count], norms, strict=False)]
        for function in (norm_rotate, compiled):
            for made, wanted in zip(function(parts, rope, fused=True), exact, strict=False):
                assert made.dtype == dtype and made.is_contiguous()
                assert ((made.float() - wanted).norm() / wanted.norm()).item() < tolerance


def test_elsewhere_one_after_the_other() -> None:
    """Operands of fewer channels and samples than the others among them."""
    rope = tiled_rope(2, 3, 8, 2, 5, torch.device("cpu"))
    sizes = ((2, 16), (2, 8), (1, 16))
    parts = [(torch.randn(batch, 11, channels), nn.LayerNorm(channels)) for batch, channels in sizes]
    for made, (x, norm) in zip(norm_rotate(parts, rope, fused=True), parts, strict=True):
        assert torch.allclose(made, rotate_real(norm(x), rope), atol=1e-5)
