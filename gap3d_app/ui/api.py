"""The one documented endpoint, /generate, that gradio_client and plain HTTP call.

Its parameters are made from the settings schema; its handler is a generator that yields once per sampler step, so
that a cancelled job stops there and frees its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from gap3d_app.background import METHODS
from gap3d_app.errors import Gap3DError, InputError
from gap3d_app.prompt import MULTI_IMAGE
from gap3d_app.settings import Settings, Spec
from gap3d_app.ui import fields, runs, texts
from gap3d_app.ui.shelf import Shelf
from gap3d_app.ui.workdir import WorkDir

DESCRIPTION = """Make a textured 3D model from a prompt, a picture, or both.

Returns the file and the recipe (prompt, settings, seeds, versions) from which it can be made again, with warnings for
the person beside it. Parameters that are null take the preset's value. views are further pictures of the same object,
mesh is a GLB whose shape is kept, model one of the weights that the page offers, file the kind of file: a GLB unless it
says otherwise, ply for Gaussians, npz for a radiance field, obj, stl.
"""

FILES = ("glb", "ply", "npz", "obj", "stl")
"""Files that are written within a second or two."""

_REQUIRED = ("preset", "seed", "blend")  # shown with their defaults; the others stay null for the preset's value


def add_endpoint(shelf: Shelf, work: WorkDir, **event: Any) -> None:
    """Add /generate to the Blocks that are being built.

    Args:
        shelf, work: as for the page.
        **event: further arguments of the event, such as the concurrency id it shares with the page.
    """
    specs = {name: spec for name, spec in Settings.specs().items() if name != "formats"}
    inputs = [
        fields.Text(value="", label="Prompt", visible=False),
        fields.Picture(label="Picture", visible=False, type="filepath"),
        fields.Dropdown(choices=list(METHODS), value="auto", label="Background removal", visible=False),
        *[_hidden(spec) for spec in specs.values()],
        fields.Pictures(label="Further pictures of the object", file_count="multiple", visible=False),
        fields.Dropdown(choices=list(MULTI_IMAGE), value=MULTI_IMAGE[0], label="With several pictures", visible=False),
        fields.MeshFile(label="GLB whose shape is kept", visible=False),
        fields.Dropdown(choices=list(shelf.offers), value=shelf.first, label="Model", visible=False),
        fields.Dropdown(choices=list(FILES), value=FILES[0], label="Kind of file", visible=False),
    ]
    outputs = [gr.File(label="File", visible=False), gr.JSON(label="Recipe", visible=False)]
    door = gr.Button("API", visible=False)
    door.click(
        _endpoint(shelf, work, specs), inputs, outputs, api_name="generate", api_description=DESCRIPTION,
        api_visibility="public", show_progress="hidden", **event,
    )


def _hidden(spec: Spec) -> Any:
    value = spec.default if spec.name in _REQUIRED else None
    label = f"{spec.label}: {spec.help} {spec.allowed.capitalize()}"
    if spec.kind == "choice":
        return fields.Dropdown(choices=list(spec.choices), value=value, label=label, visible=False)
    return fields.Number(value=value, label=label, visible=False)


def _endpoint(shelf: Shelf, work: WorkDir, specs: dict[str, Spec]) -> Callable[..., Iterator[tuple]]:
    def generate(*values: Any) -> Iterator[tuple]:
        prompt, image, background, *rest, views, multi_image, mesh, model, file = values
        whole = {name for name, spec in specs.items() if spec.kind == "choice" and isinstance(spec.choices[0], int)}
        settings = {
            name: fields.number(value) if name in whole else value for name, value in zip(specs, rest, strict=True)
        }
        request = runs.Request(prompt, image, background, settings, views, multi_image, mesh, model)
        file = file or FILES[0]
        try:
            if file not in FILES:
                raise InputError(f"The kind of file is {str(file)[:20]!r}; it must be one of {', '.join(FILES)}.")
            for _ in runs.wait_for_pipeline(shelf.loader(shelf.offer(model).key)):
                yield gr.skip(), gr.skip()
            with closing(runs.run(shelf, work, request, (file,))) as events:
                for event in events:
                    if isinstance(event, runs.Result):
                        yield str(event.files[file]), event.recipe | {"warnings": event.warnings}
                    else:
                        yield gr.skip(), gr.skip()
        except Gap3DError as error:
            raise gr.Error(str(error), title=texts.ERROR_TITLE, print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            message = runs.unexpected(error)
            raise gr.Error(message, title=texts.ERROR_TITLE, print_exception=False) from error

    types = {"int": int, "float": float, "choice": str}
    parameter, kind = inspect.Parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        parameter("prompt", kind, default="", annotation=str),
        parameter("image", kind, default=None, annotation=str),
        parameter("background", kind, default="auto", annotation=str),
        *[parameter(name, kind, default=spec.default if name in _REQUIRED else None, annotation=types[spec.kind])
          for name, spec in specs.items()],
        parameter("views", kind, default=None, annotation=list[str]),
        parameter("multi_image", kind, default=MULTI_IMAGE[0], annotation=str),
        parameter("mesh", kind, default=None, annotation=str),
        parameter("model", kind, default=shelf.first, annotation=str),
        parameter("file", kind, default=FILES[0], annotation=str),
    ]
    # Gradio takes the names of an endpoint's parameters from the function's signature.
    generate.__signature__ = inspect.Signature(parameters)
    return generate
