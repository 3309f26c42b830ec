"""Named colours, finishes and what each paint of a part becomes.

Colours are sRGB, display-referred, 0..1. `family` is the basic colour word that a person would fall back to.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Color:
    """One named colour: rgb in 0..1, basic colour family, other words for it, how often it is drawn."""

    rgb: tuple[float, float, float]
    family: str
    synonyms: tuple[str, ...] = ()
    weight: float = 1.0


COLORS: dict[str, Color] = {
    "red": Color((0.83, 0.11, 0.12), "red", ("bright red", "scarlet"), 3.0),
    "maroon": Color((0.42, 0.05, 0.11), "red", ("dark red", "burgundy")),
    "orange": Color((0.96, 0.49, 0.07), "orange", ("bright orange",), 3.0),
    "yellow": Color((0.98, 0.85, 0.13), "yellow", ("bright yellow",), 3.0),
    "gold": Color((0.78, 0.58, 0.16), "yellow", ("golden",)),
    "lime": Color((0.62, 0.87, 0.17), "green", ("lime green", "bright green")),
    "green": Color((0.15, 0.60, 0.22), "green", ("grass green",), 3.0),
    "dark green": Color((0.05, 0.30, 0.13), "green", ("forest green",)),
    "mint": Color((0.63, 0.91, 0.75), "green", ("mint green", "light green")),
    "olive": Color((0.43, 0.45, 0.14), "green", ("olive green",)),
    "teal": Color((0.04, 0.46, 0.46), "cyan", ("dark teal",)),
    "turquoise": Color((0.18, 0.80, 0.78), "cyan", ("cyan", "aqua")),
    "light blue": Color((0.53, 0.78, 0.97), "blue", ("sky blue", "pale blue")),
    "blue": Color((0.12, 0.31, 0.83), "blue", ("bright blue",), 3.0),
    "navy": Color((0.07, 0.11, 0.34), "blue", ("navy blue", "dark blue")),
    "purple": Color((0.46, 0.16, 0.66), "purple", ("violet",), 3.0),
    "lavender": Color((0.76, 0.66, 0.94), "purple", ("light purple", "lilac")),
    "magenta": Color((0.86, 0.10, 0.60), "pink", ("hot pink", "fuchsia")),
    "pink": Color((0.97, 0.62, 0.75), "pink", ("light pink", "rose"), 3.0),
    "brown": Color((0.44, 0.26, 0.12), "brown", ("dark brown", "chestnut"), 3.0),
    "tan": Color((0.80, 0.65, 0.44), "brown", ("beige", "light brown")),
    "cream": Color((0.97, 0.91, 0.75), "white", ("ivory", "off-white")),
    "white": Color((0.95, 0.95, 0.95), "white", ("snow white",), 3.0),
    "silver": Color((0.74, 0.76, 0.78), "grey", ("light grey", "light gray")),
    "grey": Color((0.49, 0.49, 0.50), "grey", ("gray",), 3.0),
    "dark grey": Color((0.25, 0.26, 0.28), "grey", ("charcoal", "dark gray")),
    "black": Color((0.06, 0.06, 0.07), "black", ("jet black",), 3.0),
}


@dataclass(frozen=True)
class Finish:
    """How the main colour is laid on. `two` finishes also show the secondary colour."""

    adjectives: tuple[str, ...]
    materials: tuple[str, ...] = ()
    two: bool = False
    weight: float = 1.0


FINISHES: dict[str, Finish] = {
    "painted": Finish(("painted", "matte", "plain"), ("painted plastic",), weight=6.0),
    "wood": Finish(("wooden", "wood"), ("wood", "grained wood"), weight=1.6),
    "brushed metal": Finish(("brushed metal", "metallic", "metal"), ("brushed metal", "steel"), weight=1.4),
    "stone": Finish(("stone", "rocky"), ("rough stone", "stone"), weight=0.9),
    "leather": Finish(("leather",), ("leather", "soft leather"), weight=0.9),
    "glass-like": Finish(("glass", "glassy", "translucent"), ("glass", "tinted glass"), weight=0.9),
    "plaid": Finish(("plaid", "tartan", "checkered"), ("plaid cloth",), two=True, weight=1.0),
    "striped": Finish(("striped",), (), two=True, weight=1.2),
    "dotted": Finish(("polka dot", "dotted", "spotted"), (), two=True, weight=1.0),
    "two-tone": Finish(("two-tone", "two-colored"), (), two=True, weight=1.0),
    "worn": Finish(("worn", "weathered", "old"), ("weathered paint",), weight=1.1),
    "glossy": Finish(("glossy", "shiny", "polished"), ("glossy plastic", "lacquer"), weight=1.8),
}

# Paints with a fixed colour, whatever the asset's own colours are.
FIXED = {
    "dark": (0.16, 0.16, 0.18), "metal": (0.66, 0.68, 0.71), "glass": (0.62, 0.80, 0.90),
    "light": (0.93, 0.92, 0.88), "wood": (0.52, 0.34, 0.18), "rubber": (0.11, 0.11, 0.12),
    "skin": (0.93, 0.74, 0.60), "glow": (0.35, 0.95, 0.95), "screen": (0.12, 0.20, 0.26),
    "soil": (0.28, 0.18, 0.11), "leaf": (0.20, 0.50, 0.18), "flame": (1.0, 0.55, 0.10),
}


def color_names() -> list[str]:
    """All colour names, in a fixed order."""
    return list(COLORS)


def draw_color(r: np.random.Generator, weights: dict[str, float] | None = None, avoid: str = "") -> str:
    """A colour name by weight; none of the family of `avoid`."""
    names = [c for c in (weights or COLORS) if not avoid or COLORS[c].family != COLORS[avoid].family]
    p = np.array([(weights or {}).get(c, 0.0) if weights else COLORS[c].weight for c in names])
    return names[int(r.choice(len(names), p=p / p.sum()))]


def jitter(rgb, r: np.random.Generator, amount: float = 0.03) -> np.ndarray:
    """A colour [3] near `rgb` that still goes by the same name."""
    rgb = np.asarray(rgb, dtype=np.float64)
    return np.clip(rgb * (1 + r.uniform(-amount, amount) * 2) + r.uniform(-amount, amount, 3), 0.02, 0.98)


def palette(color: str, secondary: str, seed: int, paints) -> dict[str, np.ndarray]:
    """Paint name -> rgb [3] for the named paints of one asset.

    Each kind of paint has its own random stream, so changing one colour moves no other.
    """
    def near(rgb, stream: int) -> np.ndarray:
        return jitter(rgb, np.random.default_rng([seed, stream]))

    table = {"primary": near(COLORS[color].rgb, 19), "secondary": near(COLORS[secondary].rgb, 20)}
    for name in paints:
        if name == "accent":
            r = np.random.default_rng([seed, 91])
            taken = {COLORS[color].family, COLORS[secondary].family}
            order = r.permutation([c for c in COLORS if COLORS[c].weight > 2])
            accent = next((c for c in order if COLORS[c].family not in taken), "yellow")
            table[name] = near(COLORS[accent].rgb, 21)
        elif name not in table:
            table[name] = near(FIXED[name], 17) if name in FIXED else near(COLORS[name].rgb, 18)
    return table
