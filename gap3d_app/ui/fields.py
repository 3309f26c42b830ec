"""Input components whose values reach the one settings schema unchecked.

Gradio's own components check some values and not others (bounds but not NaN, None with a bare TypeError), open
pictures before anyone could look at their size, and fetch a file when a client names an http address as its path.
The classes here pass the raw value on and fetch nothing, so that every door gives the schema's sentences.
"""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta

from gap3d_app.settings import Spec
from gap3d_app.ui import texts


def _raw(self: Any, payload: Any) -> Any:
    return payload


def _picture_path(self: Any, payload: Any) -> str | None:
    """Path of the uploaded file, not opened: `prompt.open_image` checks size and format before decoding."""
    if payload is None:
        return None
    if not payload.path:
        raise gr.Error(texts.PICTURE_NOT_A_FILE)
    return payload.path


def _mesh_path(self: Any, payload: Any) -> str | None:
    """Path of the uploaded file, not opened: `glb_reader` reads no more than it must."""
    if payload is None:
        return None
    if not payload.path:
        raise gr.Error(texts.MESH_NOT_A_FILE)
    return payload.path


def _picture_paths(self: Any, payload: Any) -> list[str]:
    """Paths of the uploaded files, not opened."""
    return [] if payload is None else [_picture_path(self, one) for one in payload]


def _refuse_addresses(path: Any) -> None:
    if "://" in str(path):
        raise gr.Error(texts.NO_FETCH)


async def _move_async(self: Any, path: Any) -> str | None:
    _refuse_addresses(path)
    return await super(type(self), self).async_move_resource_to_block_cache(path)


def _move(self: Any, path: Any) -> str | None:
    _refuse_addresses(path)
    return super(type(self), self).move_resource_to_block_cache(path)


def _component(base: type, preprocess: Any = _raw) -> type:
    """A subclass of a gradio component with its own preprocess.

    Made by ABCMeta because gradio's metaclass writes a .pyi file beside the source of every subclass.
    """
    attributes = {
        "__module__": __name__,
        "preprocess": preprocess,
        "get_block_name": lambda self: base.__name__.lower(),
        "async_move_resource_to_block_cache": _move_async,
        "move_resource_to_block_cache": _move,
    }
    return ABCMeta.__new__(ComponentMeta, base.__name__, (base,), attributes)


Text = _component(gr.Textbox)
Number = _component(gr.Number)
Slider = _component(gr.Slider)
Radio = _component(gr.Radio)
Dropdown = _component(gr.Dropdown)
Checkbox = _component(gr.Checkbox)
Picture = _component(gr.Image, _picture_path)
Pictures = _component(gr.File, _picture_paths)
MeshFile = _component(gr.File, _mesh_path)

SLIDER_STEPS = 200  # a range of more steps is typed, not dragged


def control(spec: Spec, **kwargs: Any) -> Any:
    """The control of one setting, with its range, unit and help.

    Sampling settings may stay empty: then the preset's value holds. They are text boxes, because gradio turns an
    empty number into 0; `number` reads them.
    """
    label = f"{spec.label} ({spec.unit})" if spec.unit and spec.unit not in spec.label else spec.label
    common = dict(label=label, info=spec.help, elem_id=f"set-{spec.name}", **kwargs)
    if spec.kind == "choice":
        return Dropdown(**{"choices": list(spec.choices), "value": spec.default} | common)
    if spec.group == "sampling":
        placeholder = f"{texts.FROM_PRESET} ({spec.minimum:g} to {spec.maximum:g})"
        return Text(value="", placeholder=placeholder, max_lines=1, **common)
    if (spec.maximum - spec.minimum) / spec.step <= SLIDER_STEPS:
        return Slider(spec.minimum, spec.maximum, spec.default, step=spec.step, **common)
    return Number(value=spec.default, step=spec.step, **common)


def number(value: Any) -> Any:
    """The number that a text box holds, None for an empty one, and anything else as it is for the schema to judge."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return value
