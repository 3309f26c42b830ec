"""One run from request to files; the page and the API both go through here."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap3d_app.background import cut_out
from gap3d_app.errors import InputError, OutputError, WeightsError
from gap3d_app.output import write_atomic
from gap3d_app.prompt import clean_text, open_image
from gap3d_app.ui import texts

if TYPE_CHECKING:
    from gap3d_app.pipeline import Gap3DPipeline, StageEvent
    from gap3d_app.settings import Settings
    from gap3d_app.ui.loading import Loader
    from gap3d_app.ui.workdir import WorkDir

logger = logging.getLogger(__name__)

TURNTABLE_FRAMES, TURNTABLE_SIZE = 36, 320


@dataclass(frozen=True)
class Result:
    """Files of a finished run.

    Attributes:
        key: unguessable id; the folder's name.
        glb, ply, recipe_file: paths; ply is None when it was not asked for.
        recipe: plain values.
        seconds: wall time per stage, "files" for texture and writing.
        warnings: sentences for the person.
    """

    key: str
    glb: Path
    ply: Path | None
    recipe_file: Path
    recipe: dict[str, Any]
    seconds: dict[str, float]
    warnings: list[str]


@dataclass(frozen=True)
class Request:
    """An unchecked request: what a page or a client sent."""

    prompt: Any
    picture: str | None
    background: Any
    settings: Mapping[str, Any]


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the empty ones, for which the preset's value holds."""
    return {name: value for name, value in values.items() if value is not None}


def wait_for_pipeline(loader: Loader) -> Iterator[float]:
    """Yield the seconds waited until the model is loaded.

    Raises:
        WeightsError: loading failed.
    """
    loader.start()
    while not loader.wait(0.25):
        yield loader.seconds
    if loader.pipeline is None:
        raise WeightsError(loader.failure)


def run(
    pipeline: Gap3DPipeline, work: WorkDir, request: Request, formats: tuple[str, ...]
) -> Iterator[Settings | StageEvent | Result]:
    """Yield the checked settings, an event per finished step, and the result; closing it ends the run.

    Raises:
        Gap3DError: with a sentence for the person.
    """
    settings = pipeline.settings(**given(request.settings), formats=list(formats))
    text = clean_text(request.prompt)
    picture = None
    if request.picture is not None:
        picture = cut_out(open_image(request.picture), request.background or "auto")
    if not text and picture is None:
        raise InputError(texts.NOTHING_GIVEN)
    yield settings
    with closing(pipeline.stages(text, picture, settings)) as events:
        for event in events:
            yield event
    asset, start = event.preview, time.perf_counter()
    with _storing(), work.new_result() as (key, folder):
        stem = file_stem(text)
        glb = asset.save(folder / f"{stem}.glb")
        ply = asset.save(folder / f"{stem}.ply") if "ply" in formats else None
        recipe_file = asset.save(folder / f"{stem}.json")
        _keep_mesh(asset, folder)
    seconds = {name: value for name, value in asset.seconds.items() if name in texts.STAGES}
    seconds["files"] = time.perf_counter() - start
    yield Result(key, glb, ply, recipe_file, asset.recipe, seconds, list(asset.warnings))


def turntable(folder: Path) -> Iterator[tuple[float, Path | None]]:
    """Make the turntable of a result, unless it is there; yields (finished share, path of the MP4 at the end)."""
    from safetensors.torch import load_file

    from gap3d_app.render.turntable import save_mp4, turntable_frames
    from gap3d_app.values import Mesh

    path = next(folder.glob("*.glb")).with_suffix(".mp4")
    if not path.exists():
        mesh = Mesh(**load_file(folder / "mesh.safetensors"))
        frames = []
        for frame in turntable_frames(mesh, TURNTABLE_FRAMES, TURNTABLE_SIZE):
            frames.append(frame)
            yield len(frames) / (TURNTABLE_FRAMES + 1), None
        with _storing():
            save_mp4(frames, path)
    yield 1.0, path


def file_stem(text: str) -> str:
    """A short file name of plain letters and digits for a prompt."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:40].strip("-") or "model"


def unexpected(error: Exception) -> str:
    """Log an error that nobody foresaw under a mark; returns the sentence that names the mark."""
    mark = secrets.token_hex(4)
    logger.error("Unexpected error %s", mark, exc_info=error)
    return texts.UNEXPECTED.format(mark=mark)


@contextmanager
def _storing() -> Iterator[None]:
    """Visitors learn that the server could not write, its log where and why."""
    try:
        yield
    except (OSError, OutputError) as error:
        logger.error("A result could not be written: %s", error)
        raise OutputError(texts.NOT_STORED) from error


def _keep_mesh(asset: Any, folder: Path) -> None:
    # The turntable is rendered only when somebody asks for it, perhaps an hour later.
    from safetensors.torch import save

    parts = {"vertices": asset.mesh.vertices, "faces": asset.mesh.faces, "colors": asset.mesh.colors}
    kept = {name: value.detach().cpu().contiguous() for name, value in parts.items() if value is not None}
    write_atomic(folder / "mesh.safetensors", save(kept))
