"""The radiance-field renderer against Beer-Lambert and against a direct march."""

import math

import pytest
import torch

from gap3d_app.geometry.cameras import camera_centers, orbit_camera
from gap3d_app.render import radiance
from gap3d_app.render.radiance import field_at, march, render_radiance, tables_of
from gap3d_app.values import SH_C0, RadianceField
from tests.render.fields import LENGTH, RANK, constant_field, random_field

SIZE = 24
WHOLE = torch.cartesian_prod(*[torch.arange(4)] * 3)


def rays(extrinsics, intrinsics, size):
    """Eye [3], unit directions [S, S, 3] and their forward parts [S, S] of one view, in float64."""
    e, k = extrinsics.double(), intrinsics.double()
    centre = (torch.arange(size) + 0.5).double() / size
    v, u = torch.meshgrid((centre - k[1, 2]) / k[1, 1], (centre - k[0, 2]) / k[0, 0], indexing="ij")
    camera = torch.nn.functional.normalize(torch.stack([u, v, torch.ones_like(u)], -1), dim=-1)
    return camera_centers(e), camera @ e[:3, :3], camera[..., 2]


def chords(eye, direction, low, high):
    """Entry and exit of rays into a box; the exit is not after the entry where they miss."""
    a, b = (low - eye) / direction, (high - eye) / direction
    return torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)


@pytest.mark.parametrize("pitch", [0.0, 0.35, math.pi / 2])
@pytest.mark.parametrize("density", [0.5, 3.0])
def test_constant_density_in_a_box_obeys_beer_and_lambert(density, pitch):
    rgb = (0.9, 0.5, 0.2)
    field = constant_field(WHOLE, 4, density, rgb)
    extrinsics, intrinsics = orbit_camera(math.pi - 0.4, pitch, 2.5, 40.0)
    seen = march(field, extrinsics, intrinsics, SIZE)
    eye, direction, forward = rays(extrinsics, intrinsics, SIZE)
    near, far = chords(eye, direction, -0.5, 0.5)
    length = (far - near).clamp(min=0)
    through = torch.exp(-density * length)
    torch.testing.assert_close(1 - seen.alpha[0].double(), through, atol=2e-5, rtol=0)
    torch.testing.assert_close(seen.color[0].double(), (1 - through)[..., None] * torch.tensor(rgb), atol=2e-5, rtol=0)
    # mean distance of an exponential that is cut off at the chord's end
    hit = length > 0.02
    mean = near + 1 / density - length * through / (1 - through)
    torch.testing.assert_close(seen.depth[0].double()[hit], (mean * forward)[hit], atol=2e-4, rtol=0)
    assert hit.float().mean() > 0.2 and (seen.depth[0][length == 0] == 0).all()


def test_field_is_the_sum_of_products_of_interpolated_vectors():
    field = random_field()
    local = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    local[0], local[1] = 0.0, 1.0  # outside of the first and the last value
    voxel = torch.arange(50) % len(field)
    density, rgb = field_at(tables_of(field), voxel, local)
    for p in range(50):
        v = int(voxel[p])
        tau = []
        for k in range(RANK):
            product = 1.0
            for axis in range(3):
                place = float(local[p, axis]) * LENGTH - 0.5
                base = min(max(math.floor(place), 0), LENGTH - 2)
                low, high = (float(field.trivec[v, k, axis, base + i]) for i in (0, 1))
                product *= low + (high - low) * (place - base)
            tau.append(product)
        raw = sum(float(field.density[v, k]) * tau[k] for k in range(RANK))
        assert float(density[p]) == pytest.approx(math.log1p(math.exp(raw)), abs=1e-4)
        for c in range(3):
            raw = sum(SH_C0 * float(field.features_dc[v, k, 0, c]) * tau[k] for k in range(RANK))
            assert float(rgb[p, c]) == pytest.approx(1 / (1 + math.exp(-raw)), abs=1e-4)


def by_march(field: RadianceField, extrinsics, intrinsics, size: int, starts: int) -> torch.Tensor:
    """The reference's march (trellis.md 7.3), one global step from `starts` even starts, averaged: [S, S, 5]."""
    eye, direction, forward = rays(extrinsics, intrinsics, size)
    step = 0.5 / LENGTH / field.resolution
    number = torch.full((field.resolution,) * 3, -1)
    number[tuple(field.coords.long().T)] = torch.arange(len(field))
    tables = tables_of(field)
    total = torch.zeros(size, size, 5, dtype=torch.float64)
    for start in (torch.arange(starts) + 0.5) / starts:
        light = torch.zeros(size, size, 4, dtype=torch.float64)
        through = torch.ones(size, size, dtype=torch.float64)
        for k in range(int(0.3 / step), int(2.6 / step)):
            z = (k + start) * step
            place = (eye + z * direction + 0.5) * field.resolution
            voxel = place.floor().long()
            inside = ((voxel >= 0) & (voxel < field.resolution)).all(-1)
            leaf = torch.where(inside, number[tuple(voxel.clamp(0, field.resolution - 1).unbind(-1))], -1)
            hit = (leaf >= 0) & (through >= 1e-3)
            density, rgb = field_at(tables, leaf[hit], (place - voxel)[hit].float())
            alpha = (1 - torch.exp(-density.double() * step)).clamp(max=0.999)
            weight = alpha * through[hit]
            light[hit] += torch.cat([rgb.double(), z * forward[hit][:, None]], 1) * weight[:, None]
            through[hit] -= weight
        total += torch.cat([light[..., :3], 1 - through[..., None], light[..., 3:]], -1) / starts
    return total


