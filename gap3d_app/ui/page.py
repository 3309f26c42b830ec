"""The page's layout and which event calls which handler."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from gap3d_app.background import METHODS, u2net_file
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.settings import Settings
from gap3d_app.sources.offers import Offer
from gap3d_app.ui import api, controls, fields, scripts, texts
from gap3d_app.ui.events import Handlers, cost_html
from gap3d_app.ui.shelf import Shelf
from gap3d_app.ui.status import Progress, cut_out_html, tiles_html
from gap3d_app.ui.workdir import WorkDir

MAX_WAITING = 16
"""Requests that may wait for the model; further ones are told that the queue is full."""

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
COUNTED = ("grid_steps", "structure_steps", "slat_steps")
"""Settings on which the time of a run depends."""

HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass
class Parts:
    """Components that handlers read or fill; see `build_page` for where they stand."""

    model: Any = None
    note: Any = None
    slow_here: bool = False
    words_box: Any = None
    prompt: Any = None
    pictures_box: Any = None
    picture: Any = None
    background: Any = None
    cut_out: Any = None
    blend: Any = None
    preset: Any = None
    seed: Any = None
    randomise: Any = None
    cost: Any = None
    advanced: dict[str, Any] | None = None
    grid_row: Any = None
    views_box: Any = None
    views: Any = None
    multi_image: Any = None
    mesh: Any = None
    generate: Any = None
    cancel: Any = None
    viewer: Any = None
    status: Any = None
    tiles: Any = None
    glb: Any = None
    ply: Any = None
    recipe: Any = None
    turntable: Any = None
    turntable_file: Any = None
    result: Any = None

    @property
    def settings(self) -> list[str]:
        """Names of the settings among the inputs, in their order."""
        return ["preset", "seed", "blend", *self.advanced]

    @property
    def inputs_by_name(self) -> dict[str, Any]:
        """Inputs of a run by what handlers call them."""
        names = ("model", "prompt", "picture", "background", "views", "multi_image", "mesh", "randomise", "preset",
                 "seed", "blend")  # fmt: skip
        return {name: getattr(self, name) for name in names} | self.advanced

    @property
    def inputs(self) -> list[Any]:
        """Inputs of a run in the order that handlers expect."""
        return list(self.inputs_by_name.values())

    @property
    def depending(self) -> list[Any]:
        """What the choice of the model changes."""
        return [self.note, self.words_box, self.pictures_box, self.views_box, self.grid_row,
                self.advanced["turntable"]]  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        """Everything that a run may change."""
        return [self.status, self.tiles, self.viewer, self.seed, self.result, *self.downloads]

    @property
    def downloads(self) -> list[Any]:
        """The buttons below the viewer."""
        return [self.glb, self.ply, self.recipe, self.turntable]


def build_page(
    offers: list[Offer], load: Callable[[Offer], Gap3DPipeline], work: WorkDir | None = None, *,
    max_waiting: int = MAX_WAITING, device: str = "cpu", copied: bool = False,
    compiled: bool = False,
) -> gr.Blocks:  # fmt: skip
    """The page, ready for `server.launch_page`; the first offer's pipeline begins to load in the background.

    Sets GRADIO_TEMP_DIR, so that uploads lie in the work folder.

    Args:
        offers: the weights that visitors may choose.
        load: returns the pipeline of an offer; called once in a thread, again after a failure.
        work: where uploads and results go; None makes a temporary folder.
        max_waiting: requests that may wait in the queue.
        device, copied, compiled: see `Shelf`.
    """
    work = work or WorkDir()
    os.environ["GRADIO_TEMP_DIR"] = str(work.uploads)
    shelf = Shelf(offers, load, device, copied, compiled)
    age = int(work.max_age_s)
    with gr.Blocks(title=texts.TITLE, analytics_enabled=False, delete_cache=(600, age), fill_width=True) as page:
        gr.HTML(f'<header class="g-head"><h1>{texts.TITLE}</h1><p>{texts.TAGLINE}</p></header>')
        parts = Parts()
        with gr.Row(elem_classes="g-page"):
            with gr.Column(scale=5, min_width=300, elem_classes="g-composer"):
                controls.model_choice(parts, offers, device == "cuda")
                _composer(parts, shelf)
            with gr.Column(scale=7, min_width=300, elem_classes="g-result"):
                _result(parts)
        gr.HTML(f'<footer class="g-foot"><p>{texts.PRIVACY}</p></footer>')
        names = [path.stem for path in _example_pictures()]
        page.load(None, None, None, js=scripts.on_load(names), **HIDDEN)
        _wire(parts, Handlers(shelf, work, parts))
        api.add_endpoint(shelf, work, **MODEL)
    page.queue(api_open=False, max_size=max_waiting)
    page.work = work
    return page


def _composer(parts: Parts, shelf: Shelf) -> None:
    specs, offer = Settings.specs(), shelf.offers[shelf.first]
    with gr.Column(visible=offer.words, elem_classes="g-part") as parts.words_box:
        _words(parts)
    with gr.Column(visible=offer.pictures, elem_classes="g-part") as parts.pictures_box:
        _pictures(parts)
    blend = specs["blend"]
    parts.blend = fields.Slider(
        blend.minimum, blend.maximum, blend.default, step=blend.step, label=texts.BLEND_LABEL, info=blend.help,
        visible=False, elem_id="blend",
    )
    with gr.Row(elem_classes="g-run"):
        preset, seed = specs["preset"], specs["seed"]
        parts.preset = fields.Radio(
            [(name.capitalize(), name) for name in preset.choices], value=preset.default, label=preset.label,
            info=preset.help, elem_id="preset", min_width=170,
        )
        with gr.Group(elem_classes="g-seed"):
            parts.seed = fields.Number(value=seed.default, label=seed.label, elem_id="seed", step=1)
            parts.randomise = fields.Checkbox(value=True, label=texts.RANDOMISE, elem_id="randomise")
    with gr.Row(elem_classes="g-buttons"):
        parts.generate = gr.Button(texts.GENERATE, variant="primary", elem_id="generate", scale=3, min_width=140)
        parts.cancel = gr.Button(texts.CANCEL, interactive=False, elem_id="cancel", scale=1, min_width=90)
    usual = dict(words=offer.words, picture=not offer.words, shape=False)
    cost = cost_html(shelf.seconds(shelf.first, {}, **usual), shelf.compiles(shelf.first, **usual))
    parts.cost = gr.HTML(cost, elem_id="cost")
    controls.advanced(parts, offer)


def _words(parts: Parts) -> None:
    parts.prompt = fields.Text(
        label=texts.PROMPT_LABEL, placeholder=texts.PROMPT_PLACEHOLDER, lines=2, max_lines=6, elem_id="prompt",
        autofocus=True, submit_btn=False,
    )
    prompts = _example_prompts()
    if prompts:
        gr.Examples(prompts, parts.prompt, label=texts.EXAMPLE_PROMPTS_LABEL, elem_id="example-prompts",
                    api_visibility="private", examples_per_page=8)


def _pictures(parts: Parts) -> None:
    with gr.Row(elem_classes="g-pictures", equal_height=True):
        parts.picture = fields.Picture(
            label=texts.PICTURE_LABEL, type="filepath", sources=["upload"], height=190,
            elem_id="picture", buttons=[], min_width=110, placeholder=texts.PICTURE_PLACEHOLDER,
        )
        with gr.Column(min_width=110):
            parts.cut_out = gr.HTML(cut_out_html(None, texts.CUT_OUT_EMPTY), elem_id="cut-out")
    methods = [(texts.METHODS[name], name) for name in METHODS if name != "u2net" or u2net_file()]
    parts.background = fields.Dropdown(methods, value="auto", label=texts.METHOD_LABEL, visible=False,
                                       elem_id="background")
    pictures = _example_pictures()
    if pictures:
        gr.Examples([str(path) for path in pictures], parts.picture, label=texts.EXAMPLE_PICTURES_LABEL,
                    elem_id="example-pictures", api_visibility="private", examples_per_page=8)


def _result(parts: Parts) -> None:
    parts.viewer = gr.Model3D(
        label=texts.VIEWER_LABEL, elem_id="viewer", height="clamp(300px, 36vw, 440px)", clear_color=(0, 0, 0, 0),
        interactive=False,
    )
    with gr.Row(elem_classes="g-downloads"):
        def button(label: str, name: str, **kwargs: Any) -> Any:
            return gr.DownloadButton(label, interactive=False, size="md", elem_id=name, min_width=120, **kwargs)

        parts.glb = button(texts.GLB, "download-glb", variant="primary")
        parts.ply = button(texts.PLY, "download-ply")
        parts.turntable = gr.Button(texts.TURNTABLE, interactive=False, size="md", elem_id="turntable", min_width=120)
        parts.recipe = button(texts.RECIPE, "download-recipe")
    parts.turntable_file = gr.DownloadButton(visible="hidden", elem_id="turntable-file")
    gr.HTML('<p id="said" role="status"></p>', elem_classes="g-said")
    parts.status = gr.HTML(Progress().html(), elem_id="status")
    parts.tiles = gr.HTML(tiles_html({}), elem_id="tiles")
    parts.result = gr.State(None)


def _wire(parts: Parts, handlers: Handlers) -> None:
    start = dict(
        fn=handlers.generate, inputs=parts.inputs, outputs=parts.outputs, validator=handlers.check,
        api_name="page_generate", api_visibility="private", show_progress="minimal", show_progress_on=parts.status,
        trigger_mode="once", **MODEL,
    )
    # Listeners of one click follow each other: these must come first.
    parts.generate.click(None, [parts.prompt, parts.picture, parts.views], None, js=scripts.BEGIN, **HIDDEN)
    parts.generate.click(
        handlers.begun, parts.inputs, [parts.cancel, parts.status], api_name="page_begun", queue=False, **HIDDEN
    )
    run = parts.generate.click(**start)
    run.success(
        handlers.show, parts.result, [parts.viewer, *parts.downloads], api_name="page_show", queue=False, **HIDDEN
    )
    for number, end in enumerate((run.then, run.failure)):  # the one is silent about a run that raised an error
        end(
            handlers.ended, parts.status, [parts.status, parts.cancel], api_name=f"page_ended_{number}", queue=False,
            **HIDDEN,
        )
    parts.cancel.click(None, None, None, cancels=run, **HIDDEN)
    parts.model.input(
        handlers.choose, parts.model, parts.depending, api_name="page_choose", queue=False, **HIDDEN
    )
    counted = [parts.model, parts.preset, parts.picture, parts.views, parts.mesh]
    counted += [parts.advanced[name] for name in COUNTED]
    cost = dict(fn=handlers.cost, inputs=parts.inputs, outputs=parts.cost, queue=False, **HIDDEN)
    triggers = [part.change for part in counted]
    gr.on(triggers, api_name="page_cost", trigger_mode="always_last", **cost)
    run.then(api_name="page_cost_after", **cost)
    show_blend = scripts.show_blend([key for key, offer in handlers.shelf.offers.items() if offer.both])
    for part in (parts.prompt, parts.picture, parts.views, parts.model):
        given = [parts.prompt, parts.picture, parts.views, parts.model]
        part.change(None, given, parts.blend, js=show_blend, **HIDDEN)
    parts.picture.change(None, parts.picture, parts.background, js=scripts.SHOW_METHOD, **HIDDEN)
    for number, change in enumerate((parts.picture.change, parts.background.input)):
        change(
            handlers.cut_out, [parts.picture, parts.background], parts.cut_out, api_name=f"page_cut_out_{number}",
            concurrency_id="cut-out", concurrency_limit=2, trigger_mode="always_last", **HIDDEN,
        )
    made = parts.turntable.click(
        handlers.turntable, parts.result, [parts.turntable, parts.turntable_file], api_name="page_turntable",
        concurrency_id="turntable", concurrency_limit=1, **HIDDEN,
    )
    made.success(None, None, None, js=scripts.DOWNLOAD, **HIDDEN)
    for number, end in enumerate((made.then, made.failure)):
        end(
            handlers.turnable, parts.result, parts.turntable, api_name=f"page_turnable_{number}", queue=False, **HIDDEN
        )


def _example_pictures() -> list[Path]:
    return sorted(EXAMPLES.glob("*.png"))


def _example_prompts() -> list[str]:
    path = EXAMPLES / "prompts.txt"
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()] if path.is_file() else []
