"""Pack assets for training: meshes -> views, surface fields, captions, in chunks.

    python -m train.data.pack --out data/train --count 16000 --edits 4000 --workers 12
    python -m train.data.pack --out data/test --split test --count 500 --edits 150 --seed 1
    python -m train.data.pack --out data/train --glbs DIR

Without --glbs the assets are procedural. With it they are those of a folder of GLBs with a metadata.csv (captions
from there; labels that the procedural assets do not know are -1; no edit pairs) and join what is in --out.

A folder's procedural chunks are a function of its split, seed, views and numbers of assets, which meta.json holds: an
interrupted run with the same goes on where it stopped, a chunk that exists is left as it is, and others are refused.
Workers are processes; with CUDA they share the GPU, whose part of the
work (distance fields, rendering) is short.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from gap3d_app.errors import Gap3DError, InputError
from gap3d_app.estimate import cores
from gap3d_app.values import Mesh
from train.data.fields import surface_fields_of
from train.data.glb_reader import load_glb
from train.data.layout import SourceAsset, read_assets
from train.data.packed import quantized_surface
from train.data.procedural.captions import captions
from train.data.procedural.categories import CATEGORIES
from train.data.procedural.edits import reversed_edit, sample_edit, told_edits
from train.data.procedural.look import COLORS, FINISHES
from train.data.procedural.spec import AssetSpec, build, sample_spec
from train.data.views import condition_cameras, render_views

CHUNK = 64
AT_ONCE = {"cpu": 1, "cuda": 8}
"""Assets whose surfaces are measured together: a GPU that many workers share is waited for less often."""
WORKER_BYTES = 13 << 29
"""GPU memory of a worker, at most: its context, `AT_ONCE` lattices and a pass of `surface_fields_of`."""
TOLD = 3
"""Edits of an asset that are kept in words only, for the language model: nothing has to be built for them."""
CATEGORY_NAMES = sorted(CATEGORIES)
COLOR_NAMES, FINISH_NAMES = list(COLORS), list(FINISHES)


@dataclass(frozen=True)
class Job:
    """One chunk: `count` single assets from `first` on, edit pairs (two assets each), or `glbs`.

    `label` is a part of the file's name, for chunks that are not procedural.
    """

    out: str
    number: int
    kind: str
    first: int
    count: int
    seed: int
    split: str
    views: int
    label: str = ""
    glbs: tuple[SourceAsset, ...] = ()

    @property
    def path(self) -> Path:
        """The chunk's file."""
        return Path(self.out) / f"chunk-{self.label}{self.number:05d}.safetensors"


def chunk_specs(job: Job) -> tuple[list, list[dict]]:
    """The specs of a procedural chunk, and its edit pairs as indices into them, forth and, where words can, back."""
    if job.kind == "single":
        return [sample_spec(job.seed, i, job.split) for i in range(job.first, job.first + job.count)], []
    specs, pairs = [], []
    for i in range(job.first, job.first + job.count):
        source, target, instruction, changed = sample_edit(job.seed, i, job.split)
        first, second = len(specs), len(specs) + 1
        pairs.append({"source": first, "target": second, "instruction": instruction, "changed": changed})
        # the way back ends at a seen pair of category and colour, which is no test
        draws = np.random.default_rng([job.seed, i, 23])
        back = reversed_edit(source, target, changed, draws) if job.split == "train" else None
        if back:
            pairs.append({"source": second, "target": first, "instruction": back[0], "changed": back[1]})
        specs += [source, target]
    return specs, pairs


def chunk_told(job: Job, specs: list) -> list[list[list]]:
    """For every asset of a procedural training chunk, instructions and the specs that they lead to."""
    if job.split != "train":
        return [[] for _ in specs]
    draws = np.random.default_rng([job.seed, job.number, 24])
    return [[[text, target.to_dict()] for text, target in told_edits(spec, TOLD, draws)] for spec in specs]


