"""The triangles of a GLB that a stranger sent: bounded by the file's own size, nothing else is opened or decoded.

Read are positions, indices and node transforms; textures, skins, animations and extensions are left alone. Every
accessor must lie inside the file, and what nodes repeat is counted before anything is made of it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gap3d_app.errors import InputError
from gap3d_app.values import Mesh

MAX_FILE_BYTES = 64 * 2**20
MAX_JSON_BYTES = 8 * 2**20
MAX_TRIANGLES = 2_000_000
MAX_NODES = 4_000
MAX_DEPTH = 64
INDEX_TYPES = {5121: np.uint8, 5123: np.dtype("<u2"), 5125: np.dtype("<u4")}
POSITION_TYPES = {5126: (np.dtype("<f4"), 1.0)} | {
    code: (np.dtype(kind), scale)  # KHR_mesh_quantization
    for code, kind, scale in ((5120, "i1", 127.0), (5121, "u1", 255.0), (5122, "<i2", 32767.0), (5123, "<u2", 65535.0))
}
KNOWN_EXTENSIONS = {"KHR_mesh_quantization", "KHR_texture_transform", "KHR_materials_unlit", "EXT_texture_webp"}
"""Extensions that a file may require without changing where its triangles are."""


def read_glb(path: str | Path) -> Mesh:
    """All triangles in object space (Z-up, front -Y), three vertices a face, without colours.

    Raises:
        InputError: not a GLB, damaged, over a limit, or with parts that are not read (compressed geometry).
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"The mesh has more than {MAX_FILE_BYTES // 2**20} MB; simplify it.")
        tree, binary = _chunks(path.read_bytes())
        required = set(tree.get("extensionsRequired", ())) - KNOWN_EXTENSIONS
        if required:
            raise InputError(f"The mesh needs {', '.join(sorted(map(str, required)))[:80]}; export it uncompressed.")
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused below
            corners = _corners(tree, binary)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"The mesh cannot be read ({error.strerror}); send it again.") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error, RecursionError) as error:
        words = "it ends too early" if isinstance(error, struct.error) else str(error)[:80] or type(error).__name__
        raise InputError(f"The mesh is not a sound GLB file ({words}); export it as GLB again.") from None
    if not np.isfinite(corners).all():
        raise InputError("The mesh has vertices that are not finite; repair it.")
    x, y, z = corners.reshape(-1, 3).T
    vertices = torch.from_numpy(np.stack([x, -z, y], axis=1).astype(np.float32))
    return Mesh(vertices, torch.arange(len(vertices)).reshape(-1, 3))


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON object and the binary chunk."""
    magic, version, _ = struct.unpack_from("<4sII", data)
    if magic != b"glTF" or version != 2:
        raise InputError("The mesh is not a GLB file (binary glTF 2.0); export it as GLB.")
    length, kind = struct.unpack_from("<I4s", data, 12)
    if kind != b"JSON" or length > min(MAX_JSON_BYTES, len(data) - 20):
        raise ValueError("its JSON part is missing or too long")
    tree, rest = json.loads(data[20 : 20 + length]), 20 + length
    if not isinstance(tree, dict):
        raise ValueError("its JSON part is no object")
    if rest + 8 > len(data):
        return tree, b""
    size = struct.unpack_from("<I", data, rest)[0]
    return tree, data[rest + 8 : rest + 8 + size]


def _corners(tree: dict[str, Any], binary: bytes) -> np.ndarray:
    """[F, 3, 3] float64 corners in the scene's axes (Y-up)."""
    placed = list(_placed(tree))
    total = 0
    for primitive, _ in placed:
        total += _triangle_count(tree, primitive)
        if total > MAX_TRIANGLES:
            raise InputError(f"The mesh has more than {MAX_TRIANGLES:,} triangles; simplify it.")
    if not total:
        raise InputError("The mesh holds no triangles; give a GLB file with a surface.")
    parts = []
    for primitive, transform in placed:
        points = _positions(tree, binary, primitive["attributes"]["POSITION"])
        faces = np.arange(len(points))
        if "indices" in primitive:
            faces = _values(tree, binary, primitive["indices"], 1, INDEX_TYPES)[:, 0].astype(np.int64)
        faces = faces[: len(faces) // 3 * 3].reshape(-1, 3)
        if np.linalg.det(transform[:3, :3]) < 0:  # mirrored parts keep their outside
            faces = faces[:, ::-1]
        parts.append((points @ transform[:3, :3].T + transform[:3, 3])[faces])
    return np.concatenate(parts)


def _placed(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every primitive of triangles with its transform to the scene."""
    nodes, meshes = tree.get("nodes", []), tree.get("meshes", [])
    scenes = tree.get("scenes") or [{"nodes": list(range(len(nodes)))}]
    waiting = [(_index(root, nodes), np.eye(4), 0) for root in scenes[tree.get("scene", 0)].get("nodes", [])]
    visits = 0
    while waiting:
        node, above, depth = waiting.pop()
        visits += 1
        if visits > MAX_NODES or depth > MAX_DEPTH:
            raise InputError(f"The mesh has over {MAX_NODES:,} parts or {MAX_DEPTH} levels of them; join them.")
        transform = above @ _transform(node)
        if "mesh" in node:
            for primitive in _index(node["mesh"], meshes)["primitives"]:
                if primitive.get("mode", 4) == 4:
                    yield primitive, transform
        waiting += [(_index(child, nodes), transform, depth + 1) for child in node.get("children", ())]


def _transform(node: dict[str, Any]) -> np.ndarray:
    """[4, 4] of a node: its matrix, or translation, rotation and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), float)
    turn = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    result = np.eye(4)
    result[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), float).reshape(3)
    result[:3, 3] = np.array(node.get("translation", (0, 0, 0)), float).reshape(3)
    return result


