"""What the fast preset costs in shape: the same pictures, captions and seeds with both presets."""

from gap3d_app.values import Mesh
from train.eval.batched import Request
from train.eval.generation import PICTURE_SIZE
from train.eval.geometry_metrics import SAMPLES, f_score
from train.eval.held_out import cut_out_picture
from train.eval.report import Figure, mean
from train.eval.session import Session

MOST_LOST = 0.02
PRESETS = ("standard", "fast")


def fast_preset(s: Session) -> list[Figure]:
    """F-scores of both presets against the true surfaces, from pictures (the figure) and from captions (beside it)."""
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
    s.samples["fast_preset"] = rows
    means = {key: mean([row[key] for row in rows]) for key in rows[0] if key != "asset"}
    definition = (
        f"mean F-score of the preset fast less that of standard, {SAMPLES:,} points of each surface within 1/64 of the "
        "cube's side of the other, against the true surface; one render of each held-out asset from the canonical "
        "view, without text, same seeds. text_: the same from captions, which leave the shape open; agreement: fast "
        "against standard; an empty result counts 0"
    )
    change = means["image_fast"] - means["image_standard"]
    means["text_change"] = means["text_fast"] - means["text_standard"]
    return [Figure("fast_preset", "fast preset: F-score gained", change, -MOST_LOST, count, "", definition, means)]


def _score(made: Mesh | None, truth: Mesh | None) -> float:
    return 0.0 if made is None or truth is None else f_score(made, truth)["f"]
