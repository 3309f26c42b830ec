"""The composer's controls that depend on the chosen weights."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from gap3d_app.estimate import FULL_SIZE_BYTES
from gap3d_app.prompt import MULTI_IMAGE
from gap3d_app.settings import REPRESENTATIONS, Settings
from gap3d_app.ui import fields, texts
from gap3d_app.vocabulary import Vocabulary

if TYPE_CHECKING:
    from gap3d_app.sources.offers import Offer
    from gap3d_app.ui.page import Parts

ADVANCED = (
    ("grid_steps", "grid_guidance"), ("structure_steps", "structure_guidance"), ("slat_steps", "slat_guidance"),
    ("target_faces", "texture_size"), ("unwrap", "scale_m"), ("roughness", "min_opacity"),
    ("turntable", "turntable_shading"),
)
"""Settings of the folded part, row by row."""


def model_choice(parts: Parts, offers: list[Offer], card: bool) -> None:
    """The choice of weights, where there is one, and what to expect of them.

    Args:
        card: whether there is a graphics card.
    """
    parts.model = fields.Dropdown(
        [(offer.label, offer.key) for offer in offers], value=offers[0].key, label=texts.MODEL_LABEL,
        visible=len(offers) > 1, elem_id="model",
    )
    parts.slow_here = not card
    parts.note = gr.HTML(note_html(offers[0], card), elem_id="model-note")


def note_html(offer: Offer, card: bool) -> str:
    """What to expect of weights on this machine."""
    full = max(offer.sizes.values(), default=0) > FULL_SIZE_BYTES
    words = f"{offer.note} {texts.NO_CARD}" if full and not card else offer.note
    html = f'<p class="g-cost">{escape(words)}</p>'
    if vocabulary := Vocabulary.of(offer.args):
        summary, things = texts.THINGS.format(count=len(vocabulary.things)), escape(", ".join(vocabulary.things))
        html += f'<details class="g-cost"><summary>{summary}</summary>{things}</details>'
    return html


def advanced(parts: Parts, offer: Offer) -> None:
    """The folded part: every setting, further pictures, a mesh to keep."""
    specs = Settings.specs()
    parts.advanced = {}
    with gr.Accordion(texts.ADVANCED, open=False, elem_id="advanced"):
        for names in ADVANCED:
            with gr.Row(visible=names[0] != "grid_steps" or offer.grid) as row:
                for name in names:
                    more = {"choices": turntables(offer)} if name == "turntable" else {}
                    parts.advanced[name] = fields.control(specs[name], min_width=130, **more)
            parts.grid_row = row if names[0] == "grid_steps" else parts.grid_row
        with gr.Column(visible=offer.pictures) as parts.views_box:
            parts.views = fields.Pictures(
                label=texts.VIEWS_LABEL, file_count="multiple", height=160, elem_id="views",
                file_types=[".png", ".jpg", ".jpeg", ".webp"],
            )
            parts.multi_image = fields.Radio(
                [(texts.MULTI[name], name) for name in MULTI_IMAGE], value=MULTI_IMAGE[0], label=texts.MULTI_LABEL,
                info=texts.MULTI_HELP, elem_id="multi-image",
            )
        parts.mesh = fields.MeshFile(label=texts.MESH_LABEL, height=160, elem_id="mesh", file_types=[".glb"])


def turntables(offer: Offer) -> list[str]:
    """What turntables can show."""
    return [name for name in REPRESENTATIONS if name != "radiance" or offer.radiance]


def shown(parts: Parts, offer: Offer) -> dict[Any, Any]:
    """Updates of the controls for the chosen weights."""
    return {
        parts.note: note_html(offer, not parts.slow_here),
        parts.words_box: gr.update(visible=offer.words),
        parts.pictures_box: gr.update(visible=offer.pictures),
        parts.views_box: gr.update(visible=offer.pictures),
        parts.grid_row: gr.update(visible=offer.grid),
        parts.advanced["turntable"]: gr.update(choices=turntables(offer), value="mesh"),
    }