def _triangle_count(tree: dict[str, Any], primitive: dict[str, Any]) -> int:
    entry = _index(primitive.get("indices", primitive["attributes"]["POSITION"]), tree["accessors"])
    points = _index(primitive["attributes"]["POSITION"], tree["accessors"])
    return max(_count(entry), _count(points)) // 3  # points that no face uses cost memory too


def _positions(tree: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    """[V, 3] float64."""
    accessor = tree["accessors"][index]
    scale = POSITION_TYPES[accessor["componentType"]][1] if accessor.get("normalized") else 1.0
    types = {code: kind for code, (kind, _) in POSITION_TYPES.items()}
    return _values(tree, binary, index, 3, types).astype(np.float64) / scale


def _values(tree: dict[str, Any], binary: bytes, index: int, width: int, types: dict[int, Any]) -> np.ndarray:
    """[count, width] view of the file's bytes."""
    accessor = tree["accessors"][index]
    if accessor.get("type") != {1: "SCALAR", 3: "VEC3"}[width] or "sparse" in accessor:
        raise ValueError("an accessor is sparse or of another type")
    view = _index(accessor["bufferView"], tree["bufferViews"])
    if view.get("buffer", 0) != 0 or "uri" in tree["buffers"][0]:
        raise ValueError("its data lie in another file")
    kind, count = np.dtype(types[accessor["componentType"]]), _count(accessor)
    stride = view.get("byteStride") or kind.itemsize * width
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    end = start + stride * (count - 1) + kind.itemsize * width
    if not count or min(start, stride) < 0 or stride > 252 or end > len(binary):
        raise ValueError("an accessor reaches beyond the file")
    return np.ndarray((count, width), kind, binary, start, (stride, kind.itemsize))


def _count(accessor: dict[str, Any]) -> int:
    if not isinstance(accessor["count"], int) or accessor["count"] < 0:
        raise ValueError("an accessor has no count")
    return accessor["count"]


def _index(number: Any, entries: list[Any]) -> Any:
    """An entry by its number, which JSON may give as anything."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(entries):
        raise ValueError(f"there is no entry {str(number)[:20]}")
    return entries[number]