def read_glb(asset: SourceAsset) -> tuple[Mesh, list[str], dict]:
    """Mesh, captions and description of an asset that was not made here; what is not known is ""."""
    row = {k.lower(): v or "" for k, v in asset.row.items()}
    names = (row.get("category", ""), row.get("name", ""))
    texts = list(asset.captions) or [next((n for n in names[::-1] if n), Path(asset.name).stem).replace("_", " ")]
    spec = {"category": next((n for n in names if n in CATEGORY_NAMES), names[0]), "caption": max(texts, key=len)}
    spec |= {k: row.get(k, "") for k in ("color", "secondary", "finish", "size", "style", "kind")}
    return load_glb(asset.path), texts, spec | {"parts": [], "seed": 0}


def label(name: str, names: list[str]) -> torch.Tensor:
    """[1] int16 number of a class, -1 for one that is not among `names`."""
    return torch.tensor([names.index(name) if name in names else -1], dtype=torch.int16)


def read_source(source: AssetSpec | SourceAsset) -> tuple[Mesh, list[str], dict]:
    """Mesh, captions and description of an asset that is built or read."""
    if isinstance(source, SourceAsset):
        return read_glb(source)
    return build(source), captions(source), source.to_dict()


def pack_assets(
    sources: Sequence[AssetSpec | SourceAsset], seeds: Sequence[int], views: int, device: str
) -> list[tuple[list[str], dict, dict[str, torch.Tensor]]]:
    """Captions, description and everything else that is stored of each asset.

    The last are tensors on `device` whose first axis is ragged for voxels, else 1.
    """
    read = [read_source(source) for source in sources]
    meshes = [mesh.to(device) for mesh, _, _ in read]
    packed = []
    for mesh, (_, texts, spec), seed, fields in zip(meshes, read, seeds, surface_fields_of(meshes), strict=True):
        pictures = render_views(mesh, condition_cameras(seed, views, mesh))
        row = {
            "views": pictures.rgb[None],
            "geometry": pictures.dense_targets()[None],
            **quantized_surface(fields),
            "counts": torch.tensor([len(fields)], dtype=torch.int32),
            "category": label(spec["category"], CATEGORY_NAMES),
            "color": label(spec["color"], COLOR_NAMES),
            "finish": label(spec["finish"], FINISH_NAMES),
        }
        packed.append((texts, spec, row))
    return packed


