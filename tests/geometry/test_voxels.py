"""Mesh files and their voxels."""

import numpy as np
import pytest
import torch

from gap3d_app.errors import InputError
from gap3d_app.geometry.glb import export_glb
from gap3d_app.geometry.mesh_files import save_obj, save_stl
from gap3d_app.geometry.mesh_reader import read_mesh
from gap3d_app.geometry.voxels import unit_cube, voxelize
from gap3d_app.values import Mesh
from tests.geometry.shapes import box, solid_mesh, sphere


def one_triangle(*corners: tuple[float, float, float]) -> Mesh:
    return Mesh(torch.tensor(corners), torch.tensor([[0, 1, 2]]))


def test_a_cube_becomes_its_hull() -> None:
    corners = torch.cartesian_prod(*3 * [torch.tensor([0.0, 2.0])])
    faces = [(0, 1, 3), (0, 3, 2), (4, 5, 7), (4, 7, 6), (0, 1, 5), (0, 5, 4), (2, 3, 7), (2, 7, 6), (0, 2, 6),
             (0, 6, 4), (1, 3, 7), (1, 7, 5)]
    voxels = voxelize(Mesh(corners, torch.tensor(faces)), 8)
    assert voxels.dtype == torch.int32 and len(voxels) == 8**3 - 6**3
    assert ((voxels == 0) | (voxels == 7)).any(1).all()
    assert voxels.tolist() == sorted(voxels.tolist())


def test_a_slanted_triangle_touches_what_it_passes() -> None:
    """Against a fine sampling: all sampled voxels are there, and a sample is in or next to every voxel."""
    mesh = one_triangle((0.0, 0.1, 0.0), (1.0, 0.37, 0.21), (0.3, 0.9, 0.8))
    resolution = 16
    voxels = voxelize(mesh, resolution)
    a, b, c = (unit_cube(mesh) + 0.5) * resolution
    u, v = torch.meshgrid(*2 * [torch.linspace(0, 1, 700, dtype=torch.double)], indexing="ij")
    u, v = u[u + v <= 1], v[u + v <= 1]
    points = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    sampled = {tuple(row) for row in points.floor().int().clamp(max=resolution - 1).tolist()}
    found = {tuple(row) for row in voxels.tolist()}
    assert sampled <= found
    distance = torch.cdist(voxels.double() + 0.5, points, p=torch.inf).amin(1)
    assert distance.max() <= 0.5 + 0.02  # the samples are that far apart


def test_passes_do_not_change_the_voxels(monkeypatch) -> None:
    mesh = solid_mesh(sphere(0.3), resolution=24)
    whole = voxelize(mesh, 32)
    monkeypatch.setattr("gap3d_app.geometry.voxels.PAIRS_PER_PASS", 100)
    assert torch.equal(voxelize(mesh, 32), whole)


def test_size_and_place_do_not_matter() -> None:
    mesh = solid_mesh(box((0.3, 0.2, 0.1)), resolution=16)
    moved = Mesh(mesh.vertices * 8 + torch.tensor([4.0, -16.0, 2.0]), mesh.faces)
    points = unit_cube(moved)
    assert points.abs().max() == pytest.approx(0.5 - 1e-6)
    assert torch.allclose(points[:, 0].abs().max(), points.abs().max())
    assert torch.equal(voxelize(moved, 16), voxelize(mesh, 16))


def test_meshes_without_extent_are_refused() -> None:
    with pytest.raises(InputError, match="no faces"):
        voxelize(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64)), 8)
    for value in (0.0, float("nan")):
        with pytest.raises(InputError, match="single point or not finite"):
            voxelize(Mesh(torch.full((3, 3), value), torch.tensor([[0, 1, 2]])), 8)


@pytest.mark.parametrize("ending", ["glb", "obj", "stl"])
def test_our_own_files_come_back_upright(tmp_path, ending: str) -> None:
    """A long box with a nose towards the front (-Y), above the middle."""
    def field(p: torch.Tensor) -> torch.Tensor:
        return torch.minimum(box((0.3, 0.15, 0.1))(p), box((0.05, 0.05, 0.05))(p - torch.tensor([0, -0.2, 0.1])))

    mesh, path = solid_mesh(field, resolution=32), tmp_path / f"a.{ending}"
    if ending == "glb":
        export_glb(mesh, path, target_faces=100_000, texture_size=256)
    else:
        {"obj": save_obj, "stl": save_stl}[ending](mesh, path)
    truth, read = ({tuple(row) for row in voxelize(m, 16).tolist()} for m in (mesh, read_mesh(path)))
    assert len(truth & read) >= 0.97 * len(truth | read)


def test_bad_files_are_refused(tmp_path) -> None:
    (tmp_path / "a.glb").write_bytes(b"no mesh")
    (tmp_path / "b.obj").write_text("v 0 0 0\n")
    np.savetxt(tmp_path / "c.xyz", np.zeros((4, 3)))
    for name, words in (("a.glb", "cannot be read"), ("b.obj", "b.obj"), ("c.xyz", "no triangles|cannot be read"),
                        ("gone.glb", "does not exist")):
        with pytest.raises(InputError, match=words):
            read_mesh(tmp_path / name)
