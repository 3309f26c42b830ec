"""UV atlases: six-way box projection (fast) and xatlas (tighter, slower)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gap3d_app.geometry.topology import components, face_cross, face_neighbors, normalized

# Six directions and, for each, the two image axes as signed unit vectors; (u, v, direction) is right-handed,
# so no chart is mirrored.
_DIRECTIONS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=np.float64)
_U = np.array([[0, 1, 0], [0, -1, 0], [-1, 0, 0], [1, 0, 0], [1, 0, 0], [-1, 0, 0]], dtype=np.float64)
_V = np.cross(_DIRECTIONS, _U)


@dataclass
class Atlas:
    """Texture coordinates of a mesh whose vertices are split at chart borders.

    Attributes:
        source: [W] int64 index of the mesh vertex that each atlas vertex copies.
        faces: [F, 3] int64 into atlas vertices; same order and winding as the mesh's faces.
        uv: [W, 2] float64 in 0..1, origin at the top left corner of the picture (glTF).
        charts: number of charts.
    """

    source: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    charts: int


def unwrap(
    vertices: np.ndarray, faces: np.ndarray, size: int, method: str = "box", padding: int = 1
) -> Atlas:
    """Lay a mesh out on a square texture.

    Args:
        vertices: [V, 3]; faces: [F, 3].
        size: texture edge length in texels.
        method: "box" or "xatlas".
        padding: free texels around every chart.

    Raises:
        ValueError: unknown method.
    """
    if method == "box":
        return box_unwrap(vertices, faces, size, padding)
    if method == "xatlas":
        return xatlas_unwrap(vertices, faces, size, padding)
    raise ValueError(f"unwrap must be 'box' or 'xatlas', got {method!r}")


def box_unwrap(vertices: np.ndarray, faces: np.ndarray, size: int, padding: int = 1) -> Atlas:
    """Project every connected patch of faces along the axis it faces most and pack the patches."""
    vertices = np.asarray(vertices, dtype=np.float64)
    pairs = face_neighbors(faces)
    direction = _face_directions(vertices, faces, pairs)
    inside_chart = pairs[direction[pairs[:, 0]] == direction[pairs[:, 1]]]
    charts, chart = components(len(faces), inside_chart)
    chart = chart.astype(np.int64)
    key, inverse = np.unique(chart[:, None] * len(vertices) + faces, return_inverse=True)
    atlas_faces = inverse.reshape(-1, 3)
    source, owner = key % len(vertices), key // len(vertices)
    axis = np.zeros(charts, dtype=np.int64)
    axis[chart] = direction
    point = vertices[source]
    # v runs down the picture, hence the sign
    flat = np.stack(
        [np.einsum("ij,ij->i", point, _U[axis[owner]]), -np.einsum("ij,ij->i", point, _V[axis[owner]])], axis=1
    )
    starts = np.searchsorted(owner, np.arange(charts))
    low = np.minimum.reduceat(flat, starts, axis=0)
    extent = np.maximum.reduceat(flat, starts, axis=0) - low
    flat -= low[owner]
    # Lay every chart down on its longer side: shelves of similar height waste least.
    turned = extent[:, 1] > extent[:, 0]
    turn = turned[owner]
    flat[turn] = np.stack([extent[owner[turn], 1] - flat[turn, 1], flat[turn, 0]], axis=1)
    extent[turned] = extent[turned, ::-1]
    scale, corner = _pack(extent, size, padding)
    uv = (corner[owner] + padding + 0.5 + flat * scale) / size
    return Atlas(source, atlas_faces, uv, int(charts))


def _face_directions(vertices: np.ndarray, faces: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[F] index of the direction each face is projected along; faces and small patches follow their neighbours."""
    fit = normalized(face_cross(vertices, faces)) @ _DIRECTIONS.T
    label = fit.argmax(1)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    for _ in range(6):
        votes = np.bincount(both[:, 0] * 6 + label[both[:, 1]], minlength=len(faces) * 6).reshape(-1, 6)
        # A face must not be seen edge-on, or its texels smear.
        score = np.where(fit > 0.25, fit + 0.5 * votes, fit - 10)
        changed = score.argmax(1)
        if (changed == label).all():
            break
        label = changed
    for least in (4, 8, 16, 24):
        label = _absorb_small(fit, label, both, least)
    return label


