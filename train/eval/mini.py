"""Measure every quality figure of a weights folder on held-out assets and prompts.

    python -m train.eval.mini [--weights weights/gap3d-mini] [--json] [--figures NAME ...] [--out DIR]

Nothing that is measured was seen in training: the pairs of category and colour are held out, and the assets come
from another seed. With --out, DIR holds eval.json, samples.json (one row per result) and contact sheets of the
first results, not chosen; it is written after every group of figures, and figures that lie there from the same weights,
settings and device are kept, so that groups can be measured one by one. The judge of categories and colours is a
separate small network (train/eval/probe.py), whose own accuracy is among the figures.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gap3d_app.settings import PRESETS
from train.eval.batched import BatchPipeline
from train.eval.edits import edits
from train.eval.generation import grid_cosine, image, image_canonical, text
from train.eval.held_out import HeldOut
from train.eval.presets import fast_preset, public_fast
from train.eval.probe import Probe
from train.eval.reconstruction import slat_vae, structure_vae
from train.eval.report import Figure, rounded, table
from train.eval.session import Counts, Session

FIGURES: dict[str, Callable[[Session], list[Figure]]] = {
    "structure_vae": structure_vae,
    "slat_vae": slat_vae,
    "grid": grid_cosine,
    "text": text,
    "image": image,
    "image_canonical": image_canonical,
    "edits": edits,
    "fast_preset": fast_preset,
}
"""Groups of figures by name: slat_vae also measures the judge, text also the usability of meshes."""

NAMED_ONLY: dict[str, Callable[[Session], list[Figure]]] = {"public_fast": public_fast}
"""Groups that say nothing of the weights themselves: measured when they are asked for."""


def open_session(
    weights: str | Path, device: str = "auto", preset: str = "standard", seed: int = 1234,
    counts: Counts | None = None, quiet: bool = False,
) -> Session:  # fmt: skip
    """Load the pipeline and the judge of a weights folder."""
    pipe = BatchPipeline.from_pretrained(weights, device=device)
    if pipe.device.type == "cuda":
        # cuDNN plans its attention anew for every shape, and batches of voxels have a new one each time.
        torch.backends.cuda.enable_cudnn_sdp(False)
    probe = Probe.load(pipe.folder / "probe", str(pipe.device))
    data = HeldOut(seed, pipe.device, pipe.resolution)
    return Session(pipe, pipe.settings(preset=preset), data, probe, counts or Counts(), quiet=quiet)


def evaluate(session: Session, names: list[str] | None = None) -> dict[str, Any]:
    """Run the groups `names` (by default all of FIGURES) and return the report."""
    found: dict[str, dict] = {}
    seconds: dict[str, float] = {}
    for name in names or FIGURES:
        begin = time.perf_counter()
        for figure in (FIGURES | NAMED_ONLY)[name](session):
            found[figure.name] = figure.to_dict()
        seconds[name] = round(time.perf_counter() - begin, 1)
    pipe = session.pipe
    device = torch.cuda.get_device_name() if pipe.device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return {
        "weights": {"name": pipe.name, "manifest_sha256": pipe.weights_hash},
        "figures": found,
        "all_reached": all(f["reached"] is not False for f in found.values()),
        "settings": {k: v for k, v in session.settings.as_dict().items() if "steps" in k or "guidance" in k},
        "preset": session.settings.preset,
        "data": {"split": "test", "seed": session.data.seed},
        "device": {"type": pipe.device.type, "name": device, "dtype": str(pipe.dtype).removeprefix("torch.")},
        "torch": torch.__version__,
        "seconds": seconds,
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new report with the figures that only the old one has; the new one alone if they were measured apart."""
    if any(old.get(key) != new[key] for key in ("weights", "settings", "preset", "data", "device")):
        return new
    report = {**new, **{key: {**old[key], **new[key]} for key in ("figures", "seconds")}}
    report["all_reached"] = all(f["reached"] is not False for f in report["figures"].values())
    return report


def write_results(session: Session, report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write eval.json, samples.json and contact sheets; returns the report with the figures kept from before."""
    folder.mkdir(parents=True, exist_ok=True)
    path, rows = folder / "eval.json", folder / "samples.json"
    samples = rounded(session.samples)
    if path.is_file():
        report = merged(json.loads(path.read_text()), report)
        if rows.is_file():
            kept = {k: v for k, v in json.loads(rows.read_text()).items() if k in report["seconds"]}
            samples = {**kept, **samples}
    path.write_text(json.dumps(report, indent=1) + "\n")
    rows.write_text(json.dumps(samples, indent=1) + "\n")
    session.write_sheets(folder)
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", default="weights/gap3d-mini", help="folder or embedded name")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    parser.add_argument("--figures", nargs="+", choices=FIGURES | NAMED_ONLY, help="only these groups")
    parser.add_argument("--seed", type=int, default=1234, help="of the held-out assets")
    for name, value in vars(Counts()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    parser.add_argument("--out", type=Path, help="folder for eval.json, samples.json and contact sheets")
    args = parser.parse_args()
    counts = Counts(args.prompts, args.images, args.edits, args.assets)
    session = open_session(args.weights, args.device, args.preset, args.seed, counts)
    report: dict[str, Any] = {}
    for name in args.figures or FIGURES:
        part = evaluate(session, [name])
        report = merged(report, part) if report else part
        if args.out:
            report = write_results(session, report, args.out)
    print(table(report["figures"]), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
