"""Milliseconds from a dense mesh to a textured GLB, step by step, on every device of this machine.

    python -m tests.benchmarks.glb [--resolution 256] [--faces 10000] [--texture 1024] [--device cuda]

The mesh is a bumpy ball out of a lattice as fine as the mesh decoder's: 380,000 faces at 256. The whole is
`export_glb`, file included; its parts are timed again one by one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gap3d_app.geometry import device_bake, device_simplify
from gap3d_app.geometry.bake import SurfaceColors, bake
from gap3d_app.geometry.glb import export_glb
from gap3d_app.geometry.simplify import keep_main_parts, simplify
from gap3d_app.geometry.textured import HEAD_START
from gap3d_app.geometry.topology import corner_normals, is_watertight
from gap3d_app.geometry.unwrap import unwrap
from gap3d_app.values import Mesh
from tests.geometry.shapes import solid_mesh


def bumpy_ball(resolution: int) -> Mesh:
    """A coloured ball with waves on it, closed."""

    def field(p: torch.Tensor) -> torch.Tensor:
        return p.norm(dim=-1) - 0.38 + 0.03 * torch.sin(p * 25).prod(-1)

    return solid_mesh(field, resolution, color=lambda p: 0.5 + 0.4 * torch.sin(p * 40))


def timed(label: str, work: Callable[[], Any], repeats: int = 3) -> Any:
    """The result of `work`; prints the least time of several, after one that is not counted."""
    result, best = work(), float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    print(f"  {label:34} {1e3 * best:8.1f} ms", flush=True)
    return result


def measure(mesh: Mesh, target_faces: int, size: int) -> None:
    device = mesh.vertices.device
    print(f"{device.type}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces")
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(target_faces=target_faces, texture_size=size)
        timed("mesh to GLB file", lambda: export_glb(mesh, Path(folder) / "mesh.glb", **settings))
    if device.type == "cuda":
        points, faces, texture = measure_on_device(mesh, target_faces, size)
    else:
        points, faces, texture = measure_in_numpy(mesh, target_faces, size)
    atlas = timed("unwrapped", lambda: unwrap(points, faces, size))
    timed("texture", lambda: texture(points, faces, atlas.uv, atlas.faces, size))
    timed("normals", lambda: corner_normals(points.astype("float64"), faces))


def measure_on_device(mesh: Mesh, target_faces: int, size: int) -> tuple[np.ndarray, np.ndarray, Callable]:
    """Simplified points and faces, and what makes their texture."""
    dense = timed(
        "small parts removed", lambda: device_simplify.keep_main_parts(mesh.vertices, mesh.faces, mesh.colors)
    )
    colors = timed("colours into a volume", lambda: device_bake.DeviceColors(*dense))
    timed("whether it is closed", lambda: device_simplify.is_closed(dense[1]))
    some = timed("simplified on the device", lambda: device_simplify.collapse(*dense[:2], HEAD_START * target_faces))
    rest = [v.cpu().numpy() for v in some]
    points, faces = timed("simplified further", lambda: simplify(*rest, target_faces))
    return points, faces, lambda *layout: device_bake.bake(*layout, colors)


def measure_in_numpy(mesh: Mesh, target_faces: int, size: int) -> tuple[np.ndarray, np.ndarray, Callable]:
    """Like `measure_on_device`."""
    arrays = [v.numpy() for v in (mesh.vertices, mesh.faces, mesh.colors)]
    dense = timed("small parts removed", lambda: keep_main_parts(*arrays))
    colors = timed("colours into a volume", lambda: SurfaceColors(*dense))
    timed("whether it is closed", lambda: is_watertight(dense[1]))
    points, faces = timed("simplified", lambda: simplify(*dense[:2], target_faces))
    return points, faces, lambda *layout: bake(*layout, colors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--faces", type=int, default=10_000)
    parser.add_argument("--texture", type=int, default=1024)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="one of the two, not both")
    args = parser.parse_args()
    mesh = bumpy_ball(args.resolution)
    if args.device != "cuda":
        measure(mesh, args.faces, args.texture)
    if args.device != "cpu" and torch.cuda.is_available():
        measure(mesh.to("cuda"), args.faces, args.texture)


if __name__ == "__main__":
    main()
