"""Cleaning and simplification keep closed surfaces closed."""

import numpy as np
import pytest

from gap3d_app.geometry.facts import mesh_facts
from gap3d_app.geometry.simplify import cut_folds, keep_main_parts, separate_sheets, simplify
from gap3d_app.geometry.topology import corner_normals, is_watertight
from tests.geometry.shapes import box, solid_mesh, sphere, torus, volume


def arrays(field, resolution=48):
    mesh = solid_mesh(field, resolution)
    return mesh.vertices.numpy(), mesh.faces.numpy()


@pytest.mark.parametrize("target", [4000, 1000, 200])
@pytest.mark.parametrize("field", [sphere(), torus(), box()])
def test_simplified_solids_stay_closed_and_keep_their_volume(field, target):
    vertices, faces = arrays(field)
    points, triangles = simplify(vertices, faces, target)
    assert len(triangles) <= target * 1.02 or len(triangles) < len(faces)
    assert is_watertight(triangles) and mesh_facts(points, triangles)["watertight"]
    assert volume(points, triangles) == pytest.approx(volume(vertices, faces), rel=0.05)


def test_thin_bumpy_shape_stays_closed():
    def field(p):
        x, y, z = p.unbind(-1)
        return (p.abs().amax(-1) - 0.41).maximum((10 * x).sin() * (11 * y).cos() + (9 * z).sin() - 0.2) / 12

    vertices, faces = arrays(field, 40)
    assert is_watertight(faces)
    for target in (6000, 2000, 600):
        points, triangles = simplify(vertices, faces, target)
        assert is_watertight(triangles) and mesh_facts(points, triangles)["watertight"]


def test_small_floating_parts_go_unless_they_are_all_there_is():
    big = arrays(sphere(0.3))
    small = (big[0] * 0.02 + 0.45, big[1] + len(big[0]))
    vertices = np.concatenate([big[0], small[0]])
    kept, faces, values = keep_main_parts(vertices, np.concatenate([big[1], small[1]]), vertices)
    assert len(kept) == len(big[0]) and len(faces) == len(big[1]) and np.array_equal(kept, values)
    alone = keep_main_parts(small[0], big[1])
    assert len(alone[1]) == len(big[1])


def test_folds_are_cut_and_touching_sheets_told_apart():
    tetra = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    fin = np.array([[0, 1, 4], [1, 0, 4]])
    assert len(cut_folds(np.concatenate([tetra, fin]))) == 4
    # two tetrahedra on one edge
    points = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0.5], [1, 1, 0.5], [-1, 0, 0.5], [-1, -1, 0.5]], float)
    first = np.array([[0, 1, 2], [1, 0, 3], [0, 2, 3], [2, 1, 3]])
    second = np.array([[0, 1, 4], [1, 0, 5], [0, 4, 5], [4, 1, 5]])
    both = np.concatenate([first, second])
    assert not is_watertight(both)
    moved, faces = separate_sheets(points, both)
    assert is_watertight(faces) and mesh_facts(moved, faces)["watertight"]


def test_corner_normals_keep_box_sides_flat_and_spheres_round():
    vertices, faces = simplify(*arrays(box()), 600)
    normals = corner_normals(vertices.astype(np.float64), faces)
    assert (np.abs(normals).max(-1) > 0.97).mean() > 0.8
    vertices, faces = simplify(*arrays(sphere()), 2000)
    normals = corner_normals(vertices.astype(np.float64), faces)
    radial = vertices[faces] / np.linalg.norm(vertices[faces], axis=-1, keepdims=True)
    assert (normals * radial).sum(-1).min() > 0.97
