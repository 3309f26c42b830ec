"""Prepare any folder of GLBs for training, in TRELLIS's folder layout (see layout.py).

    python -m train.data.procedural --count 1000 --out data/assets
    python -m train.data.prepare --glbs data/assets --out data/prepared --encoder weights/gap3d-mini
    python -m train.data.prepare --glbs DIR --out data/prepared --steps render voxelize --rank 0 --world_size 4

The folder of GLBs has a metadata.csv (columns sha256, local_path, captions; or file, caption). What exists is
skipped, so an interrupted run goes on where it stopped. Several processes share the assets by --rank and
--world_size; the step `metadata` then brings their records together (one process alone does that by itself).
A GLB that cannot be used is named at the end and does not stop the run.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from gap3d_app.errors import Gap3DError, OutputError
from train.data.layout import SourceAsset, merge_metadata, read_assets, share, write_records
from train.data.steps import STEPS, Context


def run_step(name: str, assets: list[SourceAsset], ctx: Context, rank: int = 0) -> dict[str, str]:
    """Run one step over `assets`; writes its records and returns why assets failed, by name.

    Raises:
        OutputError: the output cannot be written.
    """
    step = STEPS[name]
    failed: dict[str, str] = {}
    rows = []
    for asset in tqdm(assets, desc=name):
        target = step.target(ctx, asset.sha256)
        missing = [n for n in step.needs if not STEPS[n].target(ctx, asset.sha256).exists()]
        try:
            if not target.exists():
                if missing:
                    failed[asset.name] = f"{name} needs {' and '.join(missing)} first"
                    continue
                with torch.no_grad():
                    step.run(asset, ctx)
        except OutputError:
            raise
        except Exception as error:  # whatever is wrong with one asset, the others go on
            failed[asset.name] = f"{name}: {error}"
            continue
        rows.append({"sha256": asset.sha256, **step.columns(ctx, target)})
    write_records(ctx.out, name, rank, rows)
    return failed


def prepare(
    glbs: Path, ctx: Context, steps: list[str], rank: int = 0, world_size: int = 1, count: int | None = None
) -> dict[str, str]:
    """Run `steps` (names of STEPS, or metadata) over a folder; returns why assets failed, by name.

    Raises:
        Gap3DError: no metadata.csv, missing weights, or an output folder that cannot be written.
    """
    assets = read_assets(glbs)[:count]
    try:
        ctx.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{ctx.out} cannot be made: {error.strerror}; choose another --out.") from error
    for name, part in (("feature", "image_encoder"), ("ss_latent", "structure_encoder"), ("latent", "slat_encoder")):
        if name in steps:
            getattr(ctx, part)  # missing weights are no fault of an asset: say so before anything runs
    failed: dict[str, str] = {}
    for name in STEPS:
        if name in steps:
            failed = run_step(name, share(assets, rank, world_size), ctx, rank) | failed
    if world_size == 1 or "metadata" in steps:
        merge_metadata(ctx.out, assets)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input; assets that failed are reported, not an error)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--glbs", type=Path, required=True, help="folder with metadata.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", nargs="+", choices=(*STEPS, "metadata"), default=list(STEPS))
    parser.add_argument("--encoder", type=Path, default=Path("weights/gap3d-mini"), help="folder of the networks")
    parser.add_argument("--views", type=int, default=24, help="condition views per asset")
    parser.add_argument("--size", type=int, default=448, help="pixels per side of a view")
    parser.add_argument("--resolution", type=int, default=32, help="voxels per axis")
    parser.add_argument("--count", type=int, help="only the first assets")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world_size", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    ctx = Context(args.out, args.encoder, device, args.views, args.size, args.resolution)
    try:
        failed = prepare(args.glbs, ctx, args.steps, args.rank, args.world_size, args.count)
    except Gap3DError as error:
        print(error, file=sys.stderr)
        return 2
    for name, reason in failed.items():
        print(f"{name}: {reason}", file=sys.stderr)
    print(f"{args.out}: {len(failed)} assets failed" if failed else f"{args.out}: done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
