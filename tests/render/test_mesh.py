"""The mesh rasteriser against analytic shapes."""

import math

import pytest
import torch

from gap3d_app.geometry.cameras import orbit_camera, project
from gap3d_app.render.mesh import FRAGMENTS_PER_PASS, rasterize, render_mesh
from gap3d_app.values import Mesh
from tests.render.shapes import box, quad, sphere


def camera(yaw=math.pi, pitch=0.0, radius=2.0, fov=40.0):
    extrinsics, intrinsics = orbit_camera([yaw], [pitch], radius, fov)
    return extrinsics, intrinsics


def test_known_point_hits_its_pixel():
    point = torch.tensor([0.21, -0.1, 0.33])
    tiny = Mesh(point + 0.012 * torch.tensor([[0, 0, 1.0], [-1, 0, -1], [1, 0, -1]]), torch.tensor([[0, 1, 2]]))
    extrinsics, intrinsics = camera(math.pi - 0.4, 0.3)
    uv, depth = project(point[None], extrinsics, intrinsics)
    seen = rasterize(tiny.vertices, tiny.faces, extrinsics, intrinsics, 200)
    _, rows, columns = seen.mask.nonzero(as_tuple=True)
    assert abs(columns.float().mean() + 0.5 - uv[0, 0, 0] * 200) < 1
    assert abs(rows.float().mean() + 0.5 - uv[0, 0, 1] * 200) < 1
    assert seen.depth[seen.mask].mean() == pytest.approx(float(depth), abs=0.01)


def test_front_is_upright_and_not_mirrored():
    # front faces -Y and is seen from yaw pi: +X must be on the right, +Z at the top
    mesh = quad((0.2, 0.2), 0.1, y=-0.3)
    _, rows, columns = rasterize(mesh.vertices, mesh.faces, *camera(), 64).mask.nonzero(as_tuple=True)
    assert rows.max() < 32 and columns.min() >= 32


def test_sphere_silhouette_area():
    mesh, radius, distance = sphere(0.45, 4), 0.45, 2.0
    picture = render_mesh(mesh, *camera(0.7, 0.4), 256, ssaa=2)
    focal = 0.5 / math.tan(math.radians(20))
    expected = math.pi * (focal * radius) ** 2 / (distance**2 - radius**2)
    assert picture[..., 3].mean() == pytest.approx(expected, rel=5e-3)


def test_depth_and_perspective_colours_of_a_slanted_plane():
    mesh = quad((0, 0), 0.4)
    mesh.vertices[:, 1] = mesh.vertices[:, 0]  # turn it by 45 degrees about Z
    mesh.colors = mesh.vertices + 0.5
    extrinsics, intrinsics = camera()
    seen = rasterize(mesh.vertices, mesh.faces, extrinsics, intrinsics, 96)
    _, rows, columns = seen.mask.nonzero(as_tuple=True)
    # the ray through a pixel meets y = x at z = 2 / (1 - slope)
    slope = ((columns + 0.5) / 96 - 0.5) / float(intrinsics[0, 0, 0])
    depth = 2 / (1 - slope)
    torch.testing.assert_close(seen.depth[seen.mask], depth, atol=1e-4, rtol=0)
    albedo = render_mesh(mesh, extrinsics, intrinsics, 96, shading="albedo")[seen.mask]
    torch.testing.assert_close(albedo[:, 0], slope * depth + 0.5, atol=1e-4, rtol=0)


@pytest.mark.parametrize("swap", [False, True])
def test_nearer_face_wins(swap):
    near, far = quad((0, 0), 0.2, y=-0.2), quad((0, 0), 0.4, y=0.2)
    first, second = (far, near) if swap else (near, far)
    vertices = torch.cat([first.vertices, second.vertices])
    faces = torch.cat([first.faces, second.faces + len(first.vertices)])
    colors = torch.zeros(len(vertices), 3)
    colors[(vertices[:, 1] < 0), 0] = 1.0
    colors[(vertices[:, 1] > 0), 2] = 1.0
    picture = render_mesh(Mesh(vertices, faces, colors), *camera(), 64, shading="albedo")[0]
    torch.testing.assert_close(picture[32, 32], torch.tensor([1.0, 0, 0, 1]))
    torch.testing.assert_close(picture[18, 32], torch.tensor([0, 0, 1.0, 1]))
    assert torch.equal(picture[0, 0], torch.zeros(4))


def test_shared_edges_leave_no_holes():
    mesh = sphere(0.4, 3)
    seen = rasterize(mesh.vertices, mesh.faces, *orbit_camera([0.1, 1.3], [0.2, -0.6]), 128).mask
    for view in seen:
        for line in view[view.any(1)]:
            columns = line.nonzero()[:, 0]
            assert len(columns) == columns[-1] - columns[0] + 1


def test_normals_face_the_viewer_whatever_the_winding():
    mesh = quad((0, 0), 0.3)
    for faces in (mesh.faces, mesh.faces.flip(1)):
        picture = render_mesh(Mesh(mesh.vertices, faces), *camera(), 32, shading="normal")[0]
        torch.testing.assert_close(picture[16, 16, :3], torch.tensor([0.5, 0.0, 0.5]))


def test_lambert_follows_the_light():
    mesh = sphere(0.4, 3)
    light = torch.tensor([1.0, 0, 0])
    picture = render_mesh(mesh, *camera(), 64, light=light, ambient=0.3, diffuse=0.7, smooth=True)[0]
    lit, dark = picture[32, 46, 0], picture[32, 18, 0]
    assert lit > 0.6 and dark == pytest.approx(0.8 * 0.3, abs=0.01)


def test_background_and_alpha():
    picture = render_mesh(box(0.3), *camera(), 32, background=(0.0, 1.0, 0.0), ssaa=2)[0]
    torch.testing.assert_close(picture[0, 0], torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert picture[16, 16, 3] == 1


def test_passes_do_not_change_the_picture(monkeypatch):
    mesh, cameras = sphere(0.4, 2), orbit_camera([0.0, 2.0], [0.3, 0.1])
    whole = rasterize(mesh.vertices, mesh.faces, *cameras, 64)
    monkeypatch.setitem(FRAGMENTS_PER_PASS, "cpu", 100)
    parts = rasterize(mesh.vertices, mesh.faces, *cameras, 64)
    assert torch.equal(whole.face_id, parts.face_id) and torch.equal(whole.depth, parts.depth)


def test_nothing_to_draw():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert not render_mesh(empty, *camera(), 16).any()
    behind = quad((0, 0), 0.2, y=-5.0)
    assert not render_mesh(behind, *camera(), 16).any()
    with pytest.raises(ValueError, match="shading"):
        render_mesh(empty, *camera(), 16, shading="neon")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    mesh, cameras = sphere(0.4, 4), orbit_camera([0.0, 2.0, 4.0], [0.3, 0.1, -0.2])
    here = render_mesh(mesh, *cameras, 128, ssaa=2)
    there = [render_mesh(mesh.to("cuda"), *cameras, 128, ssaa=2) for _ in range(2)]
    assert torch.equal(*there)
    assert (here - there[0].cpu()).abs().mean() < 1e-4
