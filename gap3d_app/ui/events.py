"""What happens when something on the page is used."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from gap3d_app.background import cut_out, on_checkerboard
from gap3d_app.errors import Gap3DError, InputError
from gap3d_app.prompt import clean_text, open_image
from gap3d_app.settings import SEED_MAX, Settings, Spec
from gap3d_app.ui import fields, gpu, runs, texts
from gap3d_app.ui.status import Progress, cut_out_html, tiles_html

if TYPE_CHECKING:
    from gap3d_app.ui.page import Parts
    from gap3d_app.ui.shelf import Shelf
    from gap3d_app.ui.workdir import WorkDir

CUT_OUT_SIDE = 320
FORMATS = ("glb", "ply")


class Handlers:
    """The page's event handlers; every value that a person has stays in the page, files in the work folder."""

    def __init__(self, shelf: Shelf, work: WorkDir, parts: Parts) -> None:
        self.shelf, self.work, self.parts = shelf, work, parts

    def check(self, *values: Any) -> list[dict]:
        """Validate before the run takes a place in the queue; messages appear under their fields.

        Args:
            *values: of Parts.inputs.
        """
        given, specs, checks = self._named(values), Settings.specs(), []
        for name, value in given.items():
            if name == "prompt":
                checks.append(_verdict(lambda: _require_something(given)))
            elif name in specs and value is not None and not (name == "seed" and given["randomise"]):
                checks.append(_verdict(lambda spec=specs[name], value=value: _check(spec, value, given)))
            else:
                checks.append(gr.validate(True, ""))
        return checks

    def begun(self, *values: Any) -> dict:
        """A run that the checks let through can be cancelled from now on, while it waits for its place too.

        Of another one the card says why it does not begin: the field that says so may be folded away or out of sight.
        """
        parts, refused = self.parts, [v["message"] for v in self.check(*values) if not v["is_valid"]]
        if not refused:
            return {parts.cancel: gr.update(interactive=True), parts.status: gr.skip()}
        progress = Progress()
        progress.end("refused", f"{texts.REFUSED}: {refused[0]}")
        return {parts.cancel: gr.update(interactive=False), parts.status: progress.html()}

    def generate(self, *values: Any) -> Iterator[dict]:
        """Run and stream; yields once per sampler step, so that Cancel ends it there."""
        progress = Progress()
        try:
            with closing(self._generate(progress, *values)) as updates:
                yield from updates
        except (Gap3DError, gr.Error) as error:
            message = str(getattr(error, "message", error))
        except Exception as error:  # the page must stay usable whatever happened
            message = runs.unexpected(error)
        else:
            return
        progress.end("failed", f"{texts.FAILED}: {message}")
        yield {self.parts.status: progress.html()}
        # Toasts render HTML, and messages may quote what a person typed.
        raise gr.Error(escape(message), title=texts.ERROR_TITLE, print_exception=False)

    def _generate(self, progress: Progress, *values: Any) -> Iterator[dict]:
        parts, given = self.parts, self._named(values)
        settings = {name: given[name] for name in parts.settings}
        if given["randomise"]:
            settings["seed"] = secrets.randbelow(SEED_MAX + 1)
        pictures: dict[str, str] = {}
        progress.state, progress.line = "running", texts.STAGES["prompt"]
        yield {parts.status: progress.html(), parts.seed: settings["seed"]}
        for seconds in runs.wait_for_pipeline(self.shelf.loader(self.shelf.offer(given["model"]).key)):
            progress.state, progress.line = "loading", f"{texts.LOADING} ({seconds:.0f} s)"
            yield {parts.status: progress.html()}
        wanted = ("prompt", "picture", "background", "views", "multi_image", "mesh", "model")
        request = runs.Request(**{name: given[name] for name in wanted}, settings=settings)
        with closing(runs.run(self.shelf, self.work, request, FORMATS, tiles=True)) as events:
            begun = False
            for event in events:
                if isinstance(event, Settings):
                    progress.begin(event)
                    yield {parts.status: progress.html()}
                    continue
                if not begun:  # what was asked for can be used, so the last result makes room
                    begun = True
                    yield self._cleared()
                if isinstance(event, runs.Result):
                    result = event
                    break
                progress.observe(event)
                if event.tile:
                    pictures[event.tile[0]] = event.tile[1]
                    yield {parts.status: progress.html(), parts.tiles: tiles_html(pictures)}
                else:
                    yield {parts.status: progress.html()}
        progress.seconds = result.seconds
        done = texts.DONE.format(seconds=sum(result.seconds.values()))
        progress.end("done", " ".join([f"{done}.", *result.warnings]) if result.warnings else done)
        yield {parts.status: progress.html(), parts.result: result.key}

    def _cleared(self) -> dict:
        """No result, nothing to download."""
        parts = self.parts
        files = {part: gr.update(value=None, interactive=False) for part in (parts.glb, parts.ply, parts.recipe)}
        gone = {parts.tiles: tiles_html({}), parts.viewer: None, parts.result: None}
        return files | gone | {parts.turntable: gr.update(interactive=False)}

    def _named(self, values: tuple) -> dict[str, Any]:
        """Values by name; what was typed into a text box as a number, None where it is empty.

        What the chosen weights cannot follow is put away on the page, and so it counts as not given.
        """
        specs = Settings.specs()
        numbers = {name for name in self.parts.settings if specs[name].kind != "choice"}
        named = zip(self.parts.inputs_by_name, values, strict=True)
        given = {name: fields.number(value) if name in numbers else value for name, value in named}
        offer = self.shelf.offers.get(given["model"]) if isinstance(given["model"], str) else None
        if offer and not offer.words:
            given["prompt"] = ""
        if offer and not offer.pictures:
            given |= {"picture": None, "views": []}
        return given

    def cost(self, *values: Any) -> dict:
        """What a run with these inputs would take, in words; empty where they cannot be used."""
        given, parts = self._named(values), self.parts
        words, picture = bool(_text_of(given["prompt"])), given["picture"] is not None or bool(given["views"])
        settings = runs.given({name: given[name] for name in parts.settings if name != "seed"})
        words, shape = words or not picture, given["mesh"] is not None
        try:
            key = self.shelf.offer(given["model"]).key
            planned = self.shelf.seconds(key, settings, words, picture, shape)
        except Gap3DError:
            return {parts.cost: ""}
        return {parts.cost: cost_html(planned, self.shelf.compiles(key, words, picture, shape))}

    def choose(self, model: Any) -> dict:
        """Show what the chosen weights take, and put away what they do not."""
        from gap3d_app.ui.controls import shown

        try:
            return shown(self.parts, self.shelf.offer(model))
        except Gap3DError as error:
            raise gr.Error(escape(str(error)), title=texts.ERROR_TITLE, print_exception=False) from None

    def show(self, key: str | None) -> dict:
        """Put a finished run's files on the page.

        A handler of its own: gr.Model3D does not draw a model that comes in the last message of a generator.
        """
        from gap3d_app.ui.view import camera_position

        parts, folder = self.parts, self.work.result(key)
        if folder is None:
            return {parts.viewer: None}
        glb = next(folder.glob("*.glb"))
        files = {parts.glb: glb, parts.ply: glb.with_suffix(".ply"), parts.recipe: glb.with_suffix(".json")}
        return {
            parts.viewer: gr.update(value=str(glb), camera_position=camera_position(glb)),
            parts.turntable: gr.update(interactive=True),
            **{button: gr.update(value=str(path), interactive=True) for button, path in files.items()},
        }

    def ended(self, card: Any) -> dict:
        """There is nothing to cancel any more; a card that still says "running" is that of a cancelled run.

        Runs after the run, however it ended: an answer to the Cancel button itself could be overtaken by the run's
        last message.
        """
        parts, update = self.parts, gr.update(interactive=False)
        if not isinstance(card, str) or not any(f'data-state="{state}"' in card for state in ("running", "loading")):
            return {parts.status: gr.skip(), parts.cancel: update}
        progress = Progress()
        progress.end("cancelled", texts.CANCELLED)
        return {parts.status: progress.html(), parts.cancel: update}

    def cut_out(self, picture: Any, background: Any) -> dict:
        """Show what will be taken from a picture before anybody runs anything."""
        parts = self.parts
        if picture is None:
            return {parts.cut_out: cut_out_html(None, texts.CUT_OUT_EMPTY)}
        try:
            cut = cut_out(open_image(picture), background or "auto")
        except Gap3DError as error:
            return {parts.cut_out: cut_out_html(None, "", str(error))}
        except Exception as error:
            return {parts.cut_out: cut_out_html(None, "", runs.unexpected(error))}
        small = cut.rgba.copy()
        small.thumbnail((CUT_OUT_SIDE, CUT_OUT_SIDE))
        from gap3d_app.ui.pictures import data_uri

        address = data_uri(on_checkerboard(small))
        return {parts.cut_out: cut_out_html(address, texts.METHOD_FOUND[cut.method], cut.warning)}

    def turntable(self, key: str | None) -> Iterator[dict]:
        """Render the turntable of the shown result and hand it to the hidden download button."""
        parts = self.parts
        folder = self.work.result(key)
        if folder is None:
            raise gr.Error(texts.TURNTABLE_GONE, title=texts.ERROR_TITLE, print_exception=False)
        message = None
        try:
            for share, made in runs.turntable(folder):
                path = made
                words = texts.TURNTABLE_MAKING.format(percent=round(100 * share))
                yield {parts.turntable: gr.update(value=words, interactive=False)}
        except Gap3DError as error:
            message = str(error)
        except Exception as error:
            message = runs.unexpected(error)
        again = gr.update(value=texts.TURNTABLE)  # whether it can be pressed is `turnable`'s to say
        if message is not None:
            yield {parts.turntable: again}
            raise gr.Error(escape(message), title=texts.ERROR_TITLE, print_exception=False)
        yield {parts.turntable: again, parts.turntable_file: str(path)}


    def turnable(self, key: str | None) -> dict:
        """A turntable has been made or has failed; the result that it was of may be gone from the page meanwhile."""
        return gr.update(interactive=self.work.result(key) is not None)


