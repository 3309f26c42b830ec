"""An asset put together by hand writes its files."""

import pytest
from PIL import Image

from gap3d_app.asset import Asset
from gap3d_app.geometry.ply import load_gaussians
from tests.geometry.test_ply import some_gaussians
from tests.render.shapes import box


@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_turntable_files(tmp_path, ending):
    path = Asset(box(0.5)).save(tmp_path / f"turn.{ending}")
    if ending == "gif":
        with Image.open(path) as image:
            assert image.format == "GIF" and image.n_frames == 48 and image.size == (256, 256)
    else:
        import imageio_ffmpeg

        assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 48


def test_the_setting_of_least_opacity_reaches_the_ply(tmp_path):
    gaussians = some_gaussians()
    for least, expected in ((0.0, 50), (0.3, int((gaussians.opacity >= 0.3).sum()))):
        asset = Asset(box(0.5), gaussians, recipe={"settings": {"min_opacity": least}})
        assert len(load_gaussians(asset.save(tmp_path / "a.ply"))) == expected < 51
