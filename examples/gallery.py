"""Make the pictures of the README: eight prompts, and four pictures with words; seed 0, nothing selected.

    python examples/gallery.py [--weights gap3d-mini] [--out docs/images]

Every result is a render of the exported GLB, texture included: what a viewer shows.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # to run from a clone without installing

from gap3d_app import Gap3DPipeline  # noqa: E402  before torch, because it says how torch's threads wait

# isort: split

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import trimesh  # noqa: E402
from PIL import Image  # noqa: E402

from gap3d_app.geometry.cameras import orbit_camera, project  # noqa: E402
from gap3d_app.render.mesh import rasterize, render_mesh  # noqa: E402
from gap3d_app.render.pictures import contact_sheet, to_image  # noqa: E402
from gap3d_app.values import Mesh  # noqa: E402

PROMPTS = (
    "a small red toy airplane", "a blue chair", "a yellow school bus", "a wooden treasure chest",
    "a white robot dog", "a teapot", "a tall lighthouse", "a green armchair",
)
EDITS = {"penguin": "make it green", "truck": "make it blue", "chair": "a taller one", "teapot": "make it red"}
CELL, SAMPLES = 256, 3  # pixels per side of a tile, samples per side of a pixel
MARGIN = 1.12  # side of a tile over the longer side of the object in it


def render_glb(path: Path, size: int = CELL, samples: int = SAMPLES) -> Image.Image:
    """A textured GLB from the front three-quarter view on white, as large as it fits."""
    scene = trimesh.load(path, file_type="glb", force="mesh", process=False)
    points = torch.from_numpy(np.array(scene.vertices, np.float32))
    points = torch.stack([points[:, 0], -points[:, 2], points[:, 1]], dim=-1)  # Y up to Z up, front to -Y
    low, high = points.amin(0), points.amax(0)
    points = (points - (low + high) / 2) / (high - low).amax()
    faces = torch.from_numpy(np.array(scene.faces, np.int64))
    extrinsics, intrinsics = (value[None] for value in orbit_camera(math.pi - 0.6, 0.35, 2.3, 36.0))
    uv = project(points, extrinsics, intrinsics)[0][0]  # crop to the object, with a margin
    middle, side = (uv.amin(0) + uv.amax(0)) / 2, (uv.amax(0) - uv.amin(0)).max() * MARGIN
    intrinsics[0, :2, 2] += 0.5 * side - middle
    intrinsics[0, :2] /= side
    raster = rasterize(points, faces, extrinsics, intrinsics, size * samples)

    seen = raster.mask[0]
    texture = np.asarray(scene.visual.material.baseColorTexture.convert("RGB"), np.float32) / 255
    corners = torch.from_numpy(np.array(scene.visual.uv, np.float32))[faces[raster.face_id[0][seen]]]
    uv = (corners * raster.bary[0][seen][..., None]).sum(1)
    at = torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=-1) * 2 - 1  # trimesh counts v from below
    albedo = F.grid_sample(torch.from_numpy(texture).movedim(-1, 0)[None], at[None, None], align_corners=False)[0, :, 0]

    # A white mesh gives the light at every sample; the texture gives the colour under it.
    normals = torch.from_numpy(np.array(scene.vertex_normals, np.float32))
    normals = torch.stack([normals[:, 0], -normals[:, 2], normals[:, 1]], dim=-1)
    white = Mesh(points, faces, torch.ones_like(points), normals)
    picture = render_mesh(white, extrinsics, intrinsics, size * samples, smooth=True, raster=raster,
                          ambient=0.6, diffuse=0.45, background=(1.0, 1.0, 1.0))[0, ..., :3]
    picture[seen] *= albedo.T
    return to_image(picture.clamp(0, 1)).resize((size, size), Image.Resampling.BOX)


def picture_tile(name: str, size: int = CELL) -> Image.Image:
    """An example picture on white."""
    with Image.open(Path(__file__).parent / f"{name}.png") as image:
        image = image.convert("RGBA").resize((size, size))
    tile = Image.new("RGBA", image.size, "white")
    tile.alpha_composite(image)
    return tile.convert("RGB")


def main() -> None:
    """Generate, export, render, and lay the tiles out in rows of four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="gap3d-mini", help="name or folder (%(default)s)")
    parser.add_argument("--preset", default="standard", help="fast or standard (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (%(default)s)")
    options = parser.parse_args()
    pipeline = Gap3DPipeline.from_pretrained(options.weights)

    def made(prompt: str, image: Path | None = None) -> Image.Image:
        with tempfile.TemporaryDirectory() as folder:
            pipeline(prompt, image, seed=0, preset=options.preset).save(path := Path(folder) / "made.glb")
            print("made:", prompt)
            return render_glb(path)

    options.out.mkdir(parents=True, exist_ok=True)
    gallery = contact_sheet([made(prompt) for prompt in PROMPTS], PROMPTS, columns=4, cell=CELL)
    gallery.save(options.out / "gallery.png", optimize=True)
    results = [made(words, Path(__file__).parent / f"{name}.png") for name, words in EDITS.items()]
    pictures = [picture_tile(name) for name in EDITS]
    edits = contact_sheet([*pictures, *results], [*("" for _ in pictures), *EDITS.values()], columns=4, cell=CELL)
    edits.save(options.out / "edits.png", optimize=True)


if __name__ == "__main__":
    main()
