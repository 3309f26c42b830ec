"""Samplers of the flows: what pipeline.json says and what a run's settings say."""

from __future__ import annotations

from typing import Any

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.settings import Settings


def sampler_params(args: dict[str, Any], name: str, preset: str, *from_settings: str) -> dict[str, Any]:
    """A sampler's further arguments from pipeline.json (TRELLIS's layout: args, and params of a run).

    "preset_samplers" there may have others for a preset, by the name without a route.
    """
    entry, presets = args.get(name, {}), args.get("preset_samplers", {}).get(preset, {})
    merged = {**entry.get("args", {}), **entry.get("params", {}), **presets.get(name.removeprefix("text_"), {})}
    return {key: value for key, value in merged.items() if key not in from_settings}


def flow_sampler(
    args: dict[str, Any], stage: str, settings: Settings, route: str = "", multi_cond: str | None = None
) -> FlowSampler:
    """The sampler of one of TRELLIS's two flows.

    Args:
        args: of pipeline.json.
        stage: "structure" or "slat".
        route: which flows are used, see `stages.Run`.
        multi_cond: see `FlowSampler`.
    """
    return FlowSampler(
        steps=getattr(settings, f"{stage}_steps"), cfg_strength=getattr(settings, f"{stage}_guidance"),
        multi_cond=multi_cond,
        **sampler_params(args, f"{route}{stage}_sampler", settings.preset, "steps", "cfg_strength"),
    )  # fmt: skip
