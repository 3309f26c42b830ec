"""What the frames of a turntable show, and that files keep it."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from gap3d_app.geometry.cameras import camera_centers, turntable_cameras
from gap3d_app.render.turntable import save_gif, save_mp4, turntable_frames
from gap3d_app.values import SH_C0, Gaussians, Mesh
from tests.render.fields import constant_field
from tests.render.shapes import box, quad, sphere

SIZE, RADIUS = 65, 2.0  # odd, so that a pixel's middle is the picture's
MIDDLE = SIZE // 2


def grey(depth: float) -> float:
    """Grey value of a camera z when the camera is RADIUS away from the origin."""
    half = math.sqrt(3) / 2
    return 255 * (RADIUS + half - depth) / (2 * half)


def one_gaussian(scale: float, rgb: tuple[float, float, float]) -> Gaussians:
    """An opaque ball at the origin."""
    color = (torch.tensor(rgb) - 0.5) / SH_C0
    fields = torch.full((1, 3), 0.5), color[None, None], torch.zeros(1, 3), torch.zeros(1, 4), torch.full((1, 1), 9.0)
    return Gaussians(*fields, scaling_bias=scale)


def test_depth_of_a_sphere():
    for frame in turntable_frames(sphere(0.4, 5), 4, SIZE, radius=RADIUS, shading="depth", background=(0, 0, 0)):
        assert frame[MIDDLE, MIDDLE].tolist() == pytest.approx([grey(RADIUS - 0.4)] * 3, abs=1)
        # a quarter of the way to the rim of the field of view the ray meets the sphere where geometry says
        slope = (MIDDLE / 4) / SIZE * 2 * math.tan(math.radians(20))
        a, b, c = 1 + slope**2, -2 * RADIUS, RADIUS**2 - 0.4**2
        z = (-b - math.sqrt(b * b - 4 * a * c)) / (2 * a)
        assert frame[MIDDLE, MIDDLE + MIDDLE // 4, 0] == pytest.approx(grey(z), abs=2)
        assert not frame[0, 0].any()


def test_rim_of_a_depth_picture_does_not_mix_depth_with_nothing():
    # without the division by alpha half-covered pixels would look nearer than everything else
    white = next(iter(turntable_frames(quad((0, 0), 0.2), 1, 64, 0.0, RADIUS, shading="depth", ssaa=4)))
    black = next(iter(turntable_frames(quad((0, 0), 0.2), 1, 64, 0.0, RADIUS, shading="depth", ssaa=4,
                                       background=(0, 0, 0))))
    assert black.max() <= math.ceil(grey(RADIUS)) and white.min() >= math.floor(grey(RADIUS))


def test_normals_of_a_sphere_face_the_camera():
    views = turntable_cameras(6, 0.3, RADIUS)[0]
    frames = turntable_frames(sphere(0.4, 5), 6, SIZE, 0.3, RADIUS, shading="normal", background=(0, 0, 0), ssaa=1)
    for frame, extrinsics, eye in zip(frames, views, camera_centers(views), strict=True):
        towards = eye / RADIUS
        middle = torch.from_numpy(frame[MIDDLE, MIDDLE].astype(np.float32)) / 127.5 - 1
        torch.testing.assert_close(middle, towards, atol=0.06, rtol=0)  # faces are flat
        normals = torch.from_numpy(frame[frame.any(-1)].astype(np.float32)) / 127.5 - 1
        assert (normals.norm(dim=1) - 1).abs().max() < 0.02
        assert (normals @ towards).min() > 0.1  # nothing beyond the silhouette: cosine 0.2 there
        right = torch.from_numpy(frame[MIDDLE, MIDDLE + 12].astype(np.float32)) / 127.5 - 1
        assert right @ extrinsics[0, :3] > 0.5 and right @ extrinsics[1, :3] == pytest.approx(0, abs=0.06)


def test_color_of_every_kind_of_asset():
    rgb = (0.9, 0.1, 0.2)
    red = sphere(0.3, 3)
    red.colors = torch.tensor(rgb).expand(len(red.vertices), 3)
    grid = torch.cartesian_prod(*[torch.arange(1, 3)] * 3)
    for asset in (red, one_gaussian(0.2, rgb), constant_field(grid, 4, 300.0, rgb)):
        frames = list(turntable_frames(asset, 3, SIZE, radius=RADIUS))
        assert len(frames) == 3 and all(f.shape == (SIZE, SIZE, 3) and f.dtype == np.uint8 for f in frames)
        for frame in frames:
            r, g, b = frame[MIDDLE, MIDDLE].astype(int)
            assert r > 4 * g and r > 3 * b, type(asset)
            assert (frame[0, 0] == 255).all()


def test_depth_of_gaussians_and_radiance_field():
    grid = torch.cartesian_prod(*[torch.arange(1, 3)] * 3)
    field = constant_field(grid, 4, 500.0, (0.5, 0.5, 0.5))  # a cube of side 0.5
    for asset, depth in ((one_gaussian(0.1, (1, 0, 0)), RADIUS), (field, RADIUS - 0.25)):
        frame = next(turntable_frames(asset, 4, SIZE, 0.0, RADIUS, shading="depth"))
        assert frame[MIDDLE, MIDDLE].tolist() == pytest.approx([grey(depth)] * 3, abs=2)
        with pytest.raises(ValueError, match="no normals"):
            next(turntable_frames(asset, shading="normal"))
    with pytest.raises(ValueError, match="shading"):
        next(turntable_frames(box(0.5), shading="neon"))


def test_an_empty_mesh_is_background():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    for shading in ("color", "normal", "depth"):
        assert (next(turntable_frames(empty, 1, 16, shading=shading)) == 255).all()


def test_gif_keeps_the_colours_of_every_frame(tmp_path):
    # each frame has colours that no other frame has
    frames = [np.full((32, 32, 3), c, np.uint8) for c in ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))]
    path = save_gif(frames, tmp_path / "turn.gif", fps=5)
    with Image.open(path) as image:
        assert image.n_frames == 4 and image.info["duration"] == 200 and image.info["loop"] == 0
        for number, frame in enumerate(frames):
            image.seek(number)
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frame).max() <= 8


def test_mp4_keeps_what_the_frames_show(tmp_path):
    import imageio_ffmpeg

    frames = list(turntable_frames(sphere(0.4, 4), 6, 64, shading="normal"))
    path = save_mp4(frames, tmp_path / "turn.mp4", fps=6)
    reader = imageio_ffmpeg.read_frames(str(path))
    next(reader)
    read = [np.frombuffer(f, np.uint8).reshape(64, 64, 3) for f in reader]
    assert len(read) == 6
    for got, frame in zip(read, frames, strict=True):
        assert np.abs(got[28:36, 28:36].astype(int) - frame[28:36, 28:36]).mean() < 12
