"""Export of a coloured mesh as a textured GLB (glTF 2.0).

glTF is Y-up with the front on +Z, left +X, in metres. Object space is Z-up with the front on -Y, so
(x, y, z) becomes (x, z, -y).
"""

from __future__ import annotations

import io
import json
import os
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from gap3d_app.errors import InputError
from gap3d_app.geometry.bake import ColorFn
from gap3d_app.geometry.textured import textured
from gap3d_app.geometry.topology import corner_normals, is_watertight
from gap3d_app.output import write_atomic
from gap3d_app.values import Mesh

GENERATOR = "gap3d"
_ARRAY, _ELEMENTS = 34962, 34963  # buffer view targets of vertex data and indices
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125


@dataclass
class GlbFacts:
    """What was written.

    Attributes:
        faces, vertices: counts in the file; vertices are split at charts and creases.
        charts: UV charts.
        texture_size: texels per side.
        size_m: extent along x, y, z in metres.
        watertight: whether the surface is closed (before the split of vertices).
        bytes: file size.
    """

    faces: int
    vertices: int
    charts: int
    texture_size: int
    size_m: list[float] = field(default_factory=list)
    watertight: bool = False
    bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values."""
        return asdict(self)


def to_gltf_axes(points: np.ndarray) -> np.ndarray:
    """(x, y, z) -> (x, z, -y) for positions or directions [N, 3]."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], axis=1)


def placement(points: np.ndarray, scale_m: float, height_m: float | None) -> tuple[float, np.ndarray]:
    """Scale and shift that put Y-up points [N, 3] in metres, centred in x and z, with the base on the ground."""
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    scale = scale_m
    if height_m is not None:
        scale = height_m / max(float(high[1] - low[1]), 1e-9)
    middle = (low + high) / 2
    return scale, -np.array([middle[0], low[1], middle[2]]) * scale


def export_glb(
    mesh: Mesh,
    path: str | os.PathLike,
    *,
    target_faces: int = 10_000,
    unwrap: str = "box",
    texture_size: int = 1024,
    texture_format: str = "jpeg",
    roughness: float = 0.8,
    scale_m: float = 1.0,
    height_m: float | None = None,
    recipe: dict[str, Any] | None = None,
    color_fn: ColorFn | None = None,
    clean: bool = True,
) -> GlbFacts:
    """Simplify, unwrap, bake and write a mesh. The same arguments give the same bytes.

    Args:
        mesh: dense mesh in object space; its colours are baked unless color_fn is given.
        path: target file; replaced as a whole or not at all.
        target_faces: triangles to keep, at least 4.
        unwrap: "box" (fast) or "xatlas" (tighter charts, slower).
        texture_size: texels per side, 64 to 4096, a power of two.
        texture_format: "jpeg" or "png" (lossless, larger).
        roughness: roughness factor 0..1; the metallic factor is always 0.
        scale_m: metres per unit of object space.
        height_m: height in metres; overrides scale_m.
        recipe: JSON-ready values stored in asset.extras.recipe.
        color_fn: rgb [P, 3] in 0..1 for points [P, 3] in object space.
        clean: drop connected parts below 0.5% of the area.

    Raises:
        GenerationError: the mesh is empty or not finite.
        InputError: a setting is out of range.
        OutputError: the file cannot be written.
    """
    _check_settings(target_faces, unwrap, texture_size, texture_format, roughness, scale_m, height_m)
    made = textured(mesh, target_faces, texture_size, unwrap, color_fn, clean)
    points, triangles, atlas = made.points, made.faces, made.atlas
    normals = corner_normals(points.astype(np.float64), triangles)
    source, index, normal = _split_at_creases(atlas.faces, normals)
    uv = atlas.uv[source]
    raw = to_gltf_axes(points.astype(np.float64))
    scale, shift = placement(raw, scale_m, height_m)
    position = (raw * scale + shift).astype(np.float32)
    position[:, 1] = np.maximum(position[:, 1], 0)
    content = pack_glb(
        position[atlas.source[source]],
        to_gltf_axes(normal).astype(np.float32),
        uv.astype(np.float32),
        index,
        _encode(made.picture, texture_format),
        f"image/{texture_format}",
        roughness,
        recipe,
    )
    write_atomic(path, content)
    extent = position.max(0) - position.min(0)
    return GlbFacts(
        faces=len(triangles),
        vertices=len(source),
        charts=atlas.charts,
        texture_size=texture_size,
        size_m=[round(float(x), 6) for x in extent],
        watertight=is_watertight(triangles),
        bytes=len(content),
    )


