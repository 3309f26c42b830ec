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
    """The sizes of the released network, queries within one product with keys and values."""
    torch.manual_seed(0)
    rope, norm = tiled_rope(37, 37, 64, 28, 5, torch.device("cuda")), nn.LayerNorm(1792).cuda()
    nn.init.normal_(norm.weight, 1.0, 0.3)
    x = torch.randn(2, 1374, 3 * 1792, device="cuda").to(dtype)[..., :1792]
    exact = rotate_real(norm(x.float()), rope)
    fused = norm_rotate(x, norm.to(dtype), rope, fused=True)
    compiled = torch.compile(norm_rotate, fullgraph=True)(x, norm, rope, fused=True)
    for made in (fused, compiled):
        assert made.dtype == dtype
        assert ((made.float() - exact).norm() / exact.norm()).item() < tolerance


def test_elsewhere_one_after_the_other() -> None:
    rope, norm = tiled_rope(2, 3, 8, 2, 5, torch.device("cpu")), nn.LayerNorm(16)
    x = torch.randn(2, 11, 16)
    assert torch.allclose(norm_rotate(x, norm, rope, fused=True), rotate_real(norm(x), rope), atol=1e-5)
