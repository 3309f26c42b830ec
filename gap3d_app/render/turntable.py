"""One turn around an asset as frames, and frames as MP4 or GIF."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import OutputError
from ..geometry.cameras import turntable_cameras
from ..output import write_atomic
from ..values import Gaussians, Mesh
from .gaussians import render_gaussians
from .mesh import render_mesh


def turntable_frames(
    asset: Mesh | Gaussians,
    count: int = 48,
    size: int = 256,
    pitch: float = 0.3,
    radius: float = 2.0,
    fov_deg: float = 40.0,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ssaa: int = 2,
) -> Iterator[np.ndarray]:
    """Yield `count` frames [size, size, 3] uint8 of one turn that starts at the front.

    A generator, so that a caller can show progress and stop between frames. `pitch` in radians, `radius` in
    object units; `ssaa` applies to meshes.
    """
    extrinsics, intrinsics = turntable_cameras(count, pitch, radius, fov_deg)
    for view in range(count):
        camera = (extrinsics[view : view + 1], intrinsics[view : view + 1])
        with torch.no_grad():
            if isinstance(asset, Mesh):
                picture = render_mesh(asset, *camera, size, background=background, ssaa=ssaa)
            else:
                picture = render_gaussians(asset, *camera, size, background)
        yield (picture[0, ..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def save_mp4(frames: Iterable[np.ndarray], path: str | Path, fps: int = 15) -> Path:
    """Write frames [H, W, 3] uint8 (even sides) as H.264; the file appears whole or not at all.

    Raises:
        OutputError: nothing to write, or the file cannot be written (folder missing, disk full).
    """
    import imageio_ffmpeg

    path = Path(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise OutputError("A video needs at least one frame.")
    height, width = first.shape[:2]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-",
        "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-preset", "veryfast",
        "-movflags", "+faststart", "-f", "mp4",
    ]  # fmt: skip
    return write_atomic(path, lambda part: _encode([*command, str(part)], first, frames, path))


def _encode(command: list[str], first: np.ndarray, rest: Iterator[np.ndarray], path: Path) -> None:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            for frame in chain([first], rest):
                process.stdin.write(np.ascontiguousarray(frame).tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # the encoder ended early; its message says why
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait() != 0:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"the encoder ended with code {process.returncode}"
            raise OutputError(f"{path.name} cannot be encoded: {reason}; free some space and try again.")


def save_gif(frames: Iterable[np.ndarray], path: str | Path, fps: int = 15) -> Path:
    """Write frames [H, W, 3] uint8 as an endless GIF with one shared palette.

    Raises:
        OutputError: nothing to write, or the file cannot be written.
    """
    path = Path(path)
    images = [Image.fromarray(frame) for frame in frames]
    if not images:
        raise OutputError("A video needs at least one frame.")
    palette = images[len(images) // 2].quantize(256)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    options = dict(save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return write_atomic(path, lambda part: images[0].save(part, "GIF", **options))