def _check_settings(
    target_faces: int,
    unwrap: str,
    texture_size: int,
    texture_format: str,
    roughness: float,
    scale_m: float,
    height_m: float | None,
) -> None:
    if not 4 <= target_faces <= 10_000_000:
        raise InputError(f"The number of faces must be between 4 and 10,000,000, not {target_faces}.")
    if unwrap not in ("box", "xatlas"):
        raise InputError(f"The unwrapping must be box or xatlas, not {unwrap!r}.")
    if texture_size not in (64, 128, 256, 512, 1024, 2048, 4096):
        raise InputError(f"The texture size must be a power of two from 64 to 4096, not {texture_size}.")
    if texture_format not in ("jpeg", "png"):
        raise InputError(f"The texture format must be jpeg or png, not {texture_format!r}.")
    if not 0 <= roughness <= 1:
        raise InputError(f"The roughness must be between 0 and 1, not {roughness}.")
    size = scale_m if height_m is None else height_m
    if not 1e-4 <= size <= 1e5:
        raise InputError(f"The size must be between 0.0001 and 100,000 metres, not {size}.")


def _split_at_creases(faces: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices of the file: one per atlas vertex and distinct corner normal.

    Returns:
        source [W] into atlas vertices, index [F, 3] into the W rows, normal [W, 3].
    """
    flat = normals.reshape(-1, 3)
    # Corners of one smooth fan agree to rounding; a coarse key merges them and keeps creases apart.
    step = np.rint((flat + 1) * 512).astype(np.int64)
    key = ((faces.reshape(-1) * 1025 + step[:, 0]) * 1025 + step[:, 1]) * 1025 + step[:, 2]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return faces.reshape(-1)[first], inverse.reshape(-1, 3), flat[first]


def _encode(picture: np.ndarray, texture_format: str) -> bytes:
    """The texture as a JPEG (full chroma) or PNG file."""
    stream = io.BytesIO()
    image = Image.fromarray(picture)
    if texture_format == "jpeg":
        image.save(stream, "JPEG", quality=93, subsampling=0)
    else:
        image.save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def pack_glb(
    position: np.ndarray,
    normal: np.ndarray,
    uv: np.ndarray,
    index: np.ndarray,
    picture: bytes,
    mime_type: str,
    roughness: float,
    recipe: dict[str, Any] | None = None,
) -> bytes:
    """A GLB container with one mesh, one material and one embedded picture.

    Args:
        position, normal: [W, 3] float32; uv: [W, 2] float32; index: [F, 3] integers.
        picture: encoded texture; mime_type: image/png or image/jpeg.
        recipe: stored in asset.extras.recipe if given.
    """
    small = len(position) < 65536
    indices = index.reshape(-1).astype(np.uint16 if small else np.uint32)
    blocks = [
        (indices.tobytes(), _ELEMENTS),
        (np.ascontiguousarray(position, np.float32).tobytes(), _ARRAY),
        (np.ascontiguousarray(normal, np.float32).tobytes(), _ARRAY),
        (np.ascontiguousarray(uv, np.float32).tobytes(), _ARRAY),
        (picture, None),
    ]
    views, binary = [], bytearray()
    for data, target in blocks:
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        views.append(view)
        binary += data + b"\0" * (-len(data) % 4)
    count = len(position)
    low, high = position.min(0).tolist(), position.max(0).tolist()
    asset: dict[str, Any] = {"version": "2.0", "generator": GENERATOR}
    if recipe is not None:
        asset["extras"] = {"recipe": recipe}
    document = {
        "asset": asset,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "asset"}],
        "meshes": [
            {
                "name": "asset",
                "primitives": [
                    {"attributes": {"POSITION": 1, "NORMAL": 2, "TEXCOORD_0": 3}, "indices": 0, "material": 0}
                ],
            }
        ],
        "materials": [
            {
                "name": "surface",
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0,
                    "roughnessFactor": round(float(roughness), 4),
                },
            }
        ],
        "textures": [{"sampler": 0, "source": 0}],
        # linear with mipmaps, clamped at the border
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": 4, "mimeType": mime_type, "name": "base_color"}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _UINT16 if small else _UINT32,
                "count": len(indices),
                "type": "SCALAR",
            },
            {"bufferView": 1, "componentType": _FLOAT, "count": count, "type": "VEC3", "min": low, "max": high},
            {"bufferView": 2, "componentType": _FLOAT, "count": count, "type": "VEC3"},
            {"bufferView": 3, "componentType": _FLOAT, "count": count, "type": "VEC2"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            bytes(binary),
        ]
    )


def read_recipe(path: str | os.PathLike) -> dict[str, Any] | None:
    """The recipe stored in a GLB, or None.

    Raises:
        InputError: the file is not a GLB.
    """
    with open(path, "rb") as file:
        head = file.read(20)
        if len(head) < 20 or head[:4] != b"glTF" or head[16:20] != b"JSON":
            raise InputError(f"{os.fspath(path)} is not a GLB file.")
        document = json.loads(file.read(struct.unpack("<I", head[12:16])[0]))
    return document.get("asset", {}).get("extras", {}).get("recipe")
