"""A GLB with colours at its vertices: small, and without a texture.

glTF colours at vertices are linear, 16 bits here so that dark colours keep their steps; the file is Y-up with
its front towards +Z.
"""

import json
import struct

import numpy as np


def _padded(data: bytes, fill: bytes) -> bytes:
    return data + fill * (-len(data) % 4)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB 0..1 to linear light 0..1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def glb_bytes(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, extras: dict | None = None) -> bytes:
    """The file's bytes: vertices [V, 3] Z-up, faces [F, 3], colors [V, 3] sRGB 0..1, extras for the asset."""
    position = np.ascontiguousarray(np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], 1), dtype="<f4")
    color = np.full((len(vertices), 4), 65535, dtype="<u2")
    color[:, :3] = np.round(to_linear(np.clip(colors, 0, 1)) * 65535)
    index = np.ascontiguousarray(faces, dtype="<u4")
    blocks = [position.tobytes(), color.tobytes(), index.tobytes()]
    views, start = [], 0
    for block, target in zip(blocks, (34962, 34962, 34963), strict=True):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(block), "target": target})
        start += len(block)
    document = {
        "asset": {"version": "2.0", "generator": "gap3d", "extras": extras or {}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(position), "type": "VEC3",
             "min": position.min(0).tolist(), "max": position.max(0).tolist()},
            {"bufferView": 1, "componentType": 5123, "count": len(color), "type": "VEC4", "normalized": True},
            {"bufferView": 2, "componentType": 5125, "count": index.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": start}],
    }
    text = _padded(json.dumps(document, separators=(",", ":")).encode(), b" ")
    body = _padded(b"".join(blocks), b"\0")
    total = 12 + 8 + len(text) + 8 + len(body)
    return (struct.pack("<III", 0x46546C67, 2, total) + struct.pack("<II", len(text), 0x4E4F534A) + text
            + struct.pack("<II", len(body), 0x004E4942) + body)
