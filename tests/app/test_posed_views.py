"""Pictures with known cameras become structured latents, and those become assets again."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gap3d_app.errors import InputError, WeightsError
from gap3d_app.geometry.cameras import turntable_cameras
from gap3d_app.models.checkpoint import build_model, save_model
from gap3d_app.models.pictures import IMAGENET_MEAN, IMAGENET_STD
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.posed_views import encode_views, picture_on_black, read_cameras
from gap3d_app.sources import catalog
from tests import tiny
from tests.sources import published

pytestmark = pytest.mark.usefixtures("empty_hub_cache")
SIDE = 4  # patches of the tiny image encoder


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> Gap3DPipeline:
    """Public weights, with a SLAT encoder beside them."""
    root = tmp_path_factory.mktemp("posed")
    folder, dinov2 = published.image_pipeline(root / "image"), published.dinov2(root / "dinov2")[0]
    sizes = dict(resolution=8, in_channels=32, model_channels=32, latent_channels=8, num_blocks=1, num_heads=2,
                 window_size=4, attn_mode="swin")  # fmt: skip
    torch.manual_seed(0)
    save_model(tiny._awake(build_model("SLatEncoder", sizes)), folder / catalog.ENCODERS["slat_encoder"])
    return Gap3DPipeline.from_pretrained([folder, dinov2], device="cpu", dtype="float32")


def views(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (60, 60, 4), dtype=np.uint8), "RGBA") for _ in range(count)]


def cameras(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return turntable_cameras(count, 0.3, 2.0, 40.0)


COORDS = torch.tensor([[1, 2, 3], [4, 4, 4], [7, 0, 5], [0, 0, 0]])


@torch.no_grad()
def by_hand(pipe: Gap3DPipeline, pictures: list, extrinsics: torch.Tensor, intrinsics: torch.Tensor) -> np.ndarray:
    """Features [V, C]: every voxel's centre in every view, four patches each, nothing beside the picture."""
    encoder, total = pipe.part("image_encoder"), 0
    for picture, world, lens in zip(pictures, extrinsics.numpy(), intrinsics.numpy(), strict=True):
        image = (picture_on_black(picture, 56) - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(
            IMAGENET_STD
        )[:, None, None]
        patches = encoder.prenorm(image[None])[0, -SIDE * SIDE :].view(SIDE, SIDE, -1).numpy()
        rows = []
        for voxel in COORDS.numpy():
            x, y, z = world[:3, :3] @ ((voxel + 0.5) / 8 - 0.5) + world[:3, 3]
            column, row = (lens[0, 0] * x / z + 0.5) * SIDE - 0.5, (lens[1, 1] * y / z + 0.5) * SIDE - 0.5
            value = 0
            for i in (math.floor(row), math.floor(row) + 1):
                for j in (math.floor(column), math.floor(column) + 1):
                    if 0 <= i < SIDE and 0 <= j < SIDE:
                        value = value + (1 - abs(row - i)) * (1 - abs(column - j)) * patches[i, j]
            rows.append(value)
        total = total + np.stack(rows)
    return total / len(pictures)


def test_features_are_the_mean_over_all_views(pipe, monkeypatch):
    pictures, (extrinsics, intrinsics) = views(3), cameras(3)
    encoder, seen = pipe.part("slat_encoder"), []
    posterior = encoder.posterior
    monkeypatch.setattr(encoder, "posterior", lambda x: seen.append(x) or posterior(x))
    slat = encode_views(pipe, pictures, extrinsics, intrinsics, COORDS)
    expected = by_hand(pipe, pictures, extrinsics, intrinsics)
    np.testing.assert_allclose(seen[0].feats.numpy(), expected, rtol=1e-3, atol=1e-4)
    assert slat.coords.tolist() == [[0, *voxel] for voxel in COORDS.tolist()] and slat.resolution == 8
    assert slat.feats.shape == (4, 8) and slat.feats.std() > 0


def test_colours_are_multiplied_by_alpha_after_the_picture_has_its_size():
    picture = Image.new("RGBA", (28, 28), (200, 100, 50, 128))
    made = picture_on_black(picture, 14)
    assert made.shape == (3, 14, 14)  # Pillow resizes colours times alpha, in whole numbers
    np.testing.assert_allclose(made[:, 3, 3], np.array([200, 100, 50]) / 255 * 128 / 255, atol=3e-3)


def test_cameras_of_a_file(tmp_path):
    extrinsics, intrinsics = cameras(3)
    matrices = torch.linalg.inv(extrinsics.double()) * torch.tensor([1.0, -1.0, -1.0, 1.0])
    frames = [{"camera_angle_x": math.radians(40), "transform_matrix": matrix.tolist()} for matrix in matrices]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    for found, expected in zip(read_cameras(tmp_path / "transforms.json"), (extrinsics, intrinsics), strict=True):
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"frames": [{}]}', '{"frames": []}',
                                  '{"frames": [{"camera_angle_x": 0, "transform_matrix": [[1]]}]}'])  # fmt: skip
def test_files_that_hold_no_cameras(tmp_path: Path, text):
    if text is not None:
        (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(InputError, match="The cameras 'transforms.json' cannot be read"):
        read_cameras(tmp_path / "transforms.json")


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(pictures=[]), "0 pictures and 4 voxels"),
        (dict(coords=COORDS[:0]), "3 pictures and 0 voxels"),
        (dict(extrinsics=torch.eye(4)[None]), "3 pictures, 1 extrinsics and 3 intrinsics"),
        (dict(pictures=[*views(2), Image.new("RGB", (60, 40))]), "Picture 2 has 60 x 40 pixels; it must be square"),
    ],
)
def test_refusals(pipe, change, words):
    extrinsics, intrinsics = cameras(3)
    given = dict(pictures=views(3), extrinsics=extrinsics, intrinsics=intrinsics, coords=COORDS) | change
    with pytest.raises(InputError, match=words):
        encode_views(pipe, **given)


def test_a_latent_is_decoded_into_the_same_asset(tiny_pipeline, tmp_path):
    asset = tiny_pipeline("a red chair", preset="fast")
    again = tiny_pipeline.decode(asset.slat, texture_size=256)
    assert torch.equal(again.mesh.vertices, asset.mesh.vertices) and torch.equal(again.mesh.faces, asset.mesh.faces)
    assert again.recipe["slat"]["voxels"] == len(asset.slat.feats) and "slat" not in asset.recipe
    assert again.save(tmp_path / "a.glb").stat().st_size > 1000
    extrinsics, intrinsics = cameras(1)
    with pytest.raises(WeightsError, match="have no slat_encoder"):
        encode_views(tiny_pipeline, views(1), extrinsics, intrinsics, COORDS)
