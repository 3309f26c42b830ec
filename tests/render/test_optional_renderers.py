"""gsplat and nvdiffrast, where they are installed, against the built-in renderers."""

import math

import pytest
import torch
import trimesh

from gap3d_app.geometry.cameras import orbit_camera, project
from gap3d_app.render import gaussians as splatting
from gap3d_app.render import mesh as rasterising
from gap3d_app.render import with_gsplat, with_nvdiffrast
from gap3d_app.values import SH_C0, Gaussians, Mesh
from tests.render.shapes import from_trimesh

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def psnr(there: torch.Tensor, here: torch.Tensor) -> float:
    return -10 * math.log10(max((there - here).square().mean().item(), 1e-12))


def ball_of_gaussians(count: int = 20_000) -> Gaussians:
    """A coloured sphere like a decoded asset: small flat splats on its surface."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    return Gaussians(
        raw_xyz=direction * 0.35 + 0.5,
        raw_features_dc=(direction[:, None] * 0.4) / SH_C0,
        raw_scaling=torch.randn(count, 3, generator=draw) * 0.5 + 1,
        raw_rotation=torch.randn(count, 4, generator=draw),
        raw_opacity=torch.randn(count, 1, generator=draw) + 2,
        scaling_bias=0.006,
    )


def ring() -> Mesh:
    return from_trimesh(trimesh.creation.torus(0.3, 0.12, major_sections=64, minor_sections=32))


def test_nothing_optional_is_used_on_the_cpu() -> None:
    assert not with_gsplat.applies(ball_of_gaussians(3))
    assert not with_nvdiffrast.applies(ring().vertices, 64)


def test_clip_space_projects_where_the_cameras_do() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    extrinsics, intrinsics = orbit_camera([0.3, 2.0], [0.1, -0.4], 1.8, 40.0)
    camera = points @ extrinsics[:, :3, :3].mT + extrinsics[:, None, :3, 3]
    clip = with_nvdiffrast.clip_space(camera, intrinsics, 0.05)
    uv, depth = project(points, extrinsics, intrinsics)
    torch.testing.assert_close(clip[..., :2] / clip[..., 3:] / 2 + 0.5, uv, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip[..., 3], depth.view(2, 50), atol=1e-5, rtol=0)
    ahead = clip[..., 2] / clip[..., 3]
    assert (ahead.abs() < 1).all() and torch.equal(ahead.argsort(1), clip[..., 3].argsort(1))


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_gsplat_draws_the_same_picture() -> None:
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    scene = ball_of_gaussians().to("cuda")
    cameras = tuple(v.cuda() for v in orbit_camera([0.4, 3.0], [0.3, -0.2], 1.8, 40.0))
    assert with_gsplat.applies(scene)
    there = with_gsplat.draw(scene, *cameras, 256, splatting.NEAR)
    here = splatting.draw(scene, *cameras, 256)
    assert here[..., 3].max() > 0.9 and here[..., :3].std() > 0.05
    assert psnr(there[..., :3], here[..., :3]) > 35 and psnr(there[..., 3], here[..., 3]) > 35


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_nvdiffrast_sees_the_same_faces() -> None:
    pytest.importorskip("nvdiffrast.torch", reason="nvdiffrast is not installed")
    mesh = ring().to("cuda")
    cameras = tuple(v.cuda() for v in orbit_camera([0.4, 3.0], [0.6, -0.2], 1.8, 40.0))
    assert with_nvdiffrast.applies(mesh.vertices, 256)
    there = rasterising.rasterize(mesh.vertices, mesh.faces, *cameras, 256)
    here = rasterising.rasterize_in_torch(mesh.vertices, mesh.faces, *cameras, 256)
    same = there.face_id == here.face_id
    assert here.mask.sum() > 5000 and same.float().mean() > 0.995
    assert (there.bary - here.bary)[same].abs().max() < 1e-2
    assert (there.depth - here.depth)[same].abs().max() < 1e-3
    pictures = [
        rasterising.render_mesh(mesh, *cameras, 256, shading="albedo", raster=raster) for raster in (there, here)
    ]
    assert psnr(*pictures) > 30


@pytest.mark.gpu
@needs_cuda
@torch.no_grad()
def test_gaussians_on_cuda_equal_the_cpu() -> None:
    scene, cameras = ball_of_gaussians(4000), orbit_camera([0.4, 3.0], [0.3, -0.2], 1.8, 40.0)
    here = splatting.draw(scene, *cameras, 128)
    there = [splatting.draw(scene.to("cuda"), *(v.cuda() for v in cameras), 128) for _ in range(2)]
    assert torch.equal(*there)
    assert psnr(there[0].cpu(), here) > 50