@pytest.mark.parametrize("density", [1.0, 8.0])
def test_agrees_with_the_mean_of_marches_from_many_starts(density):
    field = random_field(density=density)
    extrinsics, intrinsics = orbit_camera(2.0, 0.4, 1.5, 50.0)
    seen = march(field, extrinsics, intrinsics, SIZE)
    expected = by_march(field, extrinsics, intrinsics, SIZE, 16)
    mine = torch.cat([seen.color, seen.alpha[..., None], (seen.depth * seen.alpha)[..., None]], -1)[0]
    difference = (mine - expected).abs()
    assert expected[..., 3].max() > 0.7
    assert difference.mean() < 1e-3 and difference.max() < 0.05


def test_nearer_voxel_hides_the_farther_one():
    near = constant_field(torch.tensor([[1, 0, 1]]), 2, 200.0, (0.98, 0.02, 0.02))
    far = constant_field(torch.tensor([[1, 1, 1]]), 2, 200.0, (0.02, 0.02, 0.98))
    parts = [torch.cat([getattr(f, n) for f in (far, near)]) for n in ("coords", "trivec", "density", "features_dc")]
    both = RadianceField(*parts, resolution=2)
    seen = march(both, *orbit_camera([math.pi, 0.0], [0.0, 0.0]), 32)
    front, back = seen.color[0, 10, 20], seen.color[1, 10, 11]  # +X is right from the front, left from the back
    torch.testing.assert_close(front, torch.tensor([0.98, 0.02, 0.02]), atol=2e-3, rtol=0)
    torch.testing.assert_close(back, torch.tensor([0.02, 0.02, 0.98]), atol=2e-3, rtol=0)
    assert seen.depth[0, 10, 20] == pytest.approx(1.5, abs=0.02)
    assert not seen.alpha[0, 18:].any() and not seen.alpha[0, :, :15].any()


def test_bands_and_passes_do_not_change_the_picture(monkeypatch):
    field, camera = random_field(), orbit_camera([0.3, 2.0], [0.2, -0.5])
    whole = march(field, *camera, 32)
    monkeypatch.setitem(radiance.PAIRS_PER_BAND, "cpu", 300)
    monkeypatch.setitem(radiance.SAMPLES_PER_PASS, "cpu", 100)
    parts = march(field, *camera, 32)
    torch.testing.assert_close(parts.color, whole.color, atol=2e-3, rtol=0)  # a ray may end a sample later
    torch.testing.assert_close(parts.alpha, whole.alpha, atol=2e-3, rtol=0)


def test_eye_inside_a_voxel_sees_all_around_it():
    field = constant_field(WHOLE[:1], 1, 2.0, (0.5, 0.5, 0.5))  # one voxel, some of whose corners are behind the eye
    camera = orbit_camera(0.7, 0.1, 0.3, 100.0)
    eye, direction, _ = rays(*camera, SIZE)
    through = torch.exp(-2.0 * chords(eye, direction, -0.5, 0.5)[1])
    torch.testing.assert_close(1 - march(field, *camera, SIZE).alpha[0].double(), through, atol=2e-5, rtol=0)


def test_background_super_sampling_and_nothing():
    field = constant_field(WHOLE, 4, 2.0, (0.3, 0.3, 0.3))
    camera = orbit_camera([math.pi], [0.2])
    picture = render_radiance(field, *camera, 16, background=(0.0, 0.0, 1.0), ssaa=2)
    assert picture.shape == (1, 16, 16, 4)
    torch.testing.assert_close(picture[0, 0, 0], torch.tensor([0.0, 0.0, 1.0, 0.0]))
    seen = march(field, *camera, 32)
    torch.testing.assert_close(picture[0, 8, 8, 3], seen.alpha[0, 16:18, 16:18].mean())
    assert picture[0, 8, 8, 2] == pytest.approx(float(0.3 * picture[0, 8, 8, 3] + 1 - picture[0, 8, 8, 3]), abs=1e-4)
    with pytest.raises(ValueError, match="shading"):
        render_radiance(field, *camera, 8, shading="normal")
    assert not render_radiance(constant_field(WHOLE[:0], 4, 1.0, (0.5, 0.5, 0.5)), *camera, 8).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    field, camera = random_field(), orbit_camera([0.3, 2.0], [0.2, -0.5])
    there = [march(field.to("cuda"), *camera, 64).color for _ in range(2)]
    assert torch.equal(*there)
    assert (march(field, *camera, 64).color - there[0].cpu()).abs().mean() < 1e-3
