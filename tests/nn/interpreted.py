"""Runs the kernels of dense networks in triton's interpreter, on the CPU; started by test_rotation."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from gap3d_app.models.slat_flow import activate  # noqa: E402
from gap3d_app.nn import (  # noqa: E402
    grid_norms,
    modulated_norms,
    norms,
    triton_modulated,
    triton_norm_silu,
    triton_rms,
    triton_sum_norm,
)
from gap3d_app.nn.grid_rope import rotate_real, tiled_rope  # noqa: E402
from gap3d_app.nn.norms import ChannelLayerNorm32, RMSNorm  # noqa: E402
from gap3d_app.nn.triton_attention import tiled_attention  # noqa: E402
from gap3d_app.nn.triton_product import wide_product  # noqa: E402
from gap3d_app.nn.triton_rotation import applies, norm_rotate  # noqa: E402


def check(batch: int, heads: int, head_dim: int, dtype: torch.dtype, tolerance: float) -> None:
    """Rows that lie apart, as queries and keys of one product do; fewer heads of keys, fewer samples of a third."""
    rope = tiled_rope(3, 4, head_dim, heads, 5, torch.device("cpu"))
    channels = [heads * head_dim, -(-heads // 2) * head_dim]
    joined = (torch.randn(batch, 17, 3 * channels[0]) * 2 + 5).to(dtype)
    q, k, _ = joined.split([*channels, joined.shape[2] - sum(channels)], dim=-1)
    parts = [(q, nn.LayerNorm(channels[0])), (k, nn.LayerNorm(channels[1], eps=1e-2))]
    parts.append((torch.randn(1, 17, channels[0]).to(dtype), nn.LayerNorm(channels[0])))
    for _, norm in parts:
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, 0.0, 0.3)
    for given in (parts[:1], parts[1:2], parts[:2], parts):
        assert applies(given, head_dim) and not applies(given, 3 * head_dim)
        for made, (x, norm) in zip(norm_rotate(given, rope.cos, rope.sin), given, strict=True):
            exact = rotate_real(norm(x.float()), rope)
            assert made.dtype == dtype and made.shape == x.shape and made.is_contiguous()
            distance = ((made.float() - exact).norm() / exact.norm()).item()
            assert distance < tolerance, (batch, heads, head_dim, dtype, len(given), distance)


def check_norms(samples: int, channels: int, dtype: torch.dtype, tolerance: float) -> None:
    """Norms, gates and scales, each of which has parts of one tensor's rows; one row of them or one a sample."""
    norms = [RMSNorm(channels, eps=eps) for eps in (1e-5, 1e-2)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1.0, 0.3)
    x, y = (torch.randn(2, 5, channels, dtype=torch.float64) + 1 for _ in range(2))
    scale, gate = torch.randn(samples, 1, 2 * channels, dtype=torch.float64).chunk(2, dim=-1)
    # What is stored is rounded: both sides see that.
    x, y = x.to(dtype).double(), y.to(dtype).double()
    scale, gate = scale.to(dtype).double(), gate.to(dtype).double()
    halves = [v.to(dtype) for v in (x, y)]
    parts = torch.cat([scale, gate], dim=-1).to(dtype).chunk(2, dim=-1)

    def near(made: torch.Tensor, exact: torch.Tensor) -> None:
        assert made.dtype == dtype and made.shape == exact.shape
        distance = ((made.double() - exact).norm() / exact.norm()).item()
        assert distance < tolerance, (samples, channels, dtype, distance)

    near(triton_rms.scaled_norm(halves[0], norms[0], parts[0]), grid_norms.scaled_norm(x, norms[0].double(), scale))
    norms[0].float()
    near(triton_rms.gated_sum(*halves, parts[1], norms[0]), grid_norms.gated_sum(x, y, gate, norms[0].double()))
    norms[0].float()
    made = triton_rms.gated_sum_norm(*halves, parts[1], norms[0], norms[1], parts[0])
    exact = grid_norms.gated_sum_norm(x, y, gate, norms[0].double(), norms[1].double(), scale)
    for one, other in zip(made, exact, strict=True):
        near(one, other)


