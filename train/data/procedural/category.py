"""What a category of procedural objects declares and what its function is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Multipliers of a category's proportions. `length` is along y, `thick` is for legs, walls and handles.
SIZE_WORDS: dict[str, dict[str, float]] = {
    "tall": {"height": 1.45},
    "short": {"height": 0.66},
    "wide": {"width": 1.45},
    "narrow": {"width": 0.66},
    "long": {"length": 1.45},
    "chunky": {"thick": 1.5, "height": 0.85},
    "slender": {"thick": 0.72, "height": 1.2},
    "tiny": {"thick": 1.3, "height": 0.85, "length": 0.75},
}
STYLE_WORDS = ("rustic", "futuristic", "cartoon", "crooked")


@dataclass(frozen=True)
class Options:
    """What a category function is asked for.

    height, width, length, thick: multipliers (1.0 unless a size word is set). A category with
    `stretch=True` need not look at height, width and length: the finished object is scaled by them.
    kind: one of the category's kinds ("" if it has none). parts: the optional parts to include.
    style: "" or a style word; rustic, cartoon and crooked also deform the finished object.
    """

    height: float = 1.0
    width: float = 1.0
    length: float = 1.0
    thick: float = 1.0
    kind: str = ""
    style: str = ""
    parts: frozenset[str] = frozenset()

    def has(self, part: str) -> bool:
        """Whether the optional part is asked for."""
        return part in self.parts

    @property
    def futuristic(self) -> bool:
        return self.style == "futuristic"

    @property
    def rustic(self) -> bool:
        return self.style == "rustic"


@dataclass(frozen=True)
class Category:
    """One kind of object.

    build: fn(b: Builder, r: numpy Generator, o: Options) -> None. Draw every random number before the first
    branch on `o`, so that an edit of one option leaves all else as it is.
    synonyms: other nouns for the same thing; nouns of `kinds` are used for that kind only.
    kinds: name of a sub-type -> nouns for it, e.g. {"office": ("office chair", "swivel chair")}.
    parts: optional part -> noun phrase ("armrests" -> "armrests", "sail" -> "a sail").
    sizes, styles: the words that make sense. stretch: size words scale the finished object.
    colors: colour name -> weight of the natural colours (drawn half of the time).
    finishes: finish -> weight; empty means the general mix.
    second: noun of what the "secondary" paint covers ("legs", "wheels"), or one noun per kind; "" when it is
    not used. weight: how often the category is drawn.
    """

    build: Callable
    synonyms: tuple[str, ...] = ()
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[str, ...] = ("tall", "wide", "chunky")
    styles: tuple[str, ...] = ("rustic", "cartoon", "crooked")
    stretch: bool = True
    colors: Mapping[str, float] = field(default_factory=dict)
    finishes: Mapping[str, float] = field(default_factory=dict)
    second: str | Mapping[str, str] = ""
    weight: float = 1.0
