"""The Gaussian renderer against a direct loop over pixels."""

import math

import pytest
import torch

from gap3d_app.geometry.cameras import orbit_camera
from gap3d_app.render import gaussians as renderer
from gap3d_app.render.gaussians import project_gaussians, render_gaussians
from gap3d_app.values import SH_C0, Gaussians

SIZE = 24


def random_gaussians(count: int, seed: int = 0, scale: float = 0.0) -> Gaussians:
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        raw_xyz=torch.rand(count, 3, generator=draw) * 0.6 + 0.2,
        raw_features_dc=(torch.rand(count, 1, 3, generator=draw) - 0.5) / SH_C0,
        raw_scaling=torch.randn(count, 3, generator=draw) * 0.5 + scale,
        raw_rotation=torch.randn(count, 4, generator=draw),
        raw_opacity=torch.randn(count, 1, generator=draw) + 3,
        scaling_bias=0.03,
    )


def by_loop(gaussians: Gaussians, extrinsics, intrinsics) -> torch.Tensor:
    """One Gaussian after the other at every pixel, as trellis.md 7.2 states it."""
    full = gaussians.covariance[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    position = gaussians.xyz @ extrinsics[:3, :3].T + extrinsics[:3, 3]
    focal, limit = float(intrinsics[0, 0]), 1.3 * 0.5 / float(intrinsics[0, 0])
    picture = torch.zeros(SIZE, SIZE, 4)
    through = torch.ones(SIZE, SIZE)
    stopped = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for g in position[:, 2].argsort().tolist():
        x, y, z = position[g].tolist()
        if z <= 0.2:
            continue
        sx, sy = (max(-limit, min(limit, v / z)) for v in (x, y))
        jacobian = torch.tensor([[1 / z, 0, -sx / z], [0, 1 / z, -sy / z]]) * focal * SIZE
        screen = jacobian @ extrinsics[:3, :3] @ full[g] @ extrinsics[:3, :3].T @ jacobian.T
        wide = screen + 0.1 * torch.eye(2)
        d0, d1 = max(1e-6, float(screen.det())), max(1e-6, float(wide.det()))
        opacity = float(gaussians.opacity[g]) * math.sqrt(d0 / (d1 + 1e-6) + 1e-6)
        opacity = 0.0 if d0 <= 1e-6 or d1 <= 1e-6 else opacity
        centre = [(focal * v / z + 0.5) * SIZE - 0.5 for v in (x, y)]
        offset = torch.stack([centre[0] - columns, centre[1] - rows], dim=-1)
        power = -0.5 * torch.einsum("hwi,ij,hwj->hw", offset, wide.inverse(), offset)
        alpha = (opacity * power.exp()).clamp(max=0.99)
        drawn = (alpha >= 1 / 255) & ~stopped
        stopped |= drawn & (through * (1 - alpha) < 1e-4)
        weight = torch.where(drawn & ~stopped, alpha * through, 0.0)
        picture[..., :3] += weight[..., None] * gaussians.colors[g]
        picture[..., 3] += weight
        through = torch.where(drawn & ~stopped, through * (1 - alpha), through)
    return picture


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_equals_the_loop(scale):
    gaussians = random_gaussians(60, scale=scale)
    extrinsics, intrinsics = orbit_camera(math.pi - 0.5, 0.3, 1.6, 40.0)
    fast = render_gaussians(gaussians, extrinsics, intrinsics, SIZE)[0]
    assert fast[..., 3].max() > 0.9
    torch.testing.assert_close(fast, by_loop(gaussians, extrinsics, intrinsics), atol=2e-4, rtol=0)


def test_gaussian_is_drawn_where_its_centre_projects():
    gaussians = random_gaussians(1)
    gaussians.raw_xyz[:] = torch.tensor([[0.7, 0.5, 0.8]])
    extrinsics, intrinsics = orbit_camera([math.pi], [0.0])
    picture = render_gaussians(gaussians, extrinsics, intrinsics, 64)[0, ..., 3]
    row, column = divmod(int(picture.argmax()), 64)
    assert row < 32 < column  # +Z up, +X to the right seen from the front
    full = gaussians.covariance[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    centre = project_gaussians(gaussians, full, extrinsics[0], intrinsics[0], 64).centre[0]
    assert abs(centre[0] - column) <= 1 and abs(centre[1] - row) <= 1


def test_background_shows_through():
    gaussians = random_gaussians(3)
    extrinsics, intrinsics = orbit_camera([0.0, 1.0], [0.2, 0.2])
    picture = render_gaussians(gaussians, extrinsics, intrinsics, 16, background=(0.0, 0.0, 1.0))
    assert picture.shape == (2, 16, 16, 4)
    torch.testing.assert_close(picture[0, 0, 0, :3], torch.tensor([0.0, 0.0, 1.0]))


def test_gradients_agree_with_differences(monkeypatch):
    # without the cut-offs, whose jumps no gradient sees
    monkeypatch.setattr(renderer, "SMALLEST_ALPHA", 1e-7)
    monkeypatch.setattr(renderer, "SMALLEST_TRANSMITTANCE", 0.0)
    gaussians = random_gaussians(12, seed=3, scale=1.0)
    extrinsics, intrinsics = orbit_camera(math.pi, 0.2, 1.6, 40.0)
    target = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1))

    def loss():
        picture = render_gaussians(gaussians, extrinsics, intrinsics, SIZE)[0]
        return ((picture[..., :3] - target) ** 2).sum()

    names = ("raw_xyz", "raw_features_dc", "raw_scaling", "raw_rotation", "raw_opacity")
    for name in names:
        getattr(gaussians, name).requires_grad_()
    loss().backward()
    for name in names:
        value = getattr(gaussians, name)
        direction = torch.sign(value.grad)
        with torch.no_grad():
            step = 1e-3 if name != "raw_xyz" else 1e-4
            value += step * direction
            high = loss()
            value -= 2 * step * direction
            low = loss()
            value += step * direction
        assert float((high - low) / (2 * step)) == pytest.approx(float(value.grad.abs().sum()), rel=0.05), name
