"""GAP3D: text, an image, or both, to a textured 3D asset.

    from gap3d_app import Gap3DPipeline
    pipe = Gap3DPipeline.from_pretrained("gap3d-mini")
    pipe(prompt="a red chair", seed=0).save("chair.glb")

Importing this package loads nothing heavy; torch comes with the first use of `Gap3DPipeline`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# OpenMP threads that spin while they wait make small networks ten times slower as soon as another process wants
# the same cores. Read when torch loads, so it is set before; a value of the user's own stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Gap3DPipeline": "gap3d_app.pipeline",
    "StageEvent": "gap3d_app.pipeline",
    "Asset": "gap3d_app.asset",
    "Settings": "gap3d_app.settings",
    "Gap3DError": "gap3d_app.errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gap3d_app' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
