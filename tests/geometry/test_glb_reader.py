"""GLB files of strangers: the triangles that trimesh reads, and everything hostile refused at once."""

import json
import struct
import tracemalloc

import numpy as np
import pytest
import torch
import trimesh

from gap3d_app.errors import InputError
from gap3d_app.geometry import glb_reader
from gap3d_app.geometry.glb import export_glb
from gap3d_app.geometry.glb_reader import read_glb
from gap3d_app.geometry.mesh_reader import read_mesh
from tests.geometry.shapes import solid_mesh, torus


def write(path, tree, binary: bytes = b""):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    return path


def triangle(**changes) -> tuple[dict, bytes]:
    binary = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes() + np.array([0, 1, 2], "<u2").tobytes()
    tree = {
        "asset": {"version": "2.0"}, "buffers": [{"byteLength": len(binary)}], "nodes": [{"mesh": 0}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 6}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
                      {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
    }  # fmt: skip
    return tree | changes, binary


def sorted_corners(mesh) -> np.ndarray:
    corners = mesh.vertices[mesh.faces].numpy().reshape(len(mesh.faces), -1)
    return corners[np.lexsort(corners.T)]


def test_it_reads_what_trimesh_reads(tmp_path):
    path = tmp_path / "torus.glb"
    export_glb(solid_mesh(torus(), resolution=24), path, texture_size=64, recipe={})
    assert np.allclose(sorted_corners(read_glb(path)), sorted_corners(read_mesh(path)), atol=1e-6)
    scene = trimesh.Scene()
    for number, mesh in enumerate((trimesh.creation.box((1, 2, 3)), trimesh.creation.icosphere(1))):
        turn = trimesh.transformations.rotation_matrix(0.3 + number, (1, 2, 3), (0.1, 0.2, 0.3))
        scene.add_geometry(mesh, transform=turn @ np.diag([1, -2 if number else 2, 1, 1]))
    scene.export(tmp_path / "scene.glb")
    ours, theirs = read_glb(tmp_path / "scene.glb"), read_mesh(tmp_path / "scene.glb")
    assert np.allclose(sorted_corners(ours), sorted_corners(theirs), atol=1e-5)


def test_quantized_and_placed(tmp_path):
    tree, _ = triangle(extensionsRequired=["KHR_mesh_quantization"])
    binary = np.array([[0, 0, 0, 0], [32767, 0, 0, 0], [0, 32767, 0, 0]], "<i2").tobytes()
    tree["bufferViews"][0] |= {"byteStride": 8}
    tree["accessors"][0] |= {"componentType": 5122, "normalized": True}
    del tree["meshes"][0]["primitives"][0]["indices"]
    tree["nodes"] = [{"children": [1], "translation": [0, 0, 1]}, {"mesh": 0, "scale": [2, 2, 2]}]
    tree["scenes"] = [{"nodes": [0]}]
    mesh = read_glb(write(tmp_path / "a.glb", tree, binary))
    assert torch.allclose(mesh.vertices, torch.tensor([[0.0, -1, 0], [2, -1, 0], [0, -1, 2]]))


def nested(depth: int) -> list[dict]:
    return [{"children": [i + 1]} for i in range(depth)] + [{"mesh": 0}]


BOMBS = {
    "beyond the file": dict(accessors=[{"bufferView": 0, "componentType": 5126, "count": 900_000, "type": "VEC3"}] * 2),
    "more than 2,000,000 triangles": dict(accessors=[
        {"bufferView": 0, "componentType": 5126, "count": 10**9, "type": "VEC3"}] * 2),
    "not a sound GLB file .'bufferView'": dict(
        accessors=[{"componentType": 5126, "count": 3, "type": "VEC3"}] * 2),
    "over 4,000 parts": dict(nodes=[{"children": [1] * 200}, {"children": [2] * 200}, {"mesh": 0}],
                              scenes=[{"nodes": [0]}]),
    "64 levels": dict(nodes=nested(100), scenes=[{"nodes": [0]}]),
    "another file": dict(buffers=[{"uri": "../../secret.bin", "byteLength": 42}]),
    "needs KHR_draco_mesh_compression; export it uncompressed": dict(extensionsRequired=["KHR_draco_mesh_compression"]),
    "there is no entry -1": dict(nodes=[{"mesh": -1}]),
    "holds no triangles": dict(nodes=[]),
    "no count": dict(accessors=[{"bufferView": 0, "componentType": 5126, "count": -3, "type": "VEC3"}] * 2),
    "not finite": dict(nodes=[{"mesh": 0, "scale": [float("inf"), 1, 1]}]),
    "sparse or of another type": dict(accessors=[
        {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "sparse": {}}] * 2),
}  # fmt: skip


@pytest.mark.parametrize("words", BOMBS)
def test_hostile_files(tmp_path, words):
    path = write(tmp_path / "a.glb", *triangle(**BOMBS[words]))
    tracemalloc.start()
    with pytest.raises(InputError, match=words) as caught:
        read_glb(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_loop_of_nodes(tmp_path):
    tree, binary = triangle(nodes=[{"children": [0], "mesh": 0}], scenes=[{"nodes": [0]}])
    with pytest.raises(InputError, match="levels"):
        read_glb(write(tmp_path / "a.glb", tree, binary))


@pytest.mark.parametrize("content", [b"", b"glTF", b"not a mesh at all", b"PK\x03\x04" + bytes(50), b"solid stl" * 9])
def test_other_files(tmp_path, content):
    """One sentence, without the words of the libraries that read."""
    path = tmp_path / "a.glb"
    path.write_bytes(content)
    with pytest.raises(InputError, match="GLB"):
        read_glb(path)


@pytest.mark.parametrize("text", [b"[]", b"{", b"{}", b"[" * 100_000, b'{"nodes": 3}', b'{"nodes": [3]}'])
def test_broken_json(tmp_path, text):
    with pytest.raises(InputError):
        read_glb(write(tmp_path / "a.glb", text))


def test_a_truncated_file(tmp_path):
    path = write(tmp_path / "a.glb", *triangle())
    whole = path.read_bytes()
    assert len(read_glb(path).faces) == 1
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError):
            read_glb(path)


def test_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(glb_reader, "MAX_FILE_BYTES", 2**20)
    (tmp_path / "a.glb").write_bytes(bytes(2**20 + 1))
    with pytest.raises(InputError, match="more than 1 MB; simplify it"):
        read_glb(tmp_path / "a.glb")
