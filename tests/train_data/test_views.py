"""Condition views, their cameras, and features projected from them."""

import math

import numpy as np
import pytest
import torch
import trimesh

from gap3d_app.errors import InputError
from gap3d_app.geometry.cameras import camera_centers
from gap3d_app.render.mesh import rasterize
from tests.render.shapes import box, from_trimesh, sphere
from train.data.fields import surface_fields
from train.data.glb_reader import load_glb
from train.data.views import condition_cameras, project_features, render_views


def test_cameras_repeat_and_the_first_is_canonical():
    first, second = condition_cameras(5, 6), condition_cameras(5, 6)
    assert torch.equal(first.extrinsics, second.extrinsics) and torch.equal(first.light, second.light)
    other = condition_cameras(6, 6)
    assert torch.equal(first.extrinsics[0], other.extrinsics[0])
    assert not torch.equal(first.extrinsics[1], other.extrinsics[1])
    eye = -(first.extrinsics[0, :3, :3].T @ first.extrinsics[0, :3, 3])
    expected = (math.sin(math.pi - 0.6) * math.cos(0.35), math.cos(math.pi - 0.6) * math.cos(0.35))
    torch.testing.assert_close(eye, 2 * torch.tensor([*expected, math.sin(0.35)]))
    assert ((first.ambient > 0.4) & (first.ambient < 0.61)).all()


def test_views_are_cropped_round_the_silhouette():
    mesh = box(0.2)
    mesh.vertices += torch.tensor([0.25, -0.2, 0.1])
    views = render_views(mesh, condition_cameras(0, 4, mesh), size=96)
    assert views.rgb.shape == (4, 96, 96, 3) and views.rgb.dtype == torch.uint8
    for alpha in views.alpha:
        rows, columns = (alpha > 127).nonzero(as_tuple=True)
        spans = [float(v.max() - v.min()) + 1 for v in (rows, columns)]
        assert max(spans) == pytest.approx(96 / 1.2, abs=2)
        for v in (rows, columns):
            assert float(v.max() + v.min() + 1) / 2 == pytest.approx(48, abs=1)
    assert (views.rgb[views.alpha == 0] == 0).all()


def test_dense_targets_hold_camera_space_normals_relief_and_positions():
    mesh = sphere(0.4, 4)
    views = render_views(mesh, condition_cameras(0, 2, mesh))
    targets = views.dense_targets(16)
    assert targets.shape == (2, 16, 16, 7) and targets.dtype == torch.int8
    middle = targets[:, 7:9, 7:9].float().mean((1, 2)) / 127
    assert (middle[:, 2] < -0.9).all()  # towards the camera
    assert (middle[:, 3] > 0.35).all()  # nearer than the centre
    right, left = targets[:, 8, 12, 0], targets[:, 8, 3, 0]
    assert (right > 50).all() and (left < -50).all()
    seen = views.alpha == 255
    assert (views.positions()[seen].norm(dim=1) - 0.4).abs().max() < 0.01  # every pixel sees the sphere
    points = targets[:, 7:9, 7:9, 4:].float().mean((1, 2)) / 127 / 2
    towards = torch.nn.functional.normalize(camera_centers(views.extrinsics), dim=1)
    assert (points - 0.4 * towards).norm(dim=1).max() < 0.05  # the middle sees what is next to the eye
    assert (targets[:, 0, 0] == 0).all()


def test_projected_features_come_from_views_that_see_the_voxel():
    mesh = sphere(0.4, 4)
    cameras = condition_cameras(3, 6, mesh)
    views = render_views(mesh, cameras, size=112)
    coords = surface_fields(mesh).coords
    # each view's map holds its own number: a voxel must be the mean of the numbers of its views
    maps = torch.arange(6.0)[:, None, None, None].expand(6, 16, 16, 1)
    feats = project_features(maps, coords, views.extrinsics, views.intrinsics, views.depth)
    assert feats.shape == (len(coords), 1)
    centres = (coords.float() + 0.5) / 32 - 0.5
    eyes = -(views.extrinsics[:, :3, :3].mT @ views.extrinsics[:, :3, 3:])[..., 0]
    facing = torch.nn.functional.normalize(centres, dim=-1) @ torch.nn.functional.normalize(eyes, dim=-1).T
    clear = (facing.abs() > 0.55).all(1) & (facing > 0.55).any(1)
    seen = (facing > 0.55).float()
    expected = (seen * torch.arange(6.0)).sum(1) / seen.sum(1)
    torch.testing.assert_close(feats[clear, 0], expected[clear], atol=1e-4, rtol=0)
    hidden = (facing < -0.55).all(1)
    torch.testing.assert_close(feats[hidden, 0], torch.full((int(hidden.sum()),), 2.5))


