"""Surface fields of closed, open and overlapping meshes."""

import numpy as np
import pytest
import torch
import trimesh

from gap3d_app.values import Mesh
from tests.render.shapes import from_trimesh
from train.data.fields import SHELL, fields_to_mesh, surface_fields, surface_fields_of

CELL = 1 / 128


def half_sphere() -> trimesh.Trimesh:
    shape = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    shape.update_faces(shape.triangles_center[:, 2] > 0)
    shape.remove_unreferenced_vertices()
    return shape


def two_boxes() -> trimesh.Trimesh:
    move = trimesh.transformations.translation_matrix((0.15, 0.1, 0.1))
    return trimesh.util.concatenate(
        [trimesh.creation.box((0.5, 0.3, 0.3)), trimesh.creation.box((0.3, 0.3, 0.5), transform=move)]
    )


SHAPES = {
    "sphere": lambda: trimesh.creation.icosphere(subdivisions=4, radius=0.4),
    "torus": lambda: trimesh.creation.torus(0.33, 0.1, 48, 24),
    "half sphere": half_sphere,
    "two boxes": two_boxes,
}


def corner_positions(fields) -> torch.Tensor:
    corner = torch.cartesian_prod(*[torch.arange(5)] * 3)
    return (fields.coords[:, None].long() * 4 + corner) * CELL - 0.5


@pytest.mark.parametrize("name", SHAPES)
def test_result_is_closed_and_near_the_source(name):
    shape = SHAPES[name]()
    fields = surface_fields(from_trimesh(shape))
    assert fields.sdf.shape == (len(fields), 125) and fields.colors.shape == (len(fields), 125, 3)
    result = fields_to_mesh(fields)
    mesh = trimesh.Trimesh(result.vertices.numpy(), result.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.volume > 0
    parts = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    assert parts.max() == 0  # one surface: no inner walls, no inner shell
    # the source's own distance field says how far the result lies from it
    sample = result.vertices[:: max(1, len(result.vertices) // 300)].numpy()
    distance = np.abs(trimesh.proximity.closest_point_naive(shape, sample)[1])
    if name == "two boxes":  # parts of the boxes that lie inside the other are not on the surface
        assert distance.max() < 2.5 * CELL
    else:
        assert np.abs(distance - SHELL * CELL).max() < 0.6 * CELL
        assert np.abs(distance - SHELL * CELL).mean() < 0.1 * CELL


def test_distances_of_a_sphere():
    fields = surface_fields(from_trimesh(SHAPES["sphere"]()))
    exact = (corner_positions(fields).norm(dim=-1) - 0.4) * 32 - SHELL / 4
    error = (fields.sdf.float() - exact.clamp(-1, 1)).abs()
    assert error[exact.abs() < 0.25].mean() < 0.02 and error.mean() < 0.02
    # beyond half a voxel of the surface signs must be right everywhere
    assert torch.equal(fields.sdf[exact.abs() > 0.1] > 0, exact[exact.abs() > 0.1] > 0)


def test_voxels_are_those_that_the_surface_crosses():
    fields = surface_fields(from_trimesh(SHAPES["sphere"]()))
    flat = (fields.coords[:, 0].long() * 32 + fields.coords[:, 1]) * 32 + fields.coords[:, 2]
    assert (flat.diff() > 0).all()
    assert ((fields.sdf < 0).any(1) & (fields.sdf >= 0).any(1)).all()


def test_colours_are_those_of_the_nearest_point():
    fields = surface_fields(from_trimesh(SHAPES["sphere"]()))
    position = corner_positions(fields)
    expected = position / position.norm(dim=-1, keepdim=True) * 0.4 + 0.5
    error = (fields.colors / 255 - expected).abs().amax(-1)
    assert error.max() < 0.06 and error[fields.sdf.abs() < 0.3].max() < 0.01


def test_order_and_winding_of_faces_do_not_matter():
    mesh = from_trimesh(two_boxes())
    first = surface_fields(mesh)
    faces = mesh.faces.flip(0)
    faces[::2] = faces[::2].flip(1)
    second = surface_fields(Mesh(mesh.vertices, faces, mesh.colors))
    assert torch.equal(first.coords, second.coords)
    error = (first.sdf.float() - second.sdf.float()).abs()
    # off the band the triangle of a neighbour stands for the nearest one, and ties go by number
    assert error[first.sdf.abs() < 0.25].max() < 2e-3 and error.mean() < 0.01
    again = surface_fields(mesh)
    assert torch.equal(first.sdf, again.sdf) and torch.equal(first.colors, again.colors)


def test_a_sheet_becomes_a_plate():
    corners = torch.tensor([[-0.4, -0.4, 0.003], [0.4, -0.4, 0.003], [0.4, 0.4, 0.003], [-0.4, 0.4, 0.003]])
    fields = surface_fields(Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]])))
    result = fields_to_mesh(fields)
    thickness = result.vertices[:, 2].max() - result.vertices[:, 2].min()
    assert float(thickness) == pytest.approx(2 * SHELL * CELL, rel=0.1)


def test_degenerate_faces_and_the_cube_border():
    mesh = from_trimesh(trimesh.creation.box((1.0, 1.0, 1.0)))
    point = torch.tensor([[0, 0, 0], [0, 0, 1]])
    fields = surface_fields(Mesh(mesh.vertices, torch.cat([mesh.faces, point])))
    result = fields_to_mesh(fields)
    assert torch.isfinite(fields.sdf).all() and torch.isfinite(result.vertices).all()
    assert trimesh.Trimesh(result.vertices, result.faces, process=False).is_watertight
    with pytest.raises(ValueError, match="faces"):
        surface_fields(Mesh(mesh.vertices, mesh.faces[:0]))


def test_several_meshes_at_once():
    """What each gives alone; a mesh without colours, and one that touches the sides of its cube, beside others."""
    meshes = [from_trimesh(SHAPES[name]()) for name in ("half sphere", "two boxes")]
    meshes += [from_trimesh(trimesh.creation.box((1.0, 1.0, 1.0))), from_trimesh(SHAPES["torus"]())]
    meshes[1] = Mesh(meshes[1].vertices, meshes[1].faces)
    for mesh, together in zip(meshes, surface_fields_of(meshes), strict=True):
        alone = surface_fields(mesh)
        assert torch.equal(together.coords, alone.coords) and torch.equal(together.colors, alone.colors)
        assert torch.equal(together.sdf, alone.sdf)
    with pytest.raises(ValueError, match="faces"):
        surface_fields_of([meshes[0], Mesh(meshes[0].vertices, meshes[0].faces[:0])])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    mesh = from_trimesh(SHAPES["torus"]())
    here, there = surface_fields(mesh), surface_fields(mesh, device="cuda")
    beside = surface_fields_of([from_trimesh(two_boxes()).to("cuda"), mesh.to("cuda")])[1]
    assert torch.equal(there.coords, beside.coords) and (there.sdf.float() - beside.sdf.float()).abs().mean() < 1e-4
    assert torch.equal(here.coords, there.coords.cpu())
    # sums in another order: 3e-4 of a coarse voxel in the mean was seen on an H200
    assert (here.sdf.float() - there.sdf.cpu().float()).abs().mean() < 1e-3
    assert (here.colors.int() - there.colors.cpu().int()).abs().float().mean() < 0.05
