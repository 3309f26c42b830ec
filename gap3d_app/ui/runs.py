"""One run from request to files; the page and the API both go through here."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap3d_app.errors import OutputError, WeightsError
from gap3d_app.estimate import STEPPED
from gap3d_app.geometry.glb_reader import read_glb
from gap3d_app.prompt import MULTI_IMAGE, Prompt
from gap3d_app.ui import gpu, keeping, texts

if TYPE_CHECKING:
    from gap3d_app.settings import Settings
    from gap3d_app.ui.loading import Loader
    from gap3d_app.ui.shelf import Shelf
    from gap3d_app.ui.workdir import WorkDir

logger = logging.getLogger(__name__)

TURNTABLE_FRAMES, TURNTABLE_SIZE = 36, 320


@dataclass(frozen=True)
class Result:
    """Files of a finished run.

    Attributes:
        key: unguessable id; the folder's name.
        files: paths by format: those that were asked for, and json, the recipe.
        recipe: plain values.
        seconds: wall time per stage, "files" for texture and writing.
        warnings: sentences for the person.
    """

    key: str
    files: dict[str, Path]
    recipe: dict[str, Any]
    seconds: dict[str, float]
    warnings: list[str]


@dataclass(frozen=True)
class Request:
    """An unchecked request: what a page or a client sent.

    Attributes:
        prompt, background, settings, multi_image: values of any type.
        picture, views, mesh: paths of uploaded files, not opened; views are further pictures of the object.
        model: key of an offer; None for the first.
    """

    prompt: Any
    picture: str | None
    background: Any
    settings: Mapping[str, Any]
    views: Sequence[str] = ()
    multi_image: Any = None
    mesh: str | None = None
    model: Any = None

    def read(self) -> Prompt:
        """Check everything but the settings.

        Raises:
            InputError: nothing to work from, or something that cannot be used.
        """
        pictures = [path for path in (self.picture, *self.views) if path is not None]
        mode = self.multi_image or MULTI_IMAGE[0]
        prompt = Prompt.read(self.prompt, pictures, self.background or "auto", multi_image=mode)
        return prompt if self.mesh is None else replace(prompt, mesh=read_glb(self.mesh))


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
    shelf: Shelf, work: WorkDir, request: Request, formats: tuple[str, ...], tiles: bool = False
) -> Iterator[Settings | gpu.Step | Result]:
    """Yield the checked settings, every finished step, and the result; closing it ends the run.

    Args:
        shelf: the request's model is loaded.
        formats: files to write.
        tiles: whether steps carry pictures.

    Raises:
        Gap3DError: with a sentence for the person.
    """
    offer = shelf.offer(request.model)
    pipeline = shelf.loader(offer.key).pipeline
    prompt = request.read()
    settings = pipeline.settings(prompt, **given(request.settings), formats=list(formats))
    yield settings
    words, shape = bool(prompt.text), prompt.mesh is not None
    planned = shelf.seconds(offer.key, given(request.settings), words, bool(prompt.pictures), shape)
    seconds = sum(value for stage, value in planned.items() if stage != "files")
    compiled = shelf.compiles(offer.key, words, bool(prompt.pictures), shape)
    task = gpu.Task(offer.key, prompt, settings, seconds, tiles)
    with closing(gpu.run(task, pipeline, lambda key: shelf.load(shelf.offer(key)))) as steps:
        for step in steps:
            yield step
    asset, start = step.asset, time.perf_counter()
    with _storing(), work.new_result() as (key, folder):
        stem = file_stem(prompt.text)
        files = {name: asset.save(folder / f"{stem}.{name}") for name in (*formats, "json")}
        keeping.keep(asset, folder)
    taken = {name: value for name, value in asset.seconds.items() if name in texts.STAGES}
    taken["files"] = time.perf_counter() - start
    usual = {stage: value for stage, value in taken.items() if not (compiled and stage in STEPPED)}
    shelf.learn(offer.key, settings, usual, words, shape)
    yield Result(key, files, asset.recipe, taken, list(asset.warnings))


def turntable(folder: Path) -> Iterator[tuple[float, Path | None]]:
    """Make the turntable of a result, unless it is there; yields (finished share, path of the MP4 at the end)."""
    from gap3d_app.render.turntable import save_mp4, turntable_frames

    path = next(folder.glob("*.glb")).with_suffix(".mp4")
    if not path.exists():
        frames, (shown, shading) = [], keeping.kept(folder)
        for frame in turntable_frames(shown, TURNTABLE_FRAMES, TURNTABLE_SIZE, shading=shading):
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
