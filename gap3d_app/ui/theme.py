"""Colours, fonts and style of the page; the fonts come with gradio, nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils.colors import Color
from gradio.themes.utils.fonts import LocalFont

STYLE = Path(__file__).with_name("style.css").read_text("utf-8")

INK = Color(name="ink", c50="#f7f7f5", c100="#eeeeea", c200="#dfdfd9", c300="#c6c6bf", c400="#95958e",
            c500="#6b6b66", c600="#52524e", c700="#3a3a38", c800="#262625", c900="#1a1a1a", c950="#121212")
SEA = Color(name="sea", c50="#edf7f6", c100="#d3ebe9", c200="#a9d8d4", c300="#74beb9", c400="#3f9f9a",
            c500="#1f827e", c600="#146a68", c700="#115655", c800="#0f4545", c900="#0d393a", c950="#062223")


def theme() -> gr.themes.Base:
    """Quiet greys with one sea-green accent, in light and dark."""
    base = gr.themes.Base(
        primary_hue=SEA, secondary_hue=SEA, neutral_hue=INK, radius_size=gr.themes.sizes.radius_md,
        font=(LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
        font_mono=(LocalFont("IBM Plex Mono", weights=(400,)), "monospace"),
    )
    return base.set(
        body_background_fill="*neutral_50", body_background_fill_dark="*neutral_950",
        block_background_fill="white", block_background_fill_dark="*neutral_900",
        block_border_width="1px", block_border_color="*neutral_200", block_border_color_dark="*neutral_800",
        block_shadow="none", block_shadow_dark="none",
        block_label_background_fill="transparent", block_label_background_fill_dark="transparent",
        block_label_border_width="0px", block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300", block_label_text_weight="700",
        block_title_text_weight="700", block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200", block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        body_text_color="*neutral_900", body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
        input_background_fill="*neutral_50", input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300", input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500", input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600", button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        button_secondary_background_fill="white", button_secondary_background_fill_dark="*neutral_900",
        button_secondary_border_color="*neutral_300", button_secondary_border_color_dark="*neutral_700",
        button_secondary_text_color="*neutral_800", button_secondary_text_color_dark="*neutral_100",
        button_border_width="1px", button_border_width_dark="1px",
        button_primary_border_color="*primary_600", button_primary_border_color_dark="*primary_500",
        button_large_text_weight="700", button_medium_text_weight="400",
        button_large_radius="*radius_md", button_medium_radius="*radius_md",
        checkbox_label_background_fill="transparent", checkbox_label_background_fill_dark="transparent",
        slider_color="*primary_500", slider_color_dark="*primary_400",
    )
