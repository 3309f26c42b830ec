"""A flipped picture is the picture of the mirrored asset."""

import pytest
import torch

from gap3d_app.values import Mesh
from train.data.fields import surface_fields
from train.data.procedural.spec import build, sample_spec
from train.data.views import Cameras, condition_cameras, render_views
from train.mirror import draw_mirrored, mirrored_geometry, mirrored_grid, mirrored_images

ACROSS = torch.tensor([-1.0, 1, 1])


@pytest.fixture(scope="module")
def teapot() -> Mesh:
    """An asset whose left differs from its right."""
    specs = (sample_spec(0, i, "train") for i in range(1000))
    return build(next(s for s in specs if s.category == "teapot"))


@pytest.fixture(scope="module")
def mirror_image(teapot) -> Mesh:
    return Mesh(teapot.vertices * ACROSS, teapot.faces.flip(1), teapot.colors)


def views_of(mesh: Mesh, cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    made = render_views(mesh, cameras)
    return made.rgb.permute(0, 3, 1, 2).float() / 255, made.dense_targets().permute(0, 3, 1, 2).float() / 127


def mirrored_cameras(cameras: Cameras) -> Cameras:
    """Cameras on the other side, whose x axis points the other way."""
    flip = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 2] = 1 - intrinsics[:, 0, 2]
    return Cameras(flip @ cameras.extrinsics @ flip, intrinsics, cameras.light * ACROSS, cameras.ambient)


def test_pictures_and_geometry(teapot, mirror_image):
    cameras = condition_cameras(3, 3, teapot)
    images, geometry = views_of(teapot, cameras)
    wanted, wanted_geometry = views_of(mirror_image, mirrored_cameras(cameras))
    assert (images - wanted).abs().mean() > 0.01, "the asset is its own mirror image, so this proves nothing"
    chosen = torch.tensor([True, False, True])
    made, made_geometry = mirrored_images(images, chosen), mirrored_geometry(geometry, chosen)
    assert torch.equal(made[1], images[1]) and torch.equal(made_geometry[1], geometry[1])
    assert (made - wanted)[chosen].abs().mean() < 1e-3
    assert (made_geometry - wanted_geometry)[chosen].abs().mean() < 2e-3


def test_voxels(teapot, mirror_image):
    grids = torch.zeros(2, 1, 32, 32, 32)
    for grid, mesh in zip(grids, (teapot, mirror_image), strict=True):
        x, y, z = surface_fields(mesh).coords.long().unbind(1)
        grid[0, x, y, z] = 1
    made = mirrored_grid(grids[:1], torch.tensor([True]))
    both, either = (made * grids[1:]).sum(), (made + grids[1:]).clamp(max=1).sum()
    assert both / either > 0.98
    assert (grids[0] * grids[1]).sum() / (grids[0] + grids[1]).clamp(max=1).sum() < 0.9
    assert torch.equal(mirrored_grid(grids, torch.tensor([False, False])), grids)


def test_half_are_mirrored():
    chosen = draw_mirrored(10000, torch.Generator().manual_seed(0))
    assert 0.47 < chosen.float().mean() < 0.53
