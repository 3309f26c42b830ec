"""Write the model card of a weights folder from what was measured and logged.

    python -m train.eval.card --eval DIR --count 9000 --edits 18000 [--weights weights/gap3d-mini] [--runs runs]

DIR is what `python -m train.eval.mini --out DIR` wrote. The card, README.md in the weights folder, gets data, sizes,
GPU minutes per stage, curves, the evaluation table with definitions, limits and a contact sheet of results that
nobody chose.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open

from gap3d_app.hub import read_pipeline
from train.data.procedural.categories import CATEGORIES
from train.eval.curves import StageLog, draw_curves, read_log
from train.eval.report import Figure
from train.mini import STAGES

SHEETS = {
    "text": ("samples.jpg", "Text to 3D: the first held-out prompts of the evaluation, one seed each, not chosen."),
    "image": (
        "samples_image.jpg",
        "Image to 3D: held-out renders from random directions (left), the results from the canonical view (right).",
    ),
    "edits": ("samples_edits.jpg", "Edits: picture and instruction, result, and the asset that was meant."),
}
"""Contact sheet of the evaluation -> its name in the weights folder and what it shows."""

FRONT = """---
license: apache-2.0
pipeline_tag: text-to-3d
tags: [text-to-3d, image-to-3d]
---
"""

LIMITS = """\
- It knows the categories of its procedural training assets ({categories} of them) and little else: a prompt for
  anything else gives the nearest thing that it knows, or a blob.
- Pictures work best when they look like the training renders: one object, plain or transparent background, seen
  from slightly above. Photographs are outside of what it has seen.
- Shapes are cut at {resolution}^3 voxels and meshes at four times that: parts thinner than about 1/40 of the object
  merge or vanish, and surfaces are closed, so sheets become thin plates.
- Colours are baked light-free base colours; metallic is 0 and nothing is transparent: "glass" is a look only.
- Captions are English and follow a small grammar; long or unusual sentences are understood by their known words.
- The judge of categories and colours is a network trained on renders of the same kind of assets; its own accuracy
  is in the table. It can be wrong in both directions."""


def parameter_counts(folder: Path) -> dict[str, tuple[int, int]]:
    """Per network of a weights folder: (parameters, bytes), from the headers of its files."""
    counts: dict[str, tuple[int, int]] = {}
    for config in sorted(folder.glob("*.json")):
        stem = config.stem
        files = [*folder.glob(f"{stem}.safetensors"), *folder.glob(f"{stem}-?????-of-?????.safetensors")]
        if not files:
            continue
        total = 0
        for file in files:
            with safe_open(file, "pt") as content:
                total += sum(math.prod(content.get_slice(key).get_shape()) for key in content.keys())
        counts[stem] = (total, sum(f.stat().st_size for f in files))
    return counts


def size_table(folder: Path) -> str:
    """Networks, parameters and megabytes."""
    counts = parameter_counts(folder)
    served = read_pipeline(folder)["models"]
    rows = ["| network | parameters | MB | used by |", "| --- | ---: | ---: | --- |"]
    for name, (count, size) in counts.items():
        user = "app" if name in served else "evaluation"
        rows.append(f"| {name} | {count / 1e6:.2f} M | {size / 1e6:.1f} | {user} |")
    total, size = (sum(v[i] for v in counts.values()) for i in (0, 1))
    rows.append(f"| all | {total / 1e6:.1f} M | {size / 1e6:.1f} | |")
    return "\n".join(rows)


def stage_table(logs: list[StageLog]) -> str:
    """Steps, minutes and the last held-out metrics per stage."""
    rows = ["| stage | steps | GPU minutes | last loss | held out |", "| --- | ---: | ---: | ---: | --- |"]
    for log in logs:
        loss = log.last("loss")
        held_out = ", ".join(f"{m.removeprefix('test_')} {log.last(m):.3g}" for m in log.followed)
        shown = "" if loss is None else f"{loss:.4g}"
        rows.append(f"| {log.name} | {log.steps:,} | {log.minutes:.1f} | {shown} | {held_out} |")
    rows.append(f"| all | | {sum(log.minutes for log in logs):.1f} | | |")
    return "\n".join(rows)


def wall_minutes(logs: list[StageLog]) -> float:
    """Minutes when every stage starts as soon as those that it reads are done."""
    minutes, end = {log.name: log.minutes for log in logs}, {}
    for stage, plan in STAGES.items():  # what a stage needs comes before it
        end[stage] = max((end[need] for need in plan.needs), default=0.0) + minutes.get(stage, 0.0)
    return max(end.values())


def figure_table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown; those without a target explain the others."""
    rows = ["| figure | measured | at least | reached | n |", "| --- | ---: | ---: | --- | ---: |"]
    for name, f in figures.items():
        figure = Figure(name, f["label"], f["value"], f["target"], f["count"], f["unit"], f["definition"])
        target = "" if figure.target is None else figure.shown(figure.target)
        reached = {True: "yes", False: "**no**", None: ""}[f["reached"]]
        rows.append(f"| {figure.label} | {figure.shown(figure.value)} | {target} | {reached} | {figure.count} |")
    return "\n".join(rows)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        if set(value) == {"share", "count"}:
            return f"{100 * value['share']:.0f}% of {value['count']}"
        return "; ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def definitions(figures: dict[str, dict[str, Any]]) -> str:
    """What each figure means, and its further numbers."""
    lines = []
    for f in figures.values():
        lines.append(f"- **{f['label']}**: {f['definition']}.")
        lines += [f"  - {key.replace('_', ' ')}: {_plain(value)}" for key, value in f.get("details", {}).items()]
    return "\n".join(lines)


