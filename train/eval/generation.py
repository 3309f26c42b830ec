"""What the whole pipeline makes of held-out prompts and pictures."""

import torch

from train.eval.alignment import AlignmentMetrics
from train.eval.batched import Made, Request
from train.eval.geometry_metrics import MAIN_SHARE, best_yaw_iou, count_parts, mesh_state, voxel_grid, voxel_iou
from train.eval.held_out import cut_out_picture, on_white, unit_pictures
from train.eval.report import Figure, mean, most_missed, shares
from train.eval.session import Session

PICTURE_SIZE = 448  # a picture that is handed in; the pipeline crops and scales it itself
LENGTHS = ("short", "sentence", "rich")


def grid_cosine(s: Session) -> list[Figure]:
    """Grids of captions against the image encoder's tokens of the asset's canonical view."""
    from gap3d_app.models.token_grid import unpack_grid

    encoder, dit = s.pipe.part("image_encoder"), s.pipe.part("grid_dit")
    side, size = dit.config.input_size, encoder.config.image_size
    metrics, cosines, rows = AlignmentMetrics(), [], []
    batch = s.pipe.batches["structure"]
    for start in s.bar(range(0, s.counts.prompts, batch), "grid alignment"):
        numbers = range(start, min(start + batch, s.counts.prompts))
        prompts = [s.data.prompt(i) for i in numbers]
        tokens = s.pipe.grids([Request(p.text, seed=i) for i, p in zip(numbers, prompts, strict=True)], s.settings)
        views = [unit_pictures(s.data.asset(i).views(slice(0, 1), size)) for i in numbers]
        with torch.no_grad():
            target = encoder.encode(torch.cat(views)).float()
        registers = target.shape[1] - 1 - side * side
        states = [unpack_grid(t, side, side, registers) for t in (tokens, target)]
        metrics.update(*states)
        patches = slice(1 + registers, None)
        cosines += torch.cosine_similarity(tokens[:, patches], target[:, patches], dim=-1).mean(1).tolist()
        rows += [{"length": p.length} for p in prompts]
    for row, value in zip(rows, cosines, strict=True):
        row["cosine"] = value
    definition = (
        "caption -> grid, as the app makes it; cosine of each patch with the image encoder's patch of the asset's "
        "canonical view, mean over patches and prompts. A caption leaves shape and details open, so 1 is out of reach"
    )
    all_figures = metrics.compute()
    kept = ("cos_mean", "sum_cos_mean", "reg_cos_mean", "mse", "norm_ratio_mean", "neigh_overlap_mean")
    details = {k: all_figures[k] for k in kept}
    details |= {f"cosine_{k}": mean([r["cosine"] for r in rows if r["length"] == k]) for k in LENGTHS}
    return [Figure("grid_cosine", "grid alignment cosine", mean(cosines), 0.60, len(cosines), "", definition, details)]


def text(s: Session) -> list[Figure]:
    """Captions to meshes: what the judge sees, and whether the meshes can be used."""
    count = s.counts.prompts
    prompts = [s.data.prompt(i) for i in range(count)]
    requests = [Request(p.text, seed=i) for i, p in enumerate(prompts)]
    rows, states = [], []
    for number, made in enumerate(s.bar(s.pipe.make(requests, s.settings), "text to 3D", count)):
        prompt, asset = prompts[number], s.data.asset(number)
        views = s.look(made.mesh, asset.cameras)
        verdict = s.judge(views)
        row = {"prompt": prompt.text, "length": prompt.length, "category": asset.spec.category}
        row |= {"color": asset.spec.color, "names_color": prompt.names_color, "judged": verdict}
        row["category_ok"] = verdict["category"] == asset.spec.category
        row["color_ok"] = verdict["color"] == asset.spec.color
        rows.append(row)
        states.append(s.run(mesh_state, made.mesh, s.settings.target_faces))
        picture = None if views is None else on_white(views)
        s.tile("text", [picture], [prompt.text])
    s.samples["text"] = rows
    return [*_text_figures(rows), _usable(s, rows, [state.result() for state in states])]


def _text_figures(rows: list[dict]) -> list[Figure]:
    named = [r for r in rows if r["names_color"]]
    category = Figure(
        "text_category", "text to 3D: category", mean([float(r["category_ok"]) for r in rows]), 0.80, len(rows), "%",
        "one caption of each held-out asset (short, sentence and rich in turn) -> mesh; the probe names the category "
        "from 5 renders; an empty result is wrong",
        {"by_length": shares(rows, "length", "category_ok"), "missed": most_missed(rows, "category", "category_ok")},
    )  # fmt: skip
    color = Figure(
        "text_color", "text to 3D: main colour", mean([float(r["color_ok"]) for r in named]), 0.85, len(named), "%",
        "the same meshes; the probe names one of 27 colours; prompts that do not say the colour are left out",
        {"by_length": shares(named, "length", "color_ok"), "missed": most_missed(named, "color", "color_ok"),
         "confused": _confusions(named)},
    )  # fmt: skip
    return [category, color]


