"""Checkers of surface extraction, cameras, pictures and exported tables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gap3d_app.values import Gaussians
from tests.conformance.golden import Golden


def surface(golden: Golden) -> dict[str, Tensor]:
    """Surface extraction, inference and training branch."""
    from gap3d_app.geometry import flexicubes

    i, resolution = golden.inputs, golden.meta["constructor_args"]["res"]
    coords, outputs = i["coords"][:, -3:], golden.outputs
    got = extracted(coords, i["feats"], resolution, outputs)
    if "corner_coords" in outputs:
        got["corner_coords"], got["corner_attrs"] = flexicubes.average_corners(coords, i["feats"], resolution)
    train = golden.part("outputs.train")
    if train:
        result = extracted(coords, i["feats"], resolution, train, training=True)
        got.update({f"train.{name}": value for name, value in result.items()})
    return got


def extracted(
    coords: Tensor, feats: Tensor, resolution: int, expected: dict[str, Tensor], training: bool = False
) -> dict[str, Tensor]:
    """An extracted mesh, renumbered to the expected order if it is the same surface in another order."""
    from gap3d_app.geometry import flexicubes

    mesh = flexicubes.extract(coords, feats, resolution, training=training)
    got = {"vertices": mesh.vertices, "faces": mesh.faces}
    if mesh.vertex_attrs is not None:
        got["vertex_attrs"] = mesh.vertex_attrs
    if training:
        got["reg_loss"] = mesh.reg_loss.reshape(1)
        got["tsdf_v"], got["tsdf_s"] = mesh.tsdf_vertices, mesh.tsdf_values
    same_sizes = all(got[key].shape == expected[key].shape for key in ("vertices", "faces"))
    if same_sizes and not torch.equal(got["faces"], expected["faces"]):
        _reorder(got, expected)
    return got


def _reorder(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Match vertices by position and faces as sets of rotated triples; leaves unequal surfaces alone."""
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(got["vertices"].numpy()).query(expected["vertices"].numpy())
    if len(np.unique(nearest)) != len(nearest):
        return
    inverse = np.empty_like(nearest)
    inverse[nearest] = np.arange(len(nearest))
    faces = torch.from_numpy(inverse)[got["faces"]]
    mine, theirs = _sorted_triples(faces), _sorted_triples(expected["faces"])
    if not torch.equal(mine, theirs):
        return
    for name in ("vertices", "vertex_attrs"):
        if name in got:
            got[name] = got[name][torch.from_numpy(nearest)]
    got["faces"] = expected["faces"]


def _sorted_triples(faces: Tensor) -> Tensor:
    first = faces.argmin(1, keepdim=True)
    turned = faces.gather(1, (first + torch.arange(3)) % 3)
    return torch.unique(turned, dim=0)


def cameras(golden: Golden) -> dict[str, Tensor]:
    """Orbit cameras and Hammersley sequences."""
    from gap3d_app.geometry import cameras as cam

    args, i = golden.meta["constructor_args"], golden.inputs
    count = args["num_views"]

    def views(**options: Any) -> Tensor:
        return torch.tensor(
            [cam.sphere_hammersley(k, count, **options) for k in range(count)], dtype=torch.float64
        )

    extrinsics, intrinsics = cam.orbit_camera(i["yaw"], i["pitch"], i["r"], i["fov_degrees"])
    plain = views()
    multi = cam.orbit_camera(plain[1:, 0], plain[1:, 1], 2.0, 40.0)
    return {
        "extrinsics": extrinsics,
        "intrinsics": intrinsics,
        "sphere_hammersley_plain": plain,
        "sphere_hammersley_offset": views(offset=tuple(args["hammersley_offset"])),
        "sphere_hammersley_remap": views(offset=tuple(args["hammersley_remap_offset"]), remap=True),
        "multiview_extrinsics": multi[0],
        "multiview_intrinsics": multi[1],
        "hammersley_3": torch.tensor([cam.hammersley(k, count, 3) for k in range(count)]),
    }


def image_preprocess(golden: Golden) -> dict[str, Tensor]:
    """Crop, resize and alpha-multiply of a cut-out picture."""
    from PIL import Image

    from gap3d_app.prompt import preprocess_image

    picture = Image.fromarray(golden.inputs["image"].numpy(), "RGBA")
    result = torch.from_numpy(np.array(preprocess_image(picture))).long()
    return {
        "every_4th_pixel": result[::4, ::4],
        "row_sums": result.sum(1),
        "column_sums": result.sum(0),
    }


def ply_table(gaussians: Gaussians, properties: list[str], expected: Tensor) -> Tensor:
    """The vertex table of the exported PLY; quaternions get the sign of the expected ones."""
    from gap3d_app.geometry.ply import save_gaussians

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object.ply"
        save_gaussians(gaussians, path)
        table = read_ply_floats(path, properties)
    columns = [properties.index(f"rot_{k}") for k in range(4)]
    if table.shape == expected.shape:
        dot = (table[:, columns] * expected[:, columns]).sum(1, keepdim=True)
        table[:, columns] *= torch.where(dot < 0, -1.0, 1.0)
    return table


def read_ply_floats(path: Path, properties: list[str]) -> Tensor:
    """[N, len(properties)] float32 columns of a little-endian binary PLY with float properties only."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    names = [line.split()[2].decode() for line in head.splitlines() if line.startswith(b"property float")]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names)).copy()
    return torch.from_numpy(table[:, [names.index(name) for name in properties]])
