"""Draw the page's example pictures: the project's own renders of its procedural assets, with alpha.

    python examples/make_pictures.py [--out examples]

None of the (category, colour) pairs is among those held out of training (train/data/procedural/split.py).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # to run from a clone without installing

import gap3d_app  # noqa: E402, F401  before torch, because it says how torch's threads wait

# isort: split

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from train.data.procedural.spec import AssetSpec, build  # noqa: E402
from train.data.procedural.split import is_held_out  # noqa: E402
from train.data.views import condition_cameras, render_views  # noqa: E402

SIZE = 512  # pixels
PICTURES = {
    "chair": AssetSpec("chair", "red", "brown", kind="dining", parts=("high back",), seed=1),
    "penguin": AssetSpec("penguin", "navy", "orange", kind="adult", parts=("scarf",), seed=2),
    "teapot": AssetSpec("teapot", "teal", "gold", finish="glossy", seed=3),
    "truck": AssetSpec("truck", "yellow", "dark grey", finish="glossy", kind="dump", seed=4),
}


def draw(spec: AssetSpec) -> Image.Image:
    """The three-quarter view of an asset as RGBA with straight alpha."""
    mesh = build(spec)
    views = render_views(mesh, condition_cameras(spec.seed, 1, mesh), SIZE)
    rgb, alpha = views.rgb[0].float(), views.alpha[0].float()[..., None]
    straight = (rgb / alpha.clamp(min=1) * 255).clamp(0, 255)  # renders are premultiplied
    pixels = torch.cat([straight, alpha], dim=-1).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.numpy()), "RGBA")


def main() -> None:
    """Write one PNG per entry of PICTURES."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder (%(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, spec in PICTURES.items():
        assert not is_held_out(spec), f"{name} is held out of training"
        path = options.out / f"{name}.png"
        draw(spec).save(path, optimize=True)
        print("written:", path)


if __name__ == "__main__":
    main()