def check_norm_silu(batch: int, channels: int, sizes: tuple[int, int, int]) -> None:
    """Voxels far from zero in channels_last_3d memory, in their own dtype and in float32."""
    norm = ChannelLayerNorm32(channels)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias, 0.0, 0.3)
    x = (torch.randn(batch, channels, *sizes) * 2 + 5).half().contiguous(memory_format=torch.channels_last_3d)
    assert triton_norm_silu.applies(x)
    rows = x.double().movedim(1, -1)
    exact = F.silu(F.layer_norm(rows, (channels,), norm.weight.double(), norm.bias.double(), norm.eps)).movedim(-1, 1)
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.float32, 1e-6)):
        made = triton_norm_silu.norm_silu(x, norm, dtype)
        assert made.dtype == dtype and made.is_contiguous(memory_format=torch.channels_last_3d)
        distance = ((made - exact).norm() / exact.norm()).item()
        assert distance < tolerance, (batch, channels, sizes, dtype, distance)


def check_norm_silu_rows(rows: int, channels: int, affine: bool) -> None:
    """Rows of sparse voxels, under a modulation and without."""
    norm = norms.LayerNorm32(channels, affine=affine, eps=1e-3)
    if affine:
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, 0.0, 0.3)
    x, mod = (torch.randn(rows, channels) * 2 + 5).half(), torch.randn(1, 2 * channels).half()
    for given in (None, mod):
        assert triton_norm_silu.applies_to_rows(x, given)
        made = triton_norm_silu.norm_silu_rows(x, norm, given)
        exact = activate(norm, x.double(), None if given is None else given.double())
        distance = ((made - exact).norm() / exact.norm()).item()
        assert made.dtype == x.dtype and distance < 1e-3, (rows, channels, affine, distance)
    assert not triton_norm_silu.applies_to_rows(x, mod.expand(rows, -1))


def check_attention(queries: int, keys: int) -> None:
    """Queries of a joined product with keys and values, large scores among them; keys and values apart."""
    joined = torch.randn(2, queries, 3, 3, 16).half() * 2
    q = joined.unbind(2)[0].transpose(1, 2)
    k, v = (torch.randn(2, 3, keys, 16).half() for _ in range(2))
    made = tiled_attention(q, k, v)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert made.shape == exact.shape and made.transpose(1, 2).is_contiguous()
    distance = ((made.double() - exact).norm() / exact.norm()).item()
    assert distance < 1e-3, (queries, keys, distance)


def check_product(rows: int, channels: int, columns: int) -> None:
    """Small weights beside large ones, so that a single half would not do."""
    x = torch.randn(rows, channels).half()
    weight, bias = torch.randn(columns, channels) * torch.logspace(-4, 2, columns)[:, None], torch.randn(columns)
    made = wide_product(x, weight, bias)
    exact = x.double() @ weight.double().t() + bias.double()
    assert made.dtype == torch.float32
    distance = ((made.double() - exact).norm(dim=0) / exact.norm(dim=0)).max().item()
    assert distance < 1e-6, (rows, channels, columns, distance)


def check_sum_norm(rows: int, channels: int) -> None:
    """Every sum, order and norm that is asked for, and none that is not."""
    x, y = ((torch.randn(rows, channels) * 2 + 5).half() for _ in range(2))
    order = torch.randperm(rows)
    for more in (y, None):
        for moved in (order, None):
            for norm in (norms.LayerNorm32(channels), None):
                assert triton_sum_norm.applies(x, norm)
                total, normed = triton_sum_norm.sum_norm(x, more, moved, norm)
                exact = norms.sum_norm(x, more, moved, norm)
                assert torch.equal(total, exact[0]), (rows, channels, more is None, moved is None)
                assert (normed is None) == (norm is None)
                assert normed is None or (normed - exact[1]).abs().max() < 4e-3, (rows, channels)


