"""What the figures share: the pipeline under test, the held-out data, the judge, and the pictures to keep."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from gap3d_app.render.pictures import contact_sheet
from gap3d_app.settings import Settings
from gap3d_app.values import Mesh
from train.data.views import Views
from train.eval.batched import BatchPipeline
from train.eval.held_out import HeldOut, look_at_mesh, unit_pictures
from train.eval.probe import Probe

CELL, COLUMNS = 168, 8  # of a contact sheet

NOTHING = {"category": "", "color": "", "finish": ""}
"""What the judge says of an empty result."""


@dataclass
class Counts:
    """How many of each to measure."""

    prompts: int = 200
    images: int = 100
    edits: int = 100
    assets: int = 100


@dataclass
class Session:
    """State of one evaluation.

    Attributes:
        tiles: pictures with captions per contact sheet.
        samples: one row per made asset and figure.
        keep: how many tiles a sheet holds; the first ones, not chosen.
    """

    pipe: BatchPipeline
    settings: Settings
    data: HeldOut
    probe: Probe
    counts: Counts
    keep: int = 48
    tiles: dict[str, list[tuple[list[Image.Image], list[str]]]] = field(default_factory=dict)
    samples: dict[str, list[dict]] = field(default_factory=dict)
    quiet: bool = False
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def look(self, mesh: Mesh | None, cameras: int) -> Views | None:
        """The views that are judged."""
        return None if mesh is None else look_at_mesh(mesh, cameras)

    def judge(self, views: Views | None) -> dict[str, str]:
        """Category, colour and finish by the probe; empty words for an empty result."""
        return NOTHING if views is None else self.probe.judge(unit_pictures(views))

    def run(self, function, *args) -> Future:
        """Work for the processor while the device goes on."""
        return self.workers.submit(function, *args)

    def bar(self, items, title: str, total: int | None = None):
        """A progress bar on standard error."""
        return tqdm(items, desc=title, total=total, disable=self.quiet)

    def has_room(self, sheet: str) -> bool:
        """Whether the sheet takes another row of pictures."""
        return len(self.tiles.get(sheet, [])) < self.keep

    def tile(self, sheet: str, pictures: list[Image.Image | None], captions: list[str]) -> None:
        """Keep pictures that belong side by side, each with its caption, if the sheet has room."""
        if self.has_room(sheet):
            blank = Image.new("RGB", (CELL, CELL), (255, 255, 255))
            self.tiles.setdefault(sheet, []).append(([p or blank for p in pictures], captions))

    def write_sheets(self, folder: Path) -> list[str]:
        """Write every sheet as a PNG; returns the file names."""
        names = []
        for sheet, tiles in self.tiles.items():
            pictures = [p for row, _ in tiles for p in row]
            captions = [c for _, row in tiles for c in row]
            wide = len(tiles[0][0])
            page = contact_sheet(pictures, captions, columns=COLUMNS // wide * wide, cell=CELL)
            page.save(folder / f"{sheet}.png", optimize=True)
            names.append(f"{sheet}.png")
        return names
