"""Pack procedural assets for training: meshes -> views, surface fields, captions, in chunks.

    python -m train.data.pack --out data/train --count 16000 --edits 4000 --workers 12
    python -m train.data.pack --out data/test --split test --count 500 --edits 150 --seed 1

Chunk k of a folder is a function of (seed, split, k) alone: an interrupted run goes on where it stopped, and
a chunk that exists is left as it is. Workers are processes; with CUDA they share the GPU, whose part of the
work (distance fields, rendering) is short.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from train.data.fields import surface_fields
from train.data.procedural.captions import captions
from train.data.procedural.categories import CATEGORIES
from train.data.procedural.edits import sample_edit
from train.data.procedural.look import COLORS, FINISHES
from train.data.procedural.spec import build, sample_spec
from train.data.views import condition_cameras, render_views

CHUNK = 64
CATEGORY_NAMES = sorted(CATEGORIES)
COLOR_STEP = 2  # colours are kept on every second lattice corner


@dataclass(frozen=True)
class Job:
    """One chunk: `count` single assets from `first` on, or edit pairs (two assets each)."""

    out: str
    number: int
    kind: str
    first: int
    count: int
    seed: int
    split: str
    views: int


def chunk_specs(job: Job) -> tuple[list, list[dict]]:
    """The specs of a chunk, and its edit pairs as indices into them."""
    if job.kind == "single":
        return [sample_spec(job.seed, i, job.split) for i in range(job.first, job.first + job.count)], []
    specs, pairs = [], []
    for i in range(job.first, job.first + job.count):
        source, target, instruction, changed = sample_edit(job.seed, i, job.split)
        index = {"source": len(specs), "target": len(specs) + 1}
        pairs.append({**index, "instruction": instruction, "changed": changed})
        specs += [source, target]
    return specs, pairs


def pack_chunk(job: Job) -> str:
    """Build, measure and render the assets of one chunk; returns the file's name."""
    path = Path(job.out) / f"chunk-{job.number:05d}.safetensors"
    if path.exists():
        return path.name
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    specs, pairs = chunk_specs(job)
    arrays: dict[str, list[torch.Tensor]] = {}
    for k, spec in enumerate(specs):
        mesh = build(spec).to(device)
        fields = surface_fields(mesh, device=device)
        seed = job.seed * 1_000_003 + job.number * CHUNK * 2 + k
        views = render_views(mesh, condition_cameras(seed, job.views, mesh))
        colors = fields.colors.view(-1, 5, 5, 5, 3)[:, ::COLOR_STEP, ::COLOR_STEP, ::COLOR_STEP]
        row = {
            "views": views.rgb[None],
            "normals": views.dense_targets()[None],
            "coords": fields.coords.to(torch.uint8),
            "sdf": (fields.sdf.float() * 127).round().to(torch.int8),
            "colors": colors.reshape(len(colors), -1, 3),
            "counts": torch.tensor([len(fields.coords)], dtype=torch.int32),
            "category": torch.tensor([CATEGORY_NAMES.index(spec.category)], dtype=torch.int16),
            "color": torch.tensor([list(COLORS).index(spec.color)], dtype=torch.int16),
            "finish": torch.tensor([list(FINISHES).index(spec.finish)], dtype=torch.int16),
        }
        for key, value in row.items():
            arrays.setdefault(key, []).append(value.cpu())
    side = {
        "captions": [captions(s) for s in specs],
        "specs": [s.to_dict() for s in specs],
        "pairs": pairs,
    }
    path.with_suffix(".json").write_text(json.dumps(side))
    part = path.with_suffix(".part")
    save_file({k: torch.cat(v).contiguous() for k, v in arrays.items()}, part)
    os.replace(part, path)
    return path.name


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000, help="single assets")
    parser.add_argument("--edits", type=int, default=0, help="edit pairs (two assets each)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--views", type=int, default=5, help="condition views per asset, the canonical one first")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = {"categories": CATEGORY_NAMES, "colors": list(COLORS), "finishes": list(FINISHES)}
    (args.out / "meta.json").write_text(json.dumps({**names, "views": args.views, "seed": args.seed}))
    jobs: list[Job] = []
    for kind, total, size in (("single", args.count, CHUNK), ("edit", args.edits, CHUNK // 2)):
        for first in range(0, total, size):
            count = min(size, total - first)
            jobs.append(
                Job(str(args.out), len(jobs), kind, first, count, args.seed, args.split, args.views)
            )
    if args.workers > 1:
        with torch.multiprocessing.get_context("spawn").Pool(args.workers) as pool:
            for _ in tqdm(pool.imap_unordered(pack_chunk, jobs), total=len(jobs), desc=args.out.name):
                pass
    else:
        for job in tqdm(jobs, desc=args.out.name):
            pack_chunk(job)
    sizes = np.array([f.stat().st_size for f in args.out.glob("chunk-*.safetensors")])
    print(f"{args.out}: {len(jobs)} chunks, {args.count + 2 * args.edits} assets, {sizes.sum() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
