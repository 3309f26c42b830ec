"""Parallel edge collapse: the surface stays closed, in its place and of its kind."""

import numpy as np
import pytest
import torch

from gap3d_app.geometry.device_simplify import collapse, is_closed, vertex_quadrics
from gap3d_app.geometry.glb import HEAD_START, export_glb
from gap3d_app.geometry.simplify import simplify
from gap3d_app.geometry.topology import is_watertight
from tests.geometry.shapes import box, solid_mesh, sphere, torus, volume

FIELDS = {"sphere": sphere(), "torus": torus(), "thin wall": box((0.35, 0.02, 0.35))}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_surface(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Vertices and face centres."""
    return torch.cat([vertices, vertices[faces].mean(1)])


@pytest.mark.parametrize("name", FIELDS)
def test_collapse_keeps_the_shape(name: str) -> None:
    mesh = solid_mesh(FIELDS[name], 64)
    target = len(mesh.faces) // 6
    vertices, faces = collapse(mesh.vertices, mesh.faces, target)
    assert target - 2 <= len(faces) <= target and is_watertight(faces.numpy())
    assert vertices.dtype == torch.float32 and len(torch.unique(faces)) == len(vertices)
    assert len(vertices) - len(faces) // 2 == len(mesh.vertices) - len(mesh.faces) // 2  # Euler characteristic
    twin = simplify(mesh.vertices.numpy(), mesh.faces.numpy(), target)
    there = FIELDS[name](on_surface(vertices, faces)).abs()
    here = FIELDS[name](on_surface(*map(torch.from_numpy, twin))).abs()
    assert there.mean() < 1.5 * here.mean() + 1e-4 and there.max() < 1 / 64
    dense = volume(mesh.vertices.numpy(), mesh.faces.numpy())
    assert volume(vertices.numpy(), faces.numpy()) == pytest.approx(dense, rel=5e-3)


def test_collapse_repeats_and_stops_in_time() -> None:
    mesh = solid_mesh(FIELDS["torus"], 32)
    first, second = (collapse(mesh.vertices, mesh.faces, 1001) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert len(first[1]) == 1002
    same = collapse(mesh.vertices, mesh.faces, len(mesh.faces))
    assert torch.equal(same[1], mesh.faces)


def test_nothing_sound_is_left_to_collapse() -> None:
    """A tetrahedron would become two faces, back to back."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    assert is_closed(faces)
    after = collapse(vertices, faces, 2)
    assert torch.equal(after[1], faces) and torch.allclose(after[0], vertices)


def test_quadrics_measure_distances_to_planes() -> None:
    mesh = solid_mesh(box((0.3, 0.3, 0.3)), 16)
    place = mesh.vertices.double()
    a, b, c = place[mesh.faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    point = torch.tensor([0.1, 0.2, 0.3, 1.0]).double()
    row, column = torch.triu_indices(4, 4)
    weight = torch.where(row == column, 1.0, 2.0)
    found = (vertex_quadrics(place, mesh.faces) * weight * point[row] * point[column]).sum(1)
    distance = ((point[:3] - a) * cross).sum(1) / cross.norm(dim=1)
    wanted = torch.zeros(len(place)).double()
    wanted.index_add_(0, mesh.faces.reshape(-1), (cross.norm(dim=1) * distance.square()).repeat_interleave(3))
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-6)


def test_closedness_agrees_with_its_twin() -> None:
    faces = solid_mesh(FIELDS["torus"], 16).faces
    turned = torch.cat([faces[:1].flip(1), faces[1:]])
    for case in (faces, faces[1:], turned, torch.cat([faces, faces[:1]]), faces[:0], torch.tensor([[0, 0, 1]])):
        assert is_closed(case) == is_watertight(case.numpy())
    assert is_closed(faces)


@pytest.mark.gpu
@needs_cuda
def test_head_start_on_cuda(tmp_path) -> None:
    mesh = solid_mesh(FIELDS["torus"], 96)
    target = len(mesh.faces) // (2 * HEAD_START) - 10
    vertices, faces = collapse(mesh.vertices.cuda(), mesh.faces.cuda(), HEAD_START * target)
    assert is_closed(faces) and is_watertight(faces.cpu().numpy())
    assert FIELDS["torus"](vertices.cpu()).abs().max() < 1 / 96
    names = ("first.glb", "second.glb", "cpu.glb")
    facts = [
        export_glb(mesh.to(device), tmp_path / name, target_faces=target, texture_size=128)
        for name, device in zip(names, ("cuda", "cuda", "cpu"), strict=True)
    ]
    assert (tmp_path / names[0]).read_bytes() == (tmp_path / names[1]).read_bytes()
    assert facts[0].watertight and facts[0].faces == facts[2].faces == target // 2 * 2
    assert np.allclose(facts[0].size_m, facts[2].size_m, atol=0.01)
