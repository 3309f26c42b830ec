"""Unwrapping and baking: a known pattern goes to a texture and comes back."""

import numpy as np
import pytest

from gap3d_app.geometry.bake import SurfaceColors, bake, fill_gutters, rasterize_uv
from gap3d_app.geometry.simplify import simplify
from gap3d_app.geometry.topology import face_cross, normalized
from gap3d_app.geometry.unwrap import unwrap
from tests.geometry.shapes import box, solid_mesh, sphere, torus


def pattern(points):
    return 0.5 + 0.4 * np.sin(points * np.array([9.0, 7.0, 8.0]))


def surface_points(vertices, faces, count=4000, seed=0):
    random = np.random.default_rng(seed)
    area = np.linalg.norm(face_cross(vertices, faces), axis=1)
    face = random.choice(len(faces), count, p=area / area.sum())
    bary = random.dirichlet([1, 1, 1], count)
    return face, bary, np.einsum("pk,pkd->pd", bary, vertices[faces[face]])


def read_texture(picture, uv):
    """Bilinear, clamped: what a viewer does without mipmaps."""
    size = len(picture)
    place = np.clip(uv * size - 0.5, 0, size - 1)
    base = np.minimum(np.floor(place).astype(int), size - 2)
    part = place - base
    x, y = base.T
    fx, fy = part[:, :1], part[:, 1:]
    p = picture.astype(np.float64) / 255
    top = p[y, x] * (1 - fx) + p[y, x + 1] * fx
    low = p[y + 1, x] * (1 - fx) + p[y + 1, x + 1] * fx
    return top * (1 - fy) + low * fy


@pytest.mark.parametrize("method", ["box", "xatlas"])
@pytest.mark.parametrize("field", [sphere(), torus(), box()])
def test_pattern_survives_the_texture(field, method):
    mesh = solid_mesh(field, 32)
    vertices, faces = simplify(mesh.vertices.numpy(), mesh.faces.numpy(), 800)
    atlas = unwrap(vertices, faces, 512, method)
    assert np.array_equal(atlas.source[atlas.faces], faces)
    assert atlas.uv.min() >= 0 and atlas.uv.max() <= 1
    picture = bake(vertices, faces, atlas.uv, atlas.faces, 512, pattern)
    face, bary, point = surface_points(vertices, faces)
    uv = np.einsum("pk,pkd->pd", bary, atlas.uv[atlas.faces[face]])
    error = np.abs(read_texture(picture, uv) - pattern(point))
    assert np.median(error) < 0.01 and np.quantile(error, 0.99) < 0.05


def test_dense_colors_reach_the_simplified_mesh():
    mesh = solid_mesh(sphere(), 96)
    dense, colors = mesh.vertices.numpy(), pattern(mesh.vertices.numpy())
    lookup = SurfaceColors(dense, mesh.faces.numpy(), colors)
    vertices, faces = simplify(dense, mesh.faces.numpy(), 2000)
    atlas = unwrap(vertices, faces, 512)
    picture = bake(vertices, faces, atlas.uv, atlas.faces, 512, lookup)
    face, bary, point = surface_points(vertices, faces)
    uv = np.einsum("pk,pkd->pd", bary, atlas.uv[atlas.faces[face]])
    error = np.abs(read_texture(picture, uv) - pattern(point))
    assert np.median(error) < 0.01 and np.quantile(error, 0.99) < 0.04


def test_two_sides_of_a_thin_wall_keep_their_colors():
    mesh = solid_mesh(box((0.35, 0.013, 0.35)), 96)  # 2.5 cells thick
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
    front = vertices[:, 1] < 0
    colors = np.where(front[:, None], [[1.0, 0, 0]], [[0, 0, 1.0]])
    lookup = SurfaceColors(vertices, faces, colors)
    points = np.array([[0.1, -0.013, 0.1], [0.1, 0.013, 0.1]])
    rgb = lookup(points, np.array([[0, -1.0, 0], [0, 1.0, 0]]))
    assert rgb[0, 0] > 0.9 and rgb[1, 2] > 0.9


def test_large_triangles_are_sampled_inside():
    vertices = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    lookup = SurfaceColors(vertices, faces, vertices + 0.5)
    points = np.random.default_rng(0).uniform(-0.45, 0.45, (500, 3)) * [1, 1, 0]
    rgb = lookup(points, np.tile([0, 0, 1.0], (500, 1)))
    assert np.abs(rgb - (points + 0.5)).max() < 0.02


def test_rasterised_texels_lie_in_their_triangles_and_cover_their_area():
    uv = np.array([[0.1, 0.1], [0.9, 0.15], [0.3, 0.85], [0.95, 0.9]])
    faces = np.array([[0, 1, 2], [1, 3, 2]])
    texel, face, bary = rasterize_uv(uv, faces, 256)
    assert bary.min() > -1e-3 and np.allclose(bary.sum(1), 1, atol=1e-5)
    center = np.stack([texel % 256 + 0.5, texel // 256 + 0.5], 1) / 256
    assert np.abs(np.einsum("pk,pkd->pd", bary, uv[faces[face]]) - center).max() < 1e-5
    a, b, c = (uv[faces[:, k]] for k in range(3))
    u, v = b - a, c - a
    area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum() / 2
    assert len(np.unique(texel)) / 256**2 == pytest.approx(area, rel=0.01)


def test_charts_do_not_overlap_and_gutters_are_filled():
    mesh = solid_mesh(box(), 32)
    vertices, faces = simplify(mesh.vertices.numpy(), mesh.faces.numpy(), 300)
    atlas = unwrap(vertices, faces, 256)
    assert atlas.charts <= 12
    texel, face, _ = rasterize_uv(atlas.uv, atlas.faces, 256)
    direction = normalized(face_cross(vertices, faces))[face]
    order = np.argsort(texel, kind="stable")
    twice = np.flatnonzero(np.diff(texel[order]) == 0)
    # a texel met twice lies on an edge inside one chart, so both faces look the same way
    assert ((direction[order[twice]] * direction[order[twice + 1]]).sum(1) > -0.2).all()
    color = np.zeros((256, 256, 3), dtype=np.float32)
    covered = np.zeros((256, 256), dtype=bool)
    covered.reshape(-1)[texel] = True
    color[covered] = [0.2, 0.4, 0.6]
    filled = fill_gutters(color, covered)
    assert np.allclose(filled, [0.2, 0.4, 0.6], atol=1e-5)


def test_unknown_method():
    with pytest.raises(ValueError, match="box"):
        unwrap(np.zeros((3, 3)), np.array([[0, 1, 2]]), 64, "spherical")
