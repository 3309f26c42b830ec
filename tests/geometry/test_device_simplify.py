"""Parallel edge collapse: the surface stays closed, in its place and of its kind."""

import numpy as np
import pytest
import torch

from gap3d_app.geometry import simplify as slow
from gap3d_app.geometry.device_simplify import collapse, is_closed, keep_main_parts, part_of_vertices, vertex_quadrics
from gap3d_app.geometry.glb import export_glb
from gap3d_app.geometry.simplify import simplify
from gap3d_app.geometry.textured import HEAD_START, reduced_in_numpy, reduced_on_device
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


def crumbs() -> tuple[torch.Tensor, torch.Tensor]:
    """A ball, a speck, a middling ball, a face that repeats a vertex, and vertices that no face uses."""
    parts = [solid_mesh(sphere(radius), 32) for radius in (0.4, 0.05, 0.15)]
    vertices = [torch.zeros(3, 3)]
    faces, start = [], 3
    for part in parts:
        vertices.append(part.vertices)
        faces.append(part.faces.flip(0) + start)
        start += len(part.vertices)
    return torch.cat(vertices), torch.cat([*faces, torch.tensor([[5, 5, 6]])])


def test_small_parts_go_as_in_the_twin() -> None:
    vertices, faces = crumbs()
    weight = torch.arange(len(vertices))
    there = keep_main_parts(vertices, faces, weight, min_area=0.05)
    here = slow.keep_main_parts(vertices.numpy(), faces.numpy(), weight.numpy(), min_area=0.05)
    assert len(there[1]) < len(faces) - 100
    for one, other in zip(there, here, strict=True):
        assert np.array_equal(one.numpy(), other)
    nothing = keep_main_parts(vertices, torch.tensor([[1, 1, 2]]), weight)
    assert [len(v) for v in nothing] == [0, 0, 0]


def test_parts_of_a_long_chain() -> None:
    """Connected through one neighbour after the other, in an order that no sweep follows."""
    place = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    strip = torch.stack([place[:-2], place[1:-1], place[2:]], dim=1)
    two = torch.cat([strip[:1400], strip[1402:]])
    label = part_of_vertices(two, 3001)
    assert label[3000] == 3000 and len(label.unique()) == 3
    assert (label[place[:1402]] == place[:1402].min()).all() and (label[place[1402:]] == place[1402:].min()).all()


def test_device_route_makes_what_numpy_makes() -> None:
    """The route of CUDA meshes, walked on the CPU: sound, as many faces, and in the same place."""
    mesh = solid_mesh(FIELDS["torus"], 64, color=lambda p: p + 0.5)
    target = len(mesh.faces) // (2 * HEAD_START) - 10
    arguments = (mesh.vertices, mesh.faces, mesh.colors, target, True)
    points, faces, dense = reduced_on_device(*arguments)
    twin_points, twin_faces, twin_dense = reduced_in_numpy(*arguments)
    assert is_watertight(faces) and abs(len(faces) - len(twin_faces)) <= 2
    assert np.allclose(points.min(0), twin_points.min(0), atol=0.01)
    assert volume(points, faces) == pytest.approx(volume(twin_points, twin_faces), rel=0.02)
    for one, other in zip(dense, twin_dense, strict=True):
        assert np.array_equal(one.numpy(), other)


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