def copy_sheets(source: Path, folder: Path) -> list[str]:
    """Contact sheets as JPEG in the weights folder; returns their Markdown."""
    found = []
    for sheet, (name, words) in SHEETS.items():
        if (source / f"{sheet}.png").is_file():
            with Image.open(source / f"{sheet}.png") as image:
                image.convert("RGB").save(folder / name, quality=88, subsampling=0, optimize=True)
            found.append(f"{words}\n\n![{words}]({name})")
    return found


def card(
    report: dict[str, Any], logs: list[StageLog], folder: Path, sheets: list[str], args: argparse.Namespace
) -> str:
    """The text of the card."""
    pipeline = read_pipeline(folder)
    figures = report["figures"]
    reached = [f for f in figures.values() if f["reached"] is not None]
    missed = [f["label"] for f in reached if not f["reached"]]
    verdict = f"{len(reached) - len(missed)} of {len(reached)} targets are reached" + (
        f"; not reached: {', '.join(missed)}." if missed else "."
    )
    resolution = json.loads((folder / "slat_flow.json").read_text())["args"]["resolution"]
    limits = LIMITS.format(categories=len(CATEGORIES), resolution=resolution)
    presets = ", ".join(f"{k} {v or '(the values above)'}" for k, v in pipeline.get("presets", {}).items())
    device, data = report["device"], report["data"]
    where = f"{device['name']}, {device['dtype']}, {sum(report['seconds'].values()):.0f} s"
    meshes = f"{args.count:,} procedural assets and {args.edits:,} edit pairs ({args.count + 2 * args.edits:,} meshes)"
    return f"""{FRONT}
# {folder.name}

Small weights of GAP3D: text, a picture, or both, to a coloured mesh. They are loaded by
`Gap3DPipeline.from_pretrained("{folder.name}")` and were trained from nothing by the scripts in `train/`, on procedural
assets alone. The architecture is the full one (language model with learned queries -> grid diffusion transformer ->
image token grid -> structure flow -> structured latent flow -> mesh and Gaussian decoders), at a small size.

{sheets[0] if sheets else ""}

## Figures

Measured by `python -m train.eval.mini` on held-out assets and prompts (split "{data["split"]}", seed {data["seed"]}),
whose pairs of category and colour never occur in training; preset {report["preset"]}, {where}. {verdict}

{figure_table(figures)}

### Definitions and details

{definitions(figures)}

## Data

{meshes} of {len(CATEGORIES)}
categories, from `train.data.procedural`: categories, 27 colours, 12 finishes, sizes, styles and optional parts are
drawn from a seed; captions come from a grammar at three lengths. One (category, colour) pair in ten is held out for
good. No other data, no other model's weights and no web text were used.

## Sizes

{size_table(folder)}

Weights are stored in bfloat16, the large matrices of the three samplers as int8 with a scale a row (0.5 % relative
error), the judge in float16, biases and norms in float32.

## Training

{args.hardware}. Stages run side by side where they can: the longest chain took {wall_minutes(logs):.0f} minutes of wall
time, data not counted. `train/README.md` has the commands.

{stage_table(logs)}

![Training curves](curves.png)

## Sampling

Preset values: {json.dumps(report["settings"])}; presets: {presets}.

## Limits

{limits}

## More results that nobody chose

{chr(10).join(f"{text}{chr(10)}" for text in sheets[1:]) or "None were written."}
## Licence

Apache-2.0, like the code.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--eval", type=Path, required=True, help="folder that train.eval.mini --out wrote")
    parser.add_argument("--weights", type=Path, default=Path("weights/gap3d-mini"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs with their log.jsonl")
    parser.add_argument("--hardware", default="One NVIDIA H200", help="what the stages were trained on")
    parser.add_argument("--count", type=int, required=True, help="single assets of the training set")
    parser.add_argument("--edits", type=int, required=True, help="edit pairs of the training set")
    args = parser.parse_args()
    paths = [args.runs / stage / "log.jsonl" for stage in STAGES]
    logs = [read_log(path) for path in paths if path.is_file()]
    draw_curves(logs, args.weights / "curves.png")
    report = json.loads((args.eval / "eval.json").read_text())
    sheets = copy_sheets(args.eval, args.weights)
    (args.weights / "README.md").write_text(card(report, logs, args.weights, sheets, args))
    print(args.weights / "README.md")


if __name__ == "__main__":
    main()
