"""The one schema of settings: every number and choice of a run, with its range, unit and help text.

The command line's flags, the page's controls, the API's parameters and the recipe are all made from
`Settings` and the `Spec` of its fields; nothing else knows a range or a default. Values that the caller does
not give come from the preset of the weights in use, and what the preset does not give from the field default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any

from gap3d_app.errors import InputError

SEED_MAX = 2**31 - 1
PRESETS = ("fast", "standard")
FORMATS = ("glb", "ply", "npz", "obj", "stl", "mp4", "gif", "json")
REPRESENTATIONS = ("mesh", "gaussians", "radiance")
SHADINGS = ("color", "normal", "depth")


@dataclass(frozen=True)
class Spec:
    """What is allowed in one field and how a control for it looks.

    Attributes:
        name: field name; with dashes it is the command-line flag.
        kind: "int", "float", "choice" (one of choices) or "multi" (some of choices).
        default: value when neither the caller nor the preset gives one.
        label: two or three words for a control.
        help: one sentence.
        group: "run", "sampling" or "export"; controls of a group stay together.
        minimum, maximum, step: bounds (both allowed) and the step of a slider, for numbers.
        choices: allowed values, for choices.
        unit: unit of the number, "" when it has none.
    """

    name: str
    kind: str
    default: Any
    label: str
    help: str
    group: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[Any, ...] = ()
    unit: str = ""

    @property
    def flag(self) -> str:
        """Command-line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(str(item) for item in self.choices)
        if self.kind == "multi":
            return "a list of one or more of " + ", ".join(str(item) for item in self.choices)
        what = "a whole number" if self.kind == "int" else "a number"
        unit = f" {self.unit}" if self.unit else ""
        return f"{what} from {_plain(self.minimum)} to {_plain(self.maximum)}{unit}"

    def check(self, value: Any) -> Any:
        """The value in its own type, or an InputError that names the field, the value and what is allowed."""
        checked = _CHECKS[self.kind](self, value)
        if checked is None:
            raise InputError(f"Setting {self.name} is {_shown(value)}; it must be {self.allowed}.")
        return checked


def _plain(number: float | None) -> str:
    return f"{number:d}" if isinstance(number, int) else f"{number:g}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _check_float(spec: Spec, value: Any) -> float | None:
    # bool is an int in Python, but "seed = True" is a mistake. NaN fails both comparisons.
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if spec.minimum <= value <= spec.maximum else None


def _check_int(spec: Spec, value: Any) -> int | None:
    number = _check_float(spec, value)  # whole floats are welcome: sliders and JSON give them
    return int(number) if number is not None and number.is_integer() else None


def _check_choice(spec: Spec, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | Real):
        return None
    return next((item for item in spec.choices if item == value), None)


def _check_multi(spec: Spec, value: Any) -> tuple[Any, ...] | None:
    if not isinstance(value, list | tuple) or not value:
        return None
    if any(not isinstance(item, str) or item not in spec.choices for item in value):
        return None
    return tuple(item for item in spec.choices if item in value)


_CHECKS = {"int": _check_int, "float": _check_float, "choice": _check_choice, "multi": _check_multi}


def _setting(kind: str, default: Any, label: str, help: str, group: str, **limits: Any) -> Any:
    return field(default=default, metadata=dict(kind=kind, label=label, help=help, group=group, **limits))