def cost_html(planned: dict[str, float], compiles: bool = False) -> str:
    """The line about the time of a run.

    Args:
        planned: seconds by stage.
        compiles: whether it compiles networks first.
    """
    seconds = sum(planned.values())
    time = f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
    if not gpu.lent():
        more = f" {texts.COST_COMPILE}" if compiles else ""
        return f'<p class="g-cost">{texts.COST.format(time=time)}{more}</p>'
    asked = gpu.asked_seconds(gpu.Task("", None, None, seconds - planned["files"]))
    return f'<p class="g-cost">{texts.COST_LENT.format(time=time, asked=asked)}</p>'


def _text_of(prompt: Any) -> str:
    try:
        return clean_text(prompt)
    except InputError:
        return ""


def _require_something(given: dict[str, Any]) -> None:
    if not clean_text(given["prompt"]) and given["picture"] is None and not given["views"]:
        raise InputError(texts.NOTHING_GIVEN)


def _check(spec: Spec, value: Any, given: dict[str, Any]) -> None:
    """A setting by itself, and a pair that excludes each other; named as on the page."""
    try:
        spec.check(value)
    except InputError as error:
        raise InputError(str(error).replace(f"Setting {spec.name} is", f"{spec.label} is", 1)) from None
    if spec.name == "turntable_shading":
        Settings.validated(turntable=given["turntable"], turntable_shading=value)


def _verdict(check: Any) -> dict:
    try:
        check()
    except Gap3DError as error:
        return gr.validate(False, str(error))
    return gr.validate(True, "")

