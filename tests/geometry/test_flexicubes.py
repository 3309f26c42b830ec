"""Extraction against analytic solids and the golden files."""

import json
import math

import numpy as np
import pytest
import torch
import trimesh
from safetensors import safe_open

from gap3d_app.geometry.cube_tables import CORNERS, case_tables
from gap3d_app.geometry.flexicubes import average_corners, extract
from gap3d_app.geometry.topology import is_watertight
from tests.geometry.shapes import box, cubes, solid_mesh, sphere, torus, volume

SOLIDS = {
    "sphere": (sphere(0.35), 4 / 3 * math.pi * 0.35**3, 2),
    "torus": (torus(0.3, 0.1), 2 * math.pi**2 * 0.3 * 0.1**2, 0),
    "cube": (box(), 0.6**3, 2),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_analytic_solid(name):
    field, expected, euler = SOLIDS[name]
    mesh = solid_mesh(field, 64)
    shape = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert shape.is_watertight and shape.is_winding_consistent
    assert shape.euler_number == euler and shape.body_count == 1
    assert volume(mesh.vertices.numpy(), mesh.faces.numpy()) == pytest.approx(expected, rel=0.012)
    assert field(mesh.vertices).abs().max() < 0.5 / 64


def test_normals_point_outwards():
    result = extract(*cubes(sphere(), 32), 32, solid=True)
    center = result.vertices[result.faces].mean(1)
    outward = (result.face_normals[:, 0] * torch.nn.functional.normalize(center, dim=-1)).sum(-1)
    assert outward.min() > 0.8


def test_band_has_an_inner_shell_unless_solid():
    coords, feats = cubes(sphere(), 32)
    for solid, bodies in ((False, 2), (True, 1)):
        result = extract(coords, feats, 32, solid=solid)
        shape = trimesh.Trimesh(result.vertices.numpy(), result.faces.numpy(), process=False)
        assert shape.is_watertight and shape.body_count == bodies


def test_solid_removes_a_true_cavity():
    def shell(p):
        return (p.norm(dim=-1) - 0.3).abs() - 0.06

    assert volume(*map(np.asarray, _arrays(solid_mesh(shell, 48)))) == pytest.approx(
        4 / 3 * math.pi * 0.36**3, rel=0.01
    )


def test_a_pinhole_does_not_let_the_inner_shell_out():
    """Vertices of a wrong sign right through the band, as a network leaves them, cost a dent and no second surface."""
    coords, feats = cubes(sphere(), 64)
    corner = coords[:, None] + torch.from_numpy(CORNERS)
    through = (corner[..., 1:] == 32).all(-1) & (corner[..., 0] < 32)
    feats[:, :8] = torch.where(through, 0.02, feats[:, :8])
    result = extract(coords, feats, 64, solid=True)
    shape = trimesh.Trimesh(result.vertices.numpy(), result.faces.numpy(), process=False)
    assert shape.is_watertight and shape.body_count == 1
    assert shape.volume == pytest.approx(4 / 3 * math.pi * 0.35**3, rel=0.012)
    depth = 0.35 - result.vertices.norm(dim=-1)
    assert depth.max() < 4 / 64 and (depth > 1 / 64).sum() < 20  # the dent


def test_a_shell_of_cubes_without_a_surface_gives_none():
    coords, feats = cubes(sphere(), 32)
    assert not extract(coords, feats.fill_(1.0), 32, solid=True).success


def test_solid_closes_what_the_grid_cuts():
    coords, feats = cubes(sphere(0.6), 32)
    assert not is_watertight(extract(coords, feats, 32).faces.numpy())
    assert is_watertight(extract(coords, feats, 32, solid=True).faces.numpy())


def test_colors_are_interpolated_at_the_surface():
    mesh = solid_mesh(sphere(), 48, color=lambda p: p + 0.5)
    assert (mesh.colors - (mesh.vertices + 0.5)).abs().max() < 0.01


def test_training_and_inference_describe_the_same_surface_with_gradients():
    coords, feats = cubes(torus(), 24)
    feats[:, 8:53] = torch.randn(len(coords), 45, generator=torch.Generator().manual_seed(0)) * 0.3
    before = feats.clone()
    feats.requires_grad_()
    result = extract(coords, feats, 24, training=True)
    plain = extract(coords, feats.detach(), 24)
    assert torch.equal(result.vertices[: len(plain.vertices)], plain.vertices)
    assert len(result.faces) == 2 * len(plain.faces)
    (result.vertices.square().sum() + result.reg_loss).backward()
    assert feats.grad.isfinite().all() and (feats.grad[:, :53].abs().sum(0) > 0).all()
    assert torch.equal(feats.detach(), before)


def test_edges_a_few_at_a_time_give_the_same_surface(monkeypatch):
    coords, feats = cubes(torus(), 24)
    feats[:, 8:53] = torch.randn(len(coords), 45, generator=torch.Generator().manual_seed(0)) * 0.3
    whole = extract(coords, feats, 24)
    monkeypatch.setattr("gap3d_app.geometry.dual.PAIRS_AT_ONCE", 1000)
    parts = extract(coords, feats, 24)
    assert torch.equal(whole.vertices, parts.vertices) and torch.equal(whole.faces, parts.faces)


def test_gradient_agrees_with_finite_differences():
    coords, feats = cubes(sphere(0.3), 8)
    generator = torch.Generator().manual_seed(1)
    feats[:, 8:53] = torch.randn(len(coords), 45, generator=generator) * 0.3
    feats = feats.double().requires_grad_()
    weight = torch.randn(400, 3, generator=generator).double()

    def loss(value):
        result = extract(coords, value, 8, training=True)
        return (result.vertices * weight[: len(result.vertices)]).sum() + result.reg_loss

    loss(feats).backward()
    step = torch.randn(feats.shape, generator=generator).double() * 1e-6
    with torch.no_grad():
        difference = (loss(feats + step) - loss(feats - step)) / 2
    assert float((feats.grad * step).sum()) == pytest.approx(float(difference), rel=1e-4)


def test_empty_and_bad_input():
    for coords, feats in ((torch.zeros(0, 3), torch.zeros(0, 101)), (torch.tensor([[1, 1, 1]]), torch.ones(1, 101))):
        for training in (False, True):
            result = extract(coords.int(), feats, 8, training=training)
            assert not result.success and result.vertices.shape == (0, 3) and result.vertex_attrs.shape == (0, 6)
    with pytest.raises(ValueError, match="0..7"):
        extract(torch.tensor([[0, 0, 8]]), torch.ones(1, 53), 8)
    with pytest.raises(ValueError, match="channels"):
        extract(torch.tensor([[0, 0, 0]]), torch.ones(1, 54), 8)


def test_case_tables_have_the_published_counts():
    tables = case_tables()
    assert np.bincount(tables.patch_count).tolist() == [2, 162, 82, 8, 2]
    assert (tables.twin != 0).any(1).sum() == 36
    assert tables.twin[[61, 62, 91, 103]].tolist() == [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("name", ["mesh_sphere", "mesh_torus", "mesh_random_ambiguous", "mesh_deform_weights"])
def test_golden(shared_dir, name):
    with safe_open(shared_dir / f"conformance/trellis/{name}.safetensors", "pt") as f:
        data = {k.removeprefix("outputs."): f.get_tensor(k) for k in f.keys()}
        meta = f.metadata()
    tolerance = json.loads(meta["tolerance_max_abs"])
    resolution = json.loads(meta["constructor_args"])["res"]
    coords, feats = data["inputs.coords"][:, 1:], data["inputs.feats"]
    result = extract(coords, feats, resolution)
    corner_coords, corner_attrs = average_corners(coords, feats, resolution)
    got = {
        "vertices": result.vertices,
        "faces": result.faces,
        "vertex_attrs": result.vertex_attrs,
        "corner_coords": corner_coords,
        "corner_attrs": corner_attrs,
    }
    if "train.faces" in data:
        trained = extract(coords, feats, resolution, training=True)
        got["train.vertices"], got["train.faces"] = trained.vertices, trained.faces
        got["train.vertex_attrs"], got["train.reg_loss"] = trained.vertex_attrs, trained.reg_loss.view(1)
        got["train.tsdf_v"], got["train.tsdf_s"] = trained.tsdf_vertices, trained.tsdf_values
    for key, limit in tolerance.items():
        assert got[key].shape == data[key].shape, key
        assert (got[key].double() - data[key].double()).abs().max() <= limit, key


def _arrays(mesh):
    return mesh.vertices.numpy(), mesh.faces.numpy()