def test_glb_orientation_scale_and_colour(tmp_path):
    scene = trimesh.Scene()
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[0.5, 0.0, 0.0, 1.0])
    body = trimesh.creation.box((2, 4, 1))
    body.visual = trimesh.visual.TextureVisuals(material=material)
    nose = trimesh.creation.box((0.5, 0.5, 1), transform=trimesh.transformations.translation_matrix((0, 1, 1)))
    nose.visual = trimesh.visual.ColorVisuals(nose, vertex_colors=np.tile([0, 255, 0, 255], (8, 1)))
    scene.add_geometry(body)
    scene.add_geometry(nose)
    scene.export(tmp_path / "thing.glb")
    mesh = load_glb(tmp_path / "thing.glb")
    assert mesh.vertices.abs().max() == pytest.approx(0.49, abs=1e-5)
    extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    torch.testing.assert_close(extent, torch.tensor([2, 2.0, 4]) * 0.98 / 4)  # up is Z now
    green = mesh.colors[:, 1] > 0.5
    assert mesh.vertices[green, 1].min() == pytest.approx(float(mesh.vertices[:, 1].min()))  # front is -Y
    red = mesh.colors[~green]
    linear = 0.5 if red[0, 0] > 0.6 else None  # factors are linear: 0.5 is 0.735 in sRGB
    assert linear == 0.5 and red[0, 0] == pytest.approx(0.735, abs=0.01)


def test_textures_reach_the_corners(tmp_path):
    from PIL import Image

    texture = Image.new("RGB", (64, 64), (255, 0, 0))
    texture.paste((0, 0, 255), (32, 0, 64, 64))
    plane = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    plane.visual = trimesh.visual.TextureVisuals(
        uv=[[0, 0], [1, 0], [1, 1], [0, 1]],
        material=trimesh.visual.material.PBRMaterial(baseColorTexture=texture),
    )
    plane.export(tmp_path / "plane.glb")
    mesh = load_glb(tmp_path / "plane.glb")
    assert len(mesh.faces) > 1000  # cut where the texture changes
    away = mesh.vertices[:, 0].abs() > 0.03
    left = mesh.vertices[:, 0] < 0
    torch.testing.assert_close(mesh.colors[away & left].mean(0), torch.tensor([1.0, 0, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(mesh.colors[away & ~left].mean(0), torch.tensor([0, 0, 1.0]), atol=1e-3, rtol=0)


def test_unreadable_glb_is_named(tmp_path):
    (tmp_path / "broken.glb").write_bytes(b"not a model")
    with pytest.raises(InputError, match="broken.glb"):
        load_glb(tmp_path / "broken.glb")


def test_real_assets(shared_dir):
    files = sorted((shared_dir / "data" / "real3d").glob("*/*.glb"))
    if not files:
        pytest.skip("the shared folder holds no real assets")
    for file in files[:: len(files) // 4][:4]:
        mesh = load_glb(file)
        assert mesh.vertices.abs().max() <= 0.4901 and torch.isfinite(mesh.colors).all()
        cameras = condition_cameras(0, 1, mesh)
        seen = rasterize(mesh.vertices, mesh.faces, cameras.extrinsics, cameras.intrinsics, 64).mask
        assert seen.any()
        assert len(surface_fields(mesh)) > 50


def test_from_trimesh_keeps_positions_as_colours():
    mesh = from_trimesh(trimesh.creation.box())
    assert torch.equal(mesh.colors, mesh.vertices + 0.5)