def _absorb_small(fit: np.ndarray, label: np.ndarray, both: np.ndarray, least: int) -> np.ndarray:
    """Turn patches of fewer than `least` faces to the direction most of their border has, where they can be seen."""
    inside = label[both[:, 0]] == label[both[:, 1]]
    count, patch = components(len(label), both[inside])
    small = np.bincount(patch, minlength=count) < least
    border = both[~inside]
    border = border[small[patch[border[:, 0]]]]
    votes = np.bincount(patch[border[:, 0]] * 6 + label[border[:, 1]], minlength=count * 6).reshape(-1, 6)
    worst = np.full((count, 6), np.inf)
    np.minimum.at(worst, patch, fit)
    score = np.where(worst > 0.12, votes, -1)
    wanted = score.argmax(1)
    # Neighbouring small patches must not swap directions for ever: only the smaller index of a pair yields.
    move = small & (score.max(1) > 0)
    rival = np.zeros(count, dtype=bool)
    meet = (move[patch[border[:, 1]]]) & (patch[border[:, 1]] < patch[border[:, 0]])
    rival[patch[border[meet, 0]]] = True
    move &= ~rival
    return np.where(move[patch], wanted[patch], label)


def _pack(extent: np.ndarray, size: int, padding: int) -> tuple[float, np.ndarray]:
    """Largest scale (texels per unit) at which all rectangles fit on shelves, and their corners [R, 2]."""
    margin = 1 + 2 * padding
    order = np.lexsort((-extent[:, 0], -extent[:, 1]))

    def corners_at(scale: float) -> np.ndarray | None:
        return _shelves(np.ceil(extent * scale).astype(np.int64) + margin, order, size)

    longest = max(float(extent.max(initial=0.0)), 1e-9)
    area = max(float((extent[:, 0] * extent[:, 1]).sum()), 1e-18)
    high = min((size - margin) / longest, size / np.sqrt(area))
    low, best = high, corners_at(high)
    while best is None and low * longest > 1.0:
        low, high = low * 0.8, low
        best = corners_at(low)
    if best is None:  # more charts than a texture of this size can hold apart
        side = int(np.ceil(np.sqrt(len(extent))))
        grid = np.stack(np.divmod(np.arange(len(extent)), side), axis=1)
        return 1.0 / longest, grid * (size - margin) // side
    for _ in range(6):
        middle = (low + high) / 2
        found = corners_at(middle)
        if found is None:
            high = middle
        else:
            low, best = middle, found
    return low, best


def _shelves(boxes: np.ndarray, order: np.ndarray, size: int) -> np.ndarray | None:
    """Top left corners [R, 2] of boxes [R, 2] set row by row in `order` (by height), None if they do not fit."""
    corner = np.empty_like(boxes)
    x = y = height = 0
    for index, (w, h) in zip(order.tolist(), boxes[order].tolist(), strict=True):
        if x + w > size:
            x, y, height = 0, y + height, 0
        height = max(height, h)
        if y + height > size or w > size:
            return None
        corner[index] = (x, y)
        x += w
    return corner


def xatlas_unwrap(vertices: np.ndarray, faces: np.ndarray, size: int, padding: int = 1) -> Atlas:
    """Angle-preserving charts by xatlas; seconds for 10,000 faces."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32))
    options = xatlas.PackOptions()
    options.padding = 2 * padding
    options.resolution = size
    options.bilinear = True
    atlas.generate(pack_options=options)
    source, atlas_faces, uv = atlas[0]
    # Pages after the first would share its texels; one page is what `resolution` without a texel size gives.
    square = max(atlas.width, atlas.height)
    uv = uv.astype(np.float64) * np.array([atlas.width, atlas.height]) / square
    return Atlas(source.astype(np.int64), atlas_faces.astype(np.int64), uv, int(atlas.chart_count))
