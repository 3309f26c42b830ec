"""Baking in torch against its twin in numpy: on the CPU, and on CUDA through the whole export."""

import numpy as np
import pytest
import torch
import trimesh

from gap3d_app.geometry import bake as slow
from gap3d_app.geometry import device_bake as fast
from gap3d_app.geometry.glb import export_glb
from gap3d_app.geometry.simplify import simplify
from gap3d_app.geometry.unwrap import unwrap
from tests.geometry.shapes import box, solid_mesh, sphere, torus

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPES = {"sphere": sphere(), "torus": torus(), "thin wall": box((0.35, 0.013, 0.35))}


def stripes(p: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.4 * torch.sin(p * torch.tensor([20.0, 15.0, 17.0]))


def surface(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mesh = solid_mesh(SHAPES[name], 48, color=stripes)
    return mesh.vertices.numpy(), mesh.faces.numpy(), mesh.colors.numpy()


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(v) for v in arrays]


@pytest.mark.parametrize("name", SHAPES)
def test_textures_agree(name: str) -> None:
    vertices, faces, colors = surface(name)
    points, triangles = simplify(vertices, faces, 900)
    atlas = unwrap(points, triangles, 256)
    layout = (points, triangles, atlas.uv, atlas.faces, 256)
    there = fast.bake(*layout, fast.DeviceColors(*tensors(vertices, faces, colors)))
    here = slow.bake(*layout, slow.SurfaceColors(vertices, faces, colors))
    assert there.shape == here.shape == (256, 256, 3) and there.dtype == np.uint8
    apart = np.abs(there.astype(int) - here.astype(int)).max(2)
    assert np.quantile(apart, 0.995) <= 1 and apart.mean() < 0.05
    assert here.std() > 20


def test_covered_texels_agree() -> None:
    vertices, faces, _ = surface("torus")
    points, triangles = simplify(vertices, faces, 900)
    atlas = unwrap(points, triangles, 256)
    texel, face, bary = (v.numpy() for v in fast.cover_texels(*tensors(atlas.uv, atlas.faces), 256))
    wanted = np.unique(slow.rasterize_uv(atlas.uv, atlas.faces, 256)[0])
    assert len(np.setxor1d(texel, wanted)) <= 2 and (np.diff(texel) > 0).all()
    center = np.stack([texel % 256 + 0.5, texel // 256 + 0.5], 1) / 256
    assert np.abs(np.einsum("pk,pkd->pd", bary, atlas.uv[atlas.faces[face]]) - center).max() < 1e-5


def test_large_triangles_and_far_points() -> None:
    """Faces longer than the spacing are sampled inside; a query off the surface takes the nearest sample."""
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], dtype=np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    there, here = (
        fast.DeviceColors(*tensors(corners, faces, corners + 0.5)),
        slow.SurfaceColors(corners, faces, corners + 0.5),
    )
    assert there.size == here.size.tolist() and there.cell == pytest.approx(here.cell)
    points = np.random.default_rng(0).uniform(-0.45, 0.45, (500, 3)).astype(np.float32)
    points[:400, 2] = 0
    normals = np.tile(np.float32([0, 0, 1]), (500, 1))
    assert np.abs(there(*tensors(points, normals)).numpy() - here(points, normals)).max() < 2e-3


def test_gutters_agree() -> None:
    draw = torch.Generator().manual_seed(0)
    color, covered = torch.rand(64, 64, 3, generator=draw), torch.rand(64, 64, generator=draw) < 0.01
    color[~covered] = 0
    for where in (covered, torch.zeros_like(covered)):
        here = slow.fill_gutters(color.numpy() * where.numpy()[..., None], where.numpy())
        assert np.abs(fast.fill_gutters(color * where[..., None], where).numpy() - here).max() < 1e-5


def texture(path) -> np.ndarray:
    (shape,) = trimesh.load(path).geometry.values()
    return np.asarray(shape.visual.material.baseColorTexture.convert("RGB")).astype(int)


@pytest.mark.gpu
@needs_cuda
def test_export_from_cuda_equals_export_from_the_cpu(tmp_path) -> None:
    mesh = solid_mesh(torus(), 64, color=stripes)
    settings = dict(target_faces=2000, texture_size=512, texture_format="png")
    facts = export_glb(mesh, tmp_path / "cpu.glb", **settings)
    for name in ("cuda.glb", "again.glb"):
        there = export_glb(mesh.to("cuda"), tmp_path / name, **settings)
    assert (tmp_path / "cuda.glb").read_bytes() == (tmp_path / "again.glb").read_bytes()
    assert (there.faces, there.vertices, there.charts) == (facts.faces, facts.vertices, facts.charts)
    apart = np.abs(texture(tmp_path / "cuda.glb") - texture(tmp_path / "cpu.glb")).max(2)
    assert np.quantile(apart, 0.995) <= 1
