"""Cameras against analytic projections and the golden file."""

import json
import math

import pytest
import torch
from safetensors import safe_open

from gap3d_app.geometry import cameras


def test_front_view_places_axes_on_the_image():
    extrinsics, intrinsics = cameras.orbit_camera(math.pi, 0.0, 2.0, 40.0)
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0.3], [0.3, 0, 0], [0, -0.5, 0]])
    uv, depth = cameras.project(points, extrinsics, intrinsics)
    assert torch.allclose(uv[0], torch.tensor([0.5, 0.5]), atol=1e-6)
    assert uv[1, 1] < 0.5 and abs(uv[1, 0] - 0.5) < 1e-6  # +Z is up in the picture
    assert uv[2, 0] > 0.5  # seen from -Y, +X is on the right
    assert depth[3] == pytest.approx(1.5)
    expected = 0.5 + 0.5 / math.tan(math.radians(20)) * 0.3 / 2
    assert uv[2, 0].item() == pytest.approx(expected, abs=1e-6)


def test_unproject_undoes_project():
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    extrinsics, intrinsics = cameras.orbit_camera(torch.tensor([0.3, 2.0]), 0.4, 2.0, 40.0)
    made = cameras.unproject(*cameras.project(points, extrinsics, intrinsics), extrinsics, intrinsics)
    assert (made - points).abs().max() < 1e-5


def test_eye_and_rotation_are_exact():
    yaw = torch.linspace(-3, 3, 7)
    pitch = torch.linspace(-math.pi / 2, math.pi / 2, 7)
    extrinsics, _ = cameras.orbit_camera(yaw, pitch, 3.0, 30.0)
    eye = torch.stack([yaw.sin() * pitch.cos(), yaw.cos() * pitch.cos(), pitch.sin()], -1) * 3
    assert torch.allclose(cameras.camera_centers(extrinsics), eye, atol=1e-5)
    rotation = extrinsics[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(7, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(7), atol=1e-5)


def test_look_at_agrees_with_orbit_and_refuses_the_pole():
    extrinsics, _ = cameras.orbit_camera(0.7, -0.4, 2.5, 40.0)
    assert torch.allclose(cameras.look_at(cameras.camera_centers(extrinsics)), extrinsics, atol=1e-6)
    with pytest.raises(ValueError, match="up axis"):
        cameras.look_at((0.0, 0.0, 2.0))


def test_projection_matrix_matches_project():
    extrinsics, intrinsics = cameras.orbit_camera(0.3, 0.2, 2.0, 50.0)
    point = torch.tensor([0.1, -0.2, 0.3, 1.0])
    clip = cameras.projection_matrix(intrinsics, 0.8, 5.0) @ extrinsics @ point
    uv, depth = cameras.project(point[None, :3], extrinsics, intrinsics)
    assert torch.allclose((clip[:2] / clip[3] + 1) / 2, uv[0], atol=1e-6)
    assert clip[3] == pytest.approx(depth[0].item())


def test_sphere_sequence_is_even_and_remap_prefers_above():
    eyes = cameras.camera_centers(cameras.sphere_cameras(64)[0])
    assert torch.linalg.norm(eyes.mean(0)) < 0.1
    above = cameras.camera_centers(cameras.sphere_cameras(64, remap=True)[0])[:, 2] > 0
    assert above.float().mean() == pytest.approx(0.75, abs=0.02)
    assert cameras.turntable_cameras(8)[0].shape == (8, 4, 4)


def test_golden(shared_dir):
    with safe_open(shared_dir / "conformance/trellis/cameras.safetensors", "pt") as f:
        data = {k: f.get_tensor(k) for k in f.keys()}
        meta = f.metadata()
    tolerance = json.loads(meta["tolerance_max_abs"])
    args = json.loads(meta["constructor_args"])
    n = args["num_views"]

    def sphere(offset=(0.0, 0.0), remap=False):
        rows = [cameras.sphere_hammersley(i, n, offset, remap) for i in range(n)]
        return torch.tensor(rows, dtype=torch.float64)

    angles = [data[f"inputs.{k}"] for k in ("yaw", "pitch", "r", "fov_degrees")]
    extrinsics, intrinsics = cameras.orbit_camera(*angles)
    many_e, many_i = cameras.sphere_cameras(n)
    got = {
        "extrinsics": extrinsics,
        "intrinsics": intrinsics,
        "multiview_extrinsics": many_e[1:],
        "multiview_intrinsics": many_i[1:],
        "hammersley_3": torch.tensor([cameras.hammersley(i, n, 3) for i in range(n)], dtype=torch.float64),
        "sphere_hammersley_plain": sphere(),
        "sphere_hammersley_offset": sphere(tuple(args["hammersley_offset"])),
        "sphere_hammersley_remap": sphere(tuple(args["hammersley_remap_offset"]), True),
    }
    for name, value in got.items():
        assert (value - data[f"outputs.{name}"]).abs().max() <= tolerance[name], name