def _confusions(rows: list[dict], limit: int = 8) -> list[str]:
    pairs: dict[str, int] = {}
    for row in rows:
        if not row["color_ok"]:
            pair = f"{row['color']} -> {row['judged']['color'] or 'nothing'}"
            pairs[pair] = pairs.get(pair, 0) + 1
    return [f"{k}: {v}" for k, v in sorted(pairs.items(), key=lambda item: -item[1])[:limit]]


def _usable(s: Session, rows: list[dict], states: list) -> Figure:
    """The meshes of the text prompts after the export's processing."""
    good = []
    for number, state in enumerate(states):
        # the truth's number of parts matters only where there is no main part
        whole = state.main_share > MAIN_SHARE or state.faces == 0
        truth_parts = 0 if whole else count_parts(s.data.asset(number).surface())
        good.append(float(state.usable(truth_parts)))
        rows[number]["mesh"] = {**vars(state), "truth_parts": truth_parts, "usable": bool(good[-1])}
    definition = (
        "meshes of the text prompts after the GLB export's cleaning"
        + (" and simplification" if any(state.simplified for state in states) else " (simplification not installed)")
        + f"; usable: not empty, watertight, and one part over {MAIN_SHARE:.0%} of the area or no more parts than the "
        "true asset's surface"
    )
    details = {
        "empty": sum(state.faces == 0 for state in states),
        "watertight": mean([float(state.watertight) for state in states]),
        "one_main_part": mean([float(state.main_share > MAIN_SHARE) for state in states]),
        "simplified": sum(state.simplified for state in states),
    }
    return Figure("usable_mesh", "usable mesh", mean(good), 0.97, len(good), "%", definition, details)


def image(s: Session) -> list[Figure]:
    """Held-out renders from a random direction to meshes."""
    return _image_figures(s, 1, "image", "image to 3D", "from a random direction")


def image_canonical(s: Session) -> list[Figure]:
    """Held-out renders from the canonical view to meshes."""
    which = "from the canonical front three-quarter view"
    return _image_figures(s, 0, "image_canonical", "image to 3D, canonical view", which)


def _image_figures(s: Session, view: int, name: str, title: str, which: str) -> list[Figure]:
    rows = _image_rows(s, view, name, title)
    s.samples[name] = rows
    definition = f"{PICTURE_SIZE} px render {which}, with its alpha, through the app's cut-out and crop, without text; "
    category = Figure(
        f"{name}_category", f"{title}: category", mean([float(r["category_ok"]) for r in rows]), 0.85, len(rows), "%",
        definition + "the probe names the category from 5 renders of the result",
        {"color": mean([float(r["color_ok"]) for r in rows]),
         "missed": most_missed(rows, "category", "category_ok")},
    )  # fmt: skip
    iou = Figure(
        f"{name}_iou", f"{title}: voxel IoU", mean([r["iou"] for r in rows]), 0.50, len(rows), "",
        definition + f"IoU of the generated surface voxels ({s.pipe.resolution}^3) with the true ones, best of 24 "
        "turns about the vertical axis; an empty result counts 0",
        {"filled": mean([r["iou_filled"] for r in rows]), "unturned": mean([r["iou_unturned"] for r in rows]),
         "share_turned": mean([float(r["yaw"] != 0) for r in rows])},
    )  # fmt: skip
    return [category, iou]


def _image_rows(s: Session, view: int, name: str, title: str) -> list[dict]:
    count, rows = s.counts.images, []
    pictures = [s.data.asset(i).views(slice(view, view + 1), PICTURE_SIZE) for i in s.bar(range(count), "renders")]
    requests = [Request(picture=cut_out_picture(p), seed=i) for i, p in enumerate(pictures)]
    for number, made in enumerate(s.bar(s.pipe.make(requests, s.settings), title, count)):
        asset = s.data.asset(number)
        views = s.look(made.mesh, asset.cameras)
        verdict = s.judge(views)
        row = {"asset": number, "category": asset.spec.category, "color": asset.spec.color, "judged": verdict}
        row["category_ok"] = verdict["category"] == asset.spec.category
        row["color_ok"] = verdict["color"] == asset.spec.color
        rows.append(row | shape_scores(s, made, asset.occupancy))
        result = None if views is None else on_white(views)
        caption = f"IoU {rows[-1]['iou']:.2f}, judged {verdict['category'] or 'empty'}"
        s.tile(name, [on_white(pictures[number]), result], [f"{row['color']} {row['category']}", caption])
    return rows


def shape_scores(s: Session, made: Made, truth: torch.Tensor) -> dict[str, float]:
    """IoU with the true occupancy: surface voxels turned and unturned, and the filled shapes."""
    if made.coords is None:
        return {"iou": 0.0, "yaw": 0.0, "iou_unturned": 0.0, "iou_filled": 0.0}
    grid = voxel_grid(made.coords, s.pipe.resolution)
    iou, yaw = best_yaw_iou(grid, truth)
    filled, _ = best_yaw_iou(fill(grid), fill(truth))
    return {"iou": iou, "yaw": yaw, "iou_unturned": voxel_iou(grid, truth), "iou_filled": filled}


def fill(grid: torch.Tensor) -> torch.Tensor:
    """The occupancy with its enclosed cavities filled."""
    from scipy import ndimage

    return torch.from_numpy(ndimage.binary_fill_holes(grid.cpu().numpy())).to(grid.device)
