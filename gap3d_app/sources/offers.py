"""Which weights of this machine can make something, what each takes, and an honest label for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gap3d_app import hub
from gap3d_app.errors import WeightsError
from gap3d_app.sources import catalog, store
from gap3d_app.sources.names import Names, is_assembled, split

WORDS = ({"prompt_encoder", "grid_dit"}, {"text_encoder", "text_structure_flow", "text_slat_flow"})
"""Roles of either way in which words are followed: through GAP3D, or by TRELLIS's text models."""

PICTURES = {"image_encoder", "structure_flow", "slat_flow"}
EMBEDDED_NOTES = {
    "gap3d-mini": "Small embedded model: it makes the nearest of the things that it knows, with soft surfaces. It runs "
    "on any machine.",
}
TITLES = {
    "trellis-image-large": "TRELLIS image-large", "trellis-text-base": "TRELLIS text-base",
    "trellis-text-large": "TRELLIS text-large", "trellis-text-xlarge": "TRELLIS text-xlarge",
}  # fmt: skip


SOURCE_OF = {
    "structure_decoder": catalog.IMAGE_LARGE, "text_slat_flow": "trellis-text-base", "image_encoder": catalog.DINOV2,
    "text_encoder": catalog.CLIP, "prompt_encoder": catalog.QWEN,
}  # fmt: skip
"""Where the network of a role comes from, also inside of a GAP3D checkpoint; for its licence."""


@dataclass(frozen=True)
class Offer:
    """Weights that a person may choose.

    Attributes:
        names: what `Gap3DPipeline.from_pretrained` takes, as a string.
        key: what chooses them, without the folders of this machine, which visitors need not know.
        title: name for people.
        note: what to expect of them: size, licences, limits.
        roles: the networks that are there.
        sizes: about the bytes of each on a graphics card.
        args: samplers and presets, as in pipeline.json.
    """

    names: str
    key: str
    title: str
    note: str = ""
    roles: frozenset[str] = frozenset()
    sizes: dict[str, int] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def words(self) -> bool:
        """Whether prompts of words work."""
        return any(roles <= self.roles for roles in WORDS)

    @property
    def pictures(self) -> bool:
        """Whether pictures work."""
        return self.roles >= PICTURES

    @property
    def both(self) -> bool:
        """Whether words and a picture work together."""
        return self.pictures and self.roles >= WORDS[0]

    @property
    def radiance(self) -> bool:
        """Whether radiance fields can be decoded."""
        return "slat_decoder_rf" in self.roles

    @property
    def grid(self) -> bool:
        """Whether words become a token grid."""
        return self.roles >= WORDS[0]

    @property
    def label(self) -> str:
        """The title and what it takes."""
        if self.both:
            return f"{self.title}: words, a picture, or both"
        kinds = [name for name, able in (("words", self.words), ("a picture", self.pictures)) if able]
        return f"{self.title}: {' or '.join(kinds) or 'nothing yet'}"


def offers(given: Names) -> list[Offer]:
    """The given weights first, then every other complete set on this machine.

    Args:
        given: as for `Gap3DPipeline.from_pretrained`.
    """
    found = [offer(given)]
    names = [*hub.embedded_names(), *(entry.name for entry in catalog.SOURCES if entry.name in TITLES)]
    for name in names:
        whole = name not in TITLES or not store.missing_files(catalog.source(name))
        if whole and name != found[0].key:
            try:
                more = offer(name)
            except WeightsError:  # incomplete: `doctor` says what is missing
                continue
            if more.words or more.pictures:
                found.append(more)
    return found


def offer(given: Names) -> Offer:
    """What one set of weights is. Weights that cannot be read are offered all the same: loading them says why.

    Raises:
        WeightsError: public parts that do not make a pipeline.
    """
    names = ",".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
    key = "+".join(Path(name).name or name for name in names.split(","))
    if is_assembled(split(names)):
        return _assembled(names, key)
    try:
        folder = hub.resolve(names)
        args = hub.read_pipeline(folder)
        sizes = {role: _stored_size(folder / str(stem)) for role, stem in args["models"].items()}
    except WeightsError:
        return Offer(names, key, key, roles=frozenset(WORDS[0] | PICTURES))
    note = EMBEDDED_NOTES.get(key, "Weights in the app's own layout.")
    note += f" {catalog.human(sum(sizes.values()) / 2)} of weight files."
    return Offer(names, key, key, note, frozenset(args["models"]), sizes, args)


def _assembled(names: str, key: str) -> Offer:
    from gap3d_app.sources.assemble import assemble

    parts = assemble(split(names))
    models: dict[str, Any] = parts.args["models"]
    sizes = {role: part.size for role, part in models.items()}
    licences = [catalog.source(name).licence for role, name in SOURCE_OF.items() if role in models]
    short = ", ".join(sorted({one.split(":")[0] for one in licences}))
    note = f"Full-size public weights, {catalog.human(sum(sizes.values()))} of networks; {short}"
    note += "".join(f" ({one.split(': ')[1]})" for one in licences if ":" in one) + "."
    if "grid_dit" in models:
        note += " The GAP3D checkpoint is your own."
    return Offer(names, key, TITLES.get(names, parts.name), note, frozenset(models), sizes, parts.args)


def _stored_size(stem: Path) -> int:
    """About the bytes of a network of the app's own on a graphics card: its int8 matrices double."""
    return 2 * sum(file.stat().st_size for file in stem.parent.glob(f"{stem.name}*.safetensors"))