def check_modulated(samples: int, tokens: int, channels: int, dtype: torch.dtype, tolerance: float) -> None:
    """Gated sums; what conditions add, alike for all tokens or not, to rows of their own and to the same ones."""
    norm, kernels, twin = norms.LayerNorm32(channels, eps=1e-3), triton_modulated, modulated_norms
    x, y, other = ((torch.randn(samples, tokens, channels) * 2 + 3).to(dtype) for _ in range(3))
    one, several = torch.randn(1, 1, channels).to(dtype), torch.randn(samples, 1, channels).to(dtype)
    own = list(torch.cat([x, other]).chunk(2))
    joined = [([x], [y]), (own, [y, one]), (own, [y, several]), ([x, x], [y, several])]
    assert all(kernels.joins(*given) for given in joined)
    assert not kernels.joins([x, x], [y, y]) and not kernels.joins([x], [several])

    def near(there: tuple, here: tuple) -> None:
        for a, b in zip(there, here, strict=True):
            assert a.dtype == dtype and a.shape == b.shape
            distance = ((a.double() - b).norm() / b.norm()).item()
            assert distance < tolerance, (samples, tokens, channels, dtype, distance)

    for count in {1, samples}:
        shift, scale, gate = torch.randn(count, 1, 3 * channels).to(dtype).chunk(3, dim=-1)
        wide = shift.double(), scale.double()
        exact = twin.gated_sum_norm(x.double(), y.double(), gate.double(), norm, *wide)
        near(kernels.gated_sum_norm(x, y, gate, norm, shift, scale), exact)
        for rows, parts in joined if count == 1 else joined[:1]:
            exact = twin.joined_sum_norm([v.double() for v in rows], [v.double() for v in parts], norm, *wide)
            near(kernels.joined_sum_norm(rows, parts, norm, shift, scale), exact)


def check_norm_alone(samples: int, tokens: int, channels: int, dtype: torch.dtype, tolerance: float) -> None:
    """Under one modulation or one a sample, with a shift or without; in a wider dtype, rounded before or not."""
    norm = norms.LayerNorm32(channels, eps=1e-3)
    x = (torch.randn(samples, tokens, channels) * 2 + 3).to(dtype)
    rows = F.layer_norm(x.double(), (channels,), eps=1e-3)

    def near(made: torch.Tensor, exact: torch.Tensor, kind: torch.dtype, bound: float) -> None:
        assert made.dtype == kind and made.shape == exact.shape
        distance = ((made.double() - exact).norm() / exact.norm()).item()
        assert distance < bound, (samples, tokens, channels, dtype, kind, distance)

    for count in {1, samples}:
        shift, scale = torch.randn(count, 1, 2 * channels).to(dtype).chunk(2, dim=-1)
        for added in (shift, None):
            exact = rows * (1 + scale.double()) + (0 if added is None else added.double())
            near(triton_modulated.modulated_norm(x, norm, added, scale), exact, dtype, tolerance)
    near(triton_modulated.last_norm(x, norm, torch.float32, torch.float32), rows, torch.float32, 1e-6)
    rounded = triton_modulated.last_norm(x, norm, dtype, torch.float32)
    near(rounded, rows, torch.float32, tolerance)
    assert torch.equal(rounded, rounded.to(dtype).float())


with torch.no_grad():
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        check_modulated(1, 5, 64, dtype, tolerance)
        check_modulated(2, 3, 100, dtype, tolerance)
        check_norm_alone(2, 37, 100, dtype, tolerance)
        check_norm_alone(1, 3, 2500, dtype, tolerance)
    check_sum_norm(37, 100)
    check_sum_norm(3, 8)
    check_norm_silu(2, 32, (5, 9, 3))
    check_norm_silu(1, 20, (1, 1, 1))
    check_norm_silu(1, 600, (2, 2, 2))
    check_norm_silu_rows(37, 100, True)
    check_norm_silu_rows(70, 64, False)
    check_product(130, 96, 101)
    check_product(5, 20, 3)
    check_attention(5, 3)
    check_attention(130, 256)
    check_attention(64, 300)
    for samples, channels in ((1, 24), (2, 130)):
        check_norms(samples, channels, torch.float32, 1e-6)
        check_norms(samples, channels, torch.float16, 1e-3)
    check(2, 3, 8, torch.float32, 1e-6)
    check(1, 7, 64, torch.float32, 1e-6)
    check(2, 5, 16, torch.float16, 1e-3)
print("equal")
