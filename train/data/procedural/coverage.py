"""How much of what is seen of an asset wears which paint."""

import numpy as np

from train.data.procedural.builder import rotation
from train.data.procedural.spec import Assembly

_GRID = 56


def visible_shares(asset: Assembly, views: int = 8, points: int = 12000) -> dict[str, float]:
    """Share of the visible surface per paint name, from points splatted in views around the object."""
    v, f = asset.vertices, asset.faces
    a, b, c = v[f[:, 0]], v[f[:, 1]], v[f[:, 2]]
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    r = np.random.default_rng(0)
    face = r.choice(len(f), points, p=area / area.sum())
    u = r.random((points, 2))
    u[u.sum(1) > 1] = 1 - u[u.sum(1) > 1]
    p = a[face] + u[:, :1] * (b - a)[face] + u[:, 1:] * (c - a)[face]
    seen = np.zeros(len(asset.paints))
    for k in range(views):
        q = p @ rotation(z=360.0 * k / views + 20).T
        q = q @ rotation(x=30.0 if k % 2 else 10.0).T  # the eye looks along +y, a little from above
        cell = np.floor((q[:, [0, 2]] + 0.9) * (_GRID / 1.8)).astype(int)
        cell = np.clip(cell, 0, _GRID - 1) @ np.array([1, _GRID])
        order = np.lexsort((q[:, 1], cell))
        first = order[np.r_[True, cell[order][1:] != cell[order][:-1]]]
        seen += np.bincount(asset.paint[face[first]], minlength=len(seen))
    return dict(zip(asset.paints, seen / seen.sum(), strict=True))
