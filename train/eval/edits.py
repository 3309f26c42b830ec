"""Edits: a picture and an instruction. Is the named attribute changed, and the category kept?"""

import torch

from gap3d_app.values import Mesh
from train.data.views import Views
from train.eval.batched import Made, Request
from train.eval.generation import PICTURE_SIZE
from train.eval.geometry_metrics import best_yaw_iou, voxel_grid
from train.eval.held_out import HeldOutEdit, cut_out_picture, on_white
from train.eval.image_metrics import color_histogram, histogram_distance
from train.eval.report import Figure, mean, shares
from train.eval.session import Session

BY_JUDGE = {"color": "color", "finish": "finish"}
"""Attributes that the judge names by itself."""

DEFINITION = (
    "held-out edit pairs: a render of the source (canonical and random view in turn) and the instruction -> mesh. "
    "Right when the probe names the target's category and the named attribute is changed: colour, finish: the probe "
    "names the target's; secondary colour: the colour histogram of 5 renders is nearer to the target's than to the "
    "source's; size, style, part: the generated voxels have a higher IoU (best of 24 turns) with the target's than "
    "with the source's. An empty result is wrong"
)


def edits(s: Session) -> list[Figure]:
    """All edit pairs."""
    count = s.counts.edits
    pairs = [s.data.edit(i) for i in range(count)]
    pictures = [
        pair.source.views(slice(i % 2, i % 2 + 1), PICTURE_SIZE) for i, pair in enumerate(s.bar(pairs, "renders"))
    ]
    requests = [
        Request(pair.instruction, cut_out_picture(picture), seed=i)
        for i, (pair, picture) in enumerate(zip(pairs, pictures, strict=True))
    ]
    rows = []
    for number, made in enumerate(s.bar(s.pipe.make(requests, s.settings), "edits", count)):
        pair = pairs[number]
        target = s.look(pair.target.mesh, pair.target.cameras)
        views = s.look(made.mesh, pair.target.cameras)
        verdict, ceiling = s.judge(views), s.judge(target)
        attribute, spec = pair.change["attribute"], pair.target.spec
        row = {"instruction": pair.instruction, **pair.change, "category": spec.category, "judged": verdict}
        row["view"] = "random" if number % 2 else "canonical"
        row["kept"] = verdict["category"] == spec.category
        row["changed"] = changed(s, pair, made, views, verdict)
        row["ok"] = row["kept"] and row["changed"]
        head = BY_JUDGE.get(attribute)
        named = head is None or ceiling[head] == getattr(spec, head)
        row["judge_ok_on_truth"] = named and ceiling["category"] == spec.category
        rows.append(row)
        if s.has_room("edits"):
            result = None if views is None else on_white(views)
            captions = [pair.instruction, "result" if row["ok"] else "result (judged wrong)", "target"]
            s.tile("edits", [on_white(pictures[number]), result, on_white(target)], captions)
        for side in (pair.source, pair.target):
            side.__dict__.pop("mesh", None)  # many pairs, each seen once
    s.samples["edits"] = rows
    details = {
        "changed": mean([float(r["changed"]) for r in rows]),
        "category_kept": mean([float(r["kept"]) for r in rows]),
        "by_attribute": shares(rows, "attribute", "ok"),
        "changed_by_attribute": shares(rows, "attribute", "changed"),
        "by_view": shares(rows, "view", "ok"),
        "judge_right_on_the_true_targets": mean([float(r["judge_ok_on_truth"]) for r in rows]),
    }
    value = mean([float(r["ok"]) for r in rows])
    return [Figure("edits", "image and text edits", value, 0.70, len(rows), "%", DEFINITION, details)]


def changed(s: Session, pair: HeldOutEdit, made: Made, views: Views | None, verdict: dict[str, str]) -> bool:
    """Whether the result shows the attribute that the instruction asked for."""
    if views is None or made.coords is None:
        return False
    attribute = pair.change["attribute"]
    if attribute in BY_JUDGE:
        return verdict[BY_JUDGE[attribute]] == getattr(pair.target.spec, BY_JUDGE[attribute])
    if attribute == "secondary":
        result = _histogram(views)
        target, source = (_histogram_of(s, side.mesh, side.cameras) for side in (pair.target, pair.source))
        return histogram_distance(result, target) < histogram_distance(result, source)
    grid = voxel_grid(made.coords, s.pipe.resolution)
    return best_yaw_iou(grid, pair.target.occupancy)[0] > best_yaw_iou(grid, pair.source.occupancy)[0]


def _histogram(views: Views) -> torch.Tensor:
    return color_histogram(views.rgb.float() / 255, views.alpha > 250)


def _histogram_of(s: Session, mesh: Mesh, cameras: int) -> torch.Tensor:
    return _histogram(s.look(mesh, cameras))
