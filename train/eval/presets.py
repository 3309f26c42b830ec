"""What a fast preset costs in shape: the same pictures, captions and seeds with both presets.

Once with the presets of the weights, once with those of the public checkpoints: their networks are not here, but their
samplers are, and these networks tell what fewer steps do to a shape.
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gap3d_app.full_size.end_to_end import SAMPLING
from gap3d_app.settings import presets
from gap3d_app.values import Mesh
from train.eval.batched import BatchPipeline, Request
from train.eval.generation import PICTURE_SIZE
from train.eval.geometry_metrics import SAMPLES, f_score
from train.eval.held_out import cut_out_picture
from train.eval.report import Figure, mean
from train.eval.session import Session

MOST_LOST = 0.02
PRESETS = ("standard", "fast")
GUIDANCE = ("guidance_scale", "cfg_strength")


def fast_preset(s: Session) -> list[Figure]:
    """F-scores of both presets against the true surfaces, from pictures (the figure) and from captions (beside it)."""
    rows = _both_presets(s)
    return [_figure(s, "fast_preset", "fast preset: F-score gained", "the preset fast less that of standard", rows)]


def public_fast(s: Session) -> list[Figure]:
    """The same with the samplers of the public checkpoints, whose standard preset is the exact one."""
    with public_samplers(s.pipe):
        rows = _both_presets(s)
    what = "the public checkpoints' preset fast less that of their 50, 25, 25 Euler steps, guided as the weights say"
    return [_figure(s, "public_fast", "fast preset of the public checkpoints: F-score gained", what, rows)]


@contextmanager
def public_samplers(pipe: BatchPipeline) -> Iterator[None]:
    """A pipeline that takes the steps, solvers and times of the public checkpoints while it is open."""
    own = pipe.args, pipe.presets
    args = pipe.args | SAMPLING
    for name in ("grid_sampler", "structure_sampler", "slat_sampler"):
        kept = {key: value for key, value in pipe.args[name]["params"].items() if key in GUIDANCE}
        args[name] = args[name] | {"params": args[name]["params"] | kept}
    pipe.args, pipe.presets = args, presets(args)
    try:
        yield
    finally:
        pipe.args, pipe.presets = own


def _both_presets(s: Session) -> list[dict[str, Any]]:
    """F-scores of each asset."""
    count = s.counts.images
    pictures = [s.data.asset(i).views(slice(0, 1), PICTURE_SIZE) for i in s.bar(range(count), "renders")]
    asked = {
        "image": [Request(picture=cut_out_picture(p), seed=i) for i, p in enumerate(pictures)],
        "text": [Request(s.data.prompt(i).text, seed=i) for i in range(count)],
    }
    truths = [s.data.asset(i).surface() for i in s.bar(range(count), "true surfaces")]
    rows: list[dict] = [{"asset": i} for i in range(count)]
    for kind, requests in asked.items():
        made: dict[str, list[Mesh | None]] = {}
        for preset in PRESETS:
            results = s.pipe.make(requests, s.pipe.settings(preset=preset))
            made[preset] = [one.mesh for one in s.bar(results, f"{kind}, {preset}", count)]
        for number, row in enumerate(rows):
            for preset in PRESETS:
                row[f"{kind}_{preset}"] = _score(made[preset][number], truths[number])
            row[f"{kind}_agreement"] = _score(made["fast"][number], made["standard"][number])
            row[f"{kind}_change"] = row[f"{kind}_fast"] - row[f"{kind}_standard"]
    return rows


def _figure(s: Session, name: str, label: str, what: str, rows: list[dict[str, Any]]) -> Figure:
    s.samples[name] = rows
    details = {key: mean([row[key] for row in rows]) for key in rows[0] if key != "asset"}
    change = details["image_change"]
    if len(rows) > 1:
        for kind in ("image", "text"):
            spread = statistics.stdev(row[f"{kind}_change"] for row in rows)
            details[f"{kind}_change_standard_error"] = spread / len(rows) ** 0.5
    definition = (
        f"mean F-score of {what}, {SAMPLES:,} points of each surface within 1/64 of the cube's side of the other, "
        "against the true surface; one render of each held-out asset from the canonical view, without text, same "
        "seeds. text_: the same from captions, which leave the shape open; agreement: fast against standard; "
        "standard_error: of the mean of the pairs' differences; an empty result counts 0"
    )
    return Figure(name, label, change, -MOST_LOST, len(rows), "", definition, details)


def _score(made: Mesh | None, truth: Mesh | None) -> float:
    return 0.0 if made is None or truth is None else f_score(made, truth)["f"]
