"""Training logs: what a stage cost, what it reached, and its curves as a picture."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PANEL = (420, 220)
MARGIN = (58, 26, 12, 24)  # left, top, right, bottom
INKS = ((31, 100, 180), (214, 96, 30), (40, 140, 70), (160, 60, 150))
GREY, BLACK = (225, 225, 225), (40, 40, 40)
FOLLOWED = {
    "image_encoder": ("test_acc_category", "test_acc_color", "test_acc_finish"),
    "language_model": ("test_right_caption", "test_right_edit"),
    "structure_vae": ("test_iou",),
    "slat_vae": ("test_sdf", "test_sign", "test_mesh_color"),
    "probe": ("test_category", "test_color", "test_finish"),
    "structure_flow": ("test_iou",),
    "slat_flow": ("test_loss",),
    "grid_alignment": ("test_cosine_caption", "test_cosine_edit", "test_cosine_unchanged"),
}
"""Held-out metrics drawn per stage; the first ones of the log where these are missing."""


@dataclass
class StageLog:
    """Curves of one stage: name -> [(step, value), ...]."""

    name: str
    curves: dict[str, list[tuple[int, float]]]

    @property
    def steps(self) -> int:
        """Last step."""
        return max((points[-1][0] for points in self.curves.values()), default=0)

    @property
    def minutes(self) -> float:
        """Wall time that training took, resumed runs included."""
        points = self.curves.get("seconds")
        return points[-1][1] / 60 if points else 0.0

    def last(self, metric: str) -> float | None:
        """Last value of a metric, the loss as the mean of its last ten."""
        points = self.curves.get(metric)
        if not points:
            return None
        tail = points[-10:] if metric == "loss" else points[-1:]
        return sum(v for _, v in tail) / len(tail)

    @property
    def followed(self) -> list[str]:
        """Held-out metrics to show, at most four."""
        wanted = [m for m in FOLLOWED.get(self.name, ()) if m in self.curves]
        return wanted or [m for m in self.curves if m.startswith("test_")][:4]


def read_log(path: Path) -> StageLog:
    """Read `runs/<stage>/log.jsonl`; where a resumed run repeats a step, the later line counts."""
    values: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        step = row.pop("step")
        for key, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(key, {})[step] = float(value)
    return StageLog(path.parent.name, {k: sorted(v.items()) for k, v in values.items()})


def smoothed(points: list[tuple[int, float]], weight: float = 0.9) -> list[tuple[int, float]]:
    """Running mean that forgets."""
    found, total, norm = [], 0.0, 0.0
    for step, value in points:
        total, norm = weight * total + value, weight * norm + 1
        found.append((step, total / norm))
    return found


def draw_panel(title: str, curves: dict[str, list[tuple[int, float]]]) -> Image.Image:
    """One set of axes; the value axis is logarithmic when positive values span more than a factor of 20."""
    image = Image.new("RGB", PANEL, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    draw.text((6, 5), title, BLACK, font)
    left, top, right, bottom = MARGIN[0], MARGIN[1], PANEL[0] - MARGIN[2], PANEL[1] - MARGIN[3]
    values = [v for points in curves.values() for _, v in points]
    if not values:
        return image
    last = max(points[-1][0] for points in curves.values() if points)
    logarithmic = min(values) > 0 and max(values) / min(values) > 20
    scale = math.log10 if logarithmic else float
    low, high = scale(min(values)), scale(max(values))
    high += (high - low) * 0.04 or 1e-6
    for k in range(5):
        y = bottom - (bottom - top) * k / 4
        mark = low + (high - low) * k / 4
        draw.line((left, y, right, y), GREY)
        text = f"{10**mark if logarithmic else mark:.3g}"
        draw.text((left - 6 - small.getlength(text), y - 7), text, BLACK, small)
    draw.text((right - small.getlength(f"step {last:,}"), bottom + 6), f"step {last:,}", BLACK, small)
    start = left
    for (name, points), ink in zip(curves.items(), INKS, strict=False):
        places = [
            (left + (right - left) * step / max(last, 1), bottom - (bottom - top) * (scale(v) - low) / (high - low))
            for step, v in points
        ]
        if len(places) > 1:
            draw.line(places, ink, 2)
        else:
            draw.ellipse([c + d for d in (-2, 2) for c in places[0]], ink)
        if len(curves) > 1:
            draw.text((start, bottom + 6), name, ink, small)
            start += small.getlength(name) + 10
    return image


def draw_curves(logs: list[StageLog], path: Path) -> None:
    """Two panels per stage: training loss, held-out metrics."""
    sheet = Image.new("RGB", (2 * PANEL[0], max(1, len(logs)) * PANEL[1]), (255, 255, 255))
    for row, log in enumerate(logs):
        loss = {"loss": smoothed(log.curves.get("loss", []))} if log.curves.get("loss") else {}
        sheet.paste(draw_panel(f"{log.name}: training loss", loss), (0, row * PANEL[1]))
        held_out = {m.removeprefix("test_"): log.curves[m] for m in log.followed}
        title = f"{log.name}: held out" + (f", {next(iter(held_out))}" if len(held_out) == 1 else "")
        sheet.paste(draw_panel(title, held_out), (PANEL[0], row * PANEL[1]))
    sheet.quantize(64).save(path, optimize=True)
