"""Runs the kernel of norm and rotation in triton's interpreter, on the CPU; started by test_rotation."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from torch import nn  # noqa: E402

from gap3d_app.nn.grid_rope import rotate_real, tiled_rope  # noqa: E402
from gap3d_app.nn.triton_rotation import applies, norm_rotate  # noqa: E402


def check(batch: int, heads: int, head_dim: int, dtype: torch.dtype, tolerance: float) -> None:
    """Rows that lie apart, as the queries among queries, keys and values do."""
    channels = heads * head_dim
    norm = nn.LayerNorm(channels)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias, 0.0, 0.3)
    rope = tiled_rope(3, 4, head_dim, heads, 5, torch.device("cpu"))
    x = (torch.randn(batch, 17, 3 * channels) * 2 + 5).to(dtype)[..., channels : 2 * channels]
    assert applies(x)
    made = norm_rotate(x, norm, rope.cos, rope.sin)
    exact = rotate_real(norm(x.float()), rope)
    assert made.dtype == dtype and made.shape == x.shape
    distance = ((made.float() - exact).norm() / exact.norm()).item()
    assert distance < tolerance, (batch, heads, head_dim, dtype, distance)


with torch.no_grad():
    torch.manual_seed(0)
    check(2, 3, 8, torch.float32, 1e-6)
    check(1, 7, 64, torch.float32, 1e-6)
    check(2, 5, 16, torch.float16, 1e-3)
print("equal")
