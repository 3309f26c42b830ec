"""An asset put together by hand writes its turntables."""

import pytest
from PIL import Image

from gap3d_app.asset import Asset
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
