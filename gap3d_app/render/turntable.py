"""One turn around an asset as frames, and frames as MP4 or GIF."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gap3d_app.errors import OutputError
from gap3d_app.geometry.cameras import turntable_cameras
from gap3d_app.output import write_atomic
from gap3d_app.render.gaussians import render_gaussians
from gap3d_app.render.mesh import render_mesh
from gap3d_app.render.radiance import render_radiance
from gap3d_app.settings import SHADINGS
from gap3d_app.values import SH_C0, Gaussians, Mesh, RadianceField

HALF_DIAGONAL = 3**0.5 / 2  # of the unit cube: no asset is nearer or farther than this from the origin
PALETTE_FRAMES = 16


def turntable_frames(
    asset: Mesh | Gaussians | RadianceField,
    count: int = 48,
    size: int = 256,
    pitch: float = 0.3,
    radius: float = 2.0,
    fov_deg: float = 40.0,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ssaa: int = 2,
    shading: str = "color",
) -> Iterator[np.ndarray]:
    """Yield `count` frames [size, size, 3] uint8 of one turn that starts at the front.

    A generator, so that a caller can show progress and stop between frames.

    Args:
        asset: what to show.
        count, size: frames, and pixels per side.
        pitch: of the camera, radians.
        radius: distance of the camera from the origin, object units.
        fov_deg: full field of view, degrees.
        background: rgb behind the asset, 0..1.
        ssaa: super-sampling of meshes and radiance fields.
        shading: "color" (meshes are lit); "normal" (meshes only; world-space normals that face the viewer, -1..1
            mapped to 0..1); "depth" (camera z as grey, from white where the unit cube begins to black where it
            ends).

    Raises:
        ValueError: unknown shading, or one that this kind of asset does not have.
    """
    if shading not in SHADINGS:
        raise ValueError(f"shading must be one of {SHADINGS}, got {shading!r}")
    if shading == "normal" and not isinstance(asset, Mesh):
        raise ValueError(f"{type(asset).__name__} has no normals; show color or depth")
    extrinsics, intrinsics = turntable_cameras(count, pitch, radius, fov_deg)
    for view in range(count):
        camera = (extrinsics[view : view + 1], intrinsics[view : view + 1])
        with torch.no_grad():
            behind = (0.0, 0.0, 0.0) if shading == "depth" else background
            picture = _picture(asset, camera, size, behind, ssaa, shading)
            if shading == "depth":
                picture = _depth_as_grey(picture, radius, background)
        yield (picture[0, ..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _picture(
    asset: Mesh | Gaussians | RadianceField,
    camera: tuple[Tensor, Tensor],
    size: int,
    background: tuple[float, float, float],
    ssaa: int,
    shading: str,
) -> Tensor:
    """[1, size, size, 4] picture of one view; of depth, in front of black: camera z times alpha, and alpha."""
    if isinstance(asset, Mesh):
        return render_mesh(asset, *camera, size, "lambert" if shading == "color" else shading, background, ssaa)
    if isinstance(asset, RadianceField):
        return render_radiance(asset, *camera, size, background, ssaa, shading)
    if shading == "depth":  # Gaussians whose colour is the camera z of their centre
        turn = camera[0][0].to(asset.raw_xyz.device)
        z = asset.xyz.float() @ turn[2, :3] + turn[2, 3]
        asset = replace(asset, raw_features_dc=((z - 0.5) / SH_C0)[:, None, None].expand(-1, 1, 3))
    return render_gaussians(asset, *camera, size, background)


def _depth_as_grey(picture: Tensor, radius: float, background: tuple[float, float, float]) -> Tensor:
    """[K, S, S, 3] grey from white (nearest place of the unit cube) to black (farthest), over the background."""
    alpha = picture[..., 3:]
    depth = picture[..., :3] / alpha.clamp(min=1e-6)
    grey = ((radius + HALF_DIAGONAL - depth) / (2 * HALF_DIAGONAL)).clamp(0, 1)
    return grey * alpha + picture.new_tensor(background) * (1 - alpha)


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
    """Write frames [H, W, 3] uint8 as an endless GIF with one palette, taken from frames all over it.

    Raises:
        OutputError: nothing to write, or the file cannot be written.
    """
    path = Path(path)
    images = [Image.fromarray(frame) for frame in frames]
    if not images:
        raise OutputError("A video needs at least one frame.")
    shown = images[:: -(-len(images) // PALETTE_FRAMES)]
    palette = Image.fromarray(np.concatenate([np.asarray(image) for image in shown])).quantize(256)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    options = dict(save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return write_atomic(path, lambda part: images[0].save(part, "GIF", **options))