@dataclass(frozen=True)
class Settings:
    """All settings of one run; build it with `validated`, which checks every field.

    Guidance numbers keep the convention of their stage: the grid's is a scale s (1 is none, gap3d.md 5.1),
    the structure's and the latent's is the strength w = s - 1 (0 is none, trellis.md 1.4).
    """

    preset: str = _setting(
        "choice", "standard", "Preset", "Fast takes fewer sampling steps.", "run",
        choices=PRESETS,
    )
    seed: int = _setting(
        "int", 0, "Seed", "The same seed, prompt and settings give the same asset.", "run",
        minimum=0, maximum=SEED_MAX, step=1,
    )
    blend: float = _setting(
        "float", 0.0, "Blend", "With text and a picture: 0 follows the text, 1 the picture alone.", "run",
        minimum=0.0, maximum=1.0, step=0.05,
    )
    grid_steps: int = _setting(
        "int", 25, "Grid steps", "Sampling steps of the token grid.", "sampling",
        minimum=1, maximum=100, step=1, unit="steps",
    )
    grid_guidance: float = _setting(
        "float", 3.0, "Grid guidance", "How strictly the token grid follows the prompt; 1 is no guidance.",
        "sampling", minimum=1.0, maximum=15.0, step=0.1,
    )
    structure_steps: int = _setting(
        "int", 12, "Structure steps", "Sampling steps of the voxel structure.", "sampling",
        minimum=1, maximum=100, step=1, unit="steps",
    )
    structure_guidance: float = _setting(
        "float", 5.0, "Structure guidance", "How strictly the voxels follow the grid; 0 is no guidance.",
        "sampling", minimum=0.0, maximum=15.0, step=0.1,
    )
    slat_steps: int = _setting(
        "int", 12, "Latent steps", "Sampling steps of the structured latent (surface and colour).",
        "sampling", minimum=1, maximum=100, step=1, unit="steps",
    )
    slat_guidance: float = _setting(
        "float", 3.0, "Latent guidance", "How strictly surface and colour follow the grid; 0 is no guidance.",
        "sampling", minimum=0.0, maximum=15.0, step=0.1,
    )
    target_faces: int = _setting(
        "int", 10_000, "Faces", "The exported mesh is simplified to about this many triangles.", "export",
        minimum=100, maximum=500_000, step=100, unit="triangles",
    )
    texture_size: int = _setting(
        "choice", 1024, "Texture size", "Side of the baked base-colour texture.", "export",
        choices=(256, 512, 1024, 2048), unit="pixels",
    )
    unwrap: str = _setting(
        "choice", "box", "Unwrapping", "box is fast, xatlas packs tighter and takes seconds.", "export",
        choices=("box", "xatlas"),
    )
    roughness: float = _setting(
        "float", 0.8, "Roughness", "Roughness of the exported material; 0 is a mirror, 1 is matt.", "export",
        minimum=0.0, maximum=1.0, step=0.05,
    )
    scale_m: float = _setting(
        "float", 1.0, "Size", "Length in metres that one unit of the unit cube has in the exported file.",
        "export", minimum=0.001, maximum=1000.0, step=0.1, unit="metres",
    )
    min_opacity: float = _setting(
        "float", 0.0, "Least opacity", "Gaussians that are less opaque are left out of the PLY.", "export",
        minimum=0.0, maximum=1.0, step=0.01,
    )
    turntable: str = _setting(
        "choice", "mesh", "Turntable shows", "What is decoded for turntables (MP4, GIF) and turns in them.", "export",
        choices=REPRESENTATIONS,
    )
    turntable_shading: str = _setting(
        "choice", "color", "Turntable shading", "Colours, world-space normals (of a mesh alone), or depth as grey.",
        "export", choices=SHADINGS,
    )
    formats: tuple[str, ...] = _setting(
        "multi", ("glb", "ply"), "Formats",
        "Files that will be asked for; Gaussians are decoded for ply, a radiance field for npz.", "export",
        choices=FORMATS,
    )

    @classmethod
    def specs(cls) -> dict[str, Spec]:
        """Every field's Spec in order of declaration, by name."""
        return {f.name: Spec(name=f.name, default=f.default, **f.metadata) for f in fields(cls)}

    @classmethod
    def validated(cls, presets: Mapping[str, Mapping[str, Any]] | None = None, /, **raw: Any) -> Settings:
        """Settings from unchecked values.

        Args:
            presets: values per preset name as the weights' pipeline.json gives them; they replace defaults.
            **raw: given values by field name; they replace the preset's. Leave a name out to get its preset
                value: None is refused like any other value of a wrong type.

        Raises:
            InputError: an unknown name, a wrong type, NaN, infinity, a fraction where a whole number is asked
                for, a value out of range, or two that exclude each other; the message names the field, the value
                and what is allowed.
        """
        specs = cls.specs()
        unknown = sorted(set(raw) - set(specs))
        if unknown:
            raise InputError(f"Setting {unknown[0]!r} does not exist; the settings are {', '.join(specs)}.")
        given = {name: specs[name].check(value) for name, value in raw.items()}
        preset = given.get("preset", specs["preset"].default)
        from_preset = dict((presets or {}).get(preset, {}))
        base = {name: specs[name].check(value) for name, value in from_preset.items()}
        settings = cls(**{**base, **given})
        if settings.turntable_shading == "normal" and settings.turntable != "mesh":
            raise InputError(
                f"Setting turntable_shading is 'normal', but turntable is {settings.turntable!r}, which has no "
                "normals; choose the mesh, or color or depth."
            )
        return settings

    def as_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists) for JSON."""
        plain = asdict(self).items()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain}


def presets(args: dict[str, Any], route: str = "") -> dict[str, dict[str, Any]]:
    """Values per preset: what the samplers' params say, then what the preset says.

    Args:
        args: of pipeline.json.
        route: which flows are used, see `stages.Run`.
    """
    base = {}
    for stage in ("grid", "structure", "slat"):
        samplers = (f"{route}{stage}_sampler", f"{stage}_sampler", f"text_{stage}_sampler")
        params = next((args[name] for name in samplers if name in args), {}).get("params", {})
        guidance = "guidance_scale" if stage == "grid" else "cfg_strength"
        for setting, key in ((f"{stage}_steps", "steps"), (f"{stage}_guidance", guidance)):
            if key in params:
                base[setting] = params[key]
    return {name: {**base, **args.get("presets", {}).get(name, {})} for name in PRESETS}
