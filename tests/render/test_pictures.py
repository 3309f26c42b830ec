"""Token pictures, voxel pictures, contact sheets, turntables."""

import numpy as np
import pytest
import torch
from PIL import Image

from gap3d_app.errors import OutputError
from gap3d_app.render.pictures import contact_sheet, token_basis, token_picture, voxel_mesh, voxel_picture
from gap3d_app.render.turntable import save_gif, save_mp4, turntable_frames
from tests.render.shapes import box
from tests.render.test_gaussians import random_gaussians


def test_token_picture_shows_groups_and_repeats():
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(1 + 4 + 256, 32, generator=draw) * 0.05
    tokens[5 : 5 + 128, 3] += 4  # upper half differs
    picture = token_picture(tokens, size=64)
    assert picture.size == (64, 64)
    pixels = np.asarray(picture).astype(int)
    assert abs(pixels[:30, :, 0].mean() - pixels[34:, :, 0].mean()) > 100
    assert np.array_equal(pixels, np.asarray(token_picture(tokens.clone()[None], 16, 16, size=64)))
    basis = token_basis(tokens[5:])
    assert np.array_equal(pixels, np.asarray(token_picture(tokens, size=64, basis=basis)))


def test_token_picture_of_constant_tokens():
    assert token_picture(torch.ones(10, 4)).size == (256, 256)


def test_voxel_sides_that_touch_are_left_out():
    one = voxel_mesh(torch.tensor([[3, 3, 3]]), 8)
    two = voxel_mesh(torch.tensor([[0, 3, 3, 3], [0, 3, 3, 4]]), 8)
    assert len(one.faces) == 12 and len(two.faces) == 20
    assert one.vertices.min() == pytest.approx(3 / 8 - 0.5) and one.vertices.max() == pytest.approx(0)


def test_voxel_picture_is_drawn_and_empty_is_background():
    coords = torch.cartesian_prod(*[torch.arange(10, 22)] * 3)
    pixels = np.asarray(voxel_picture(coords, size=64))
    assert (pixels < 250).any(-1).mean() > 0.05
    assert (np.asarray(voxel_picture(coords[:0], size=32)) == 255).all()


def test_contact_sheet():
    images = [Image.new("RGB", (50, 80), (255, 0, 0))] * 5
    sheet = contact_sheet(images, ["a very long caption " * 20] * 5, columns=3, cell=64)
    assert sheet.width == 3 * 64 and sheet.height > 2 * 64
    assert sheet.getpixel((32, 32)) == (255, 0, 0)
    with pytest.raises(ValueError, match="captions"):
        contact_sheet(images, ["one"])


def test_turntable_of_mesh_and_gaussians(tmp_path):
    frames = list(turntable_frames(box(0.5), count=4, size=32))
    assert len(frames) == 4 and frames[0].shape == (32, 32, 3) and frames[0].dtype == np.uint8
    assert len(list(turntable_frames(random_gaussians(20), count=2, size=32))) == 2
    video = save_mp4(frames, tmp_path / "turn.mp4", fps=5)
    import imageio_ffmpeg

    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert count == 4 and seconds == pytest.approx(0.8, abs=0.05)
    with Image.open(save_gif(frames, tmp_path / "turn.gif", fps=5)) as image:
        assert image.n_frames == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["turn.gif", "turn.mp4"]


def test_unwritable_targets_are_named(tmp_path):
    frames = [np.zeros((16, 16, 3), np.uint8)]
    for save in (save_mp4, save_gif):
        with pytest.raises(OutputError, match="missing. of the output does not exist"):
            save(frames, tmp_path / "missing" / "clip.mp4")
        with pytest.raises(OutputError, match="frame"):
            save([], tmp_path / "clip.mp4")
    with pytest.raises(OutputError, match="encoded"):
        save_mp4([np.zeros((15, 15, 3), np.uint8)], tmp_path / "odd.mp4")  # libx264 wants even sides
    assert not list(tmp_path.iterdir())
