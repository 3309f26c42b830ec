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

import torch

from gap3d_app.geometry import device_bake, device_simplify
from gap3d_app.geometry.bake import SurfaceColors, bake
from gap3d_app.geometry.glb import HEAD_START, export_glb
from gap3d_app.geometry.simplify import keep_main_parts, simplify
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
    arrays = [v.cpu().numpy() for v in (mesh.vertices, mesh.faces, mesh.colors)]
    arrays = timed("small parts removed", lambda: keep_main_parts(*arrays))
    if device.type == "cuda":
        sampler = lambda: device_bake.DeviceColors(*(torch.from_numpy(v).to(device) for v in arrays))  # noqa: E731
        colors, baker = timed("colours into a volume", sampler), device_bake.bake
    else:
        colors, baker = timed("colours into a volume", lambda: SurfaceColors(*arrays)), bake
    dense = arrays[:2]
    if device.type == "cuda":
        there = [torch.from_numpy(v).to(device) for v in dense]
        timed("whether it is closed", lambda: device_simplify.is_closed(there[1]))
        some = timed("simplified on the device", lambda: device_simplify.collapse(*there, HEAD_START * target_faces))
        dense = [v.cpu().numpy() for v in some]
    points, faces = timed("simplified", lambda: simplify(*dense, target_faces))
    timed("  of it, whether it is closed", lambda: is_watertight(dense[1]))
    atlas = timed("unwrapped", lambda: unwrap(points, faces, size))
    timed("texture", lambda: baker(points, faces, atlas.uv, atlas.faces, size, colors))
    timed("normals", lambda: corner_normals(points.astype("float64"), faces))


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