def default_workers() -> int:
    """A process for every core but one, as many as fit the GPUs' memory."""
    most = max(1, cores() - 1)
    if not torch.cuda.is_available():
        return most
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return max(1, min(most, sum(gpu.total_memory // WORKER_BYTES for gpu in gpus)))


def worker_processes():
    """How workers are started: forks of a process that has read the modules once and never touched a GPU."""
    multiprocessing = torch.multiprocessing
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.data.pack"])
    return context


def worker_device() -> str:
    """Workers share the GPUs in turn."""
    if not torch.cuda.is_available():
        return "cpu"
    number = sum(torch.multiprocessing.current_process()._identity)  # 0 in the main process
    return f"cuda:{number % torch.cuda.device_count()}"


def pack_chunk(job: Job) -> list[str]:
    """Build or read, measure and render the assets of one chunk; returns GLBs that failed, with the reason."""
    if job.path.exists():
        return []
    torch.set_num_threads(1)
    device = worker_device()
    sources, pairs = (job.glbs, []) if job.glbs else chunk_specs(job)
    # A file that cannot be used must not take others with it, so those come one by one.
    at_once = 1 if job.glbs else AT_ONCE[torch.device(device).type]
    packed, failed = [], []
    for first in range(0, len(sources), at_once):
        some = sources[first : first + at_once]
        seed = job.seed * 1_000_003 + job.number * CHUNK * 2 + first
        try:
            packed += pack_assets(some, range(seed, seed + len(some)), job.views, device)
        except Exception as error:
            if not job.glbs:  # a procedural asset that fails is a fault of the program
                raise
            failed.append(f"{some[0].name}: {error}")
    if packed:
        texts, specs, rows = zip(*packed, strict=True)
        told = [[] for _ in texts] if job.glbs else chunk_told(job, sources)
        side = {"captions": texts, "specs": specs, "pairs": pairs, "told": told}
        job.path.with_suffix(".json").write_text(json.dumps(side))
        part = job.path.with_suffix(".part")
        save_file({k: torch.cat([row[k] for row in rows]).cpu().contiguous() for k in rows[0]}, part)
        os.replace(part, job.path)
    return failed


def glb_jobs(glbs: Path, out: Path, split: str, count: int | None, seed: int, views: int) -> list[Job]:
    """Chunks of a folder of GLBs: rows of `split`, if the metadata says so, and of no other."""
    assets = [a for a in read_assets(glbs) if a.row.get("split") in (None, "", split)][:count]
    groups = [tuple(assets[i : i + CHUNK]) for i in range(0, len(assets), CHUNK)]
    name = f"{glbs.resolve().name}-"
    return [
        Job(str(out), n, "glb", n * CHUNK, len(group), seed, split, views, name, group)
        for n, group in enumerate(groups)
    ]


def procedural_jobs(out: Path, split: str, count: int, edits: int, seed: int, views: int) -> list[Job]:
    """Chunks of single assets, then of edit pairs."""
    jobs: list[Job] = []
    for kind, total, size in (("single", count, CHUNK), ("edit", edits, CHUNK // 2)):
        for first in range(0, total, size):
            jobs.append(Job(str(out), len(jobs), kind, first, min(size, total - first), seed, split, views))
    return jobs


def write_meta(out: Path, join: bool, **made: Any) -> None:
    """meta.json: names of the labels, and what the chunks are a function of; a folder that is joined keeps its own.

    Args:
        join: whether what comes was made elsewhere, so that only its `views` must be those of the folder.
        **made: views, and of procedural assets split, seed, count and edits.

    Raises:
        InputError: the folder's assets were made in another way.
    """
    path = out / "meta.json"
    if path.exists():
        there = json.loads(path.read_text())
        for name in ["views"] if join else made:
            if there.get(name, made[name]) != made[name]:
                raise InputError(
                    f"{out} holds assets made with --{name} {there[name]}, not {made[name]}; "
                    "pass that, or another --out."
                )
        if join:
            return
    names = {"categories": CATEGORY_NAMES, "colors": COLOR_NAMES, "finishes": FINISH_NAMES}
    path.write_text(json.dumps({**names, **made}))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--glbs", type=Path, help="folder of GLBs with metadata.csv, instead of procedural assets")
    parser.add_argument("--count", type=int, help="single assets (default: 1000, or all GLBs)")
    parser.add_argument("--edits", type=int, default=0, help="edit pairs (two assets each)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "test", "val"), default="train")
    parser.add_argument("--views", type=int, default=4, help="condition views per asset, the canonical one first")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: by cores and GPUs)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        if args.glbs:
            jobs, made = glb_jobs(args.glbs, args.out, args.split, args.count, args.seed, args.views), {}
        else:
            count = 1000 if args.count is None else args.count
            jobs = procedural_jobs(args.out, args.split, count, args.edits, args.seed, args.views)
            made = {"split": args.split, "seed": args.seed, "count": count, "edits": args.edits}
        write_meta(args.out, join=args.glbs is not None, views=args.views, **made)
    except Gap3DError as error:
        print(error, file=sys.stderr)
        return 2
    failed: list[str] = []
    workers = min(args.workers, len(jobs))
    if workers > 1:
        with worker_processes().Pool(workers) as pool:
            # edit pairs, which are few and everybody needs, come first
            for part in tqdm(pool.imap_unordered(pack_chunk, jobs[::-1]), total=len(jobs), desc=args.out.name):
                failed += part
    else:
        for job in tqdm(jobs, desc=args.out.name):
            failed += pack_chunk(job)
    for line in failed:
        print(line, file=sys.stderr)
    total = sum(f.stat().st_size for f in args.out.glob("chunk-*.safetensors"))
    assets = sum(job.count * (2 if job.kind == "edit" else 1) for job in jobs) - len(failed)
    print(f"{args.out}: {len(jobs)} chunks, {assets} assets, {total / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
