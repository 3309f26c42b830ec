"""Edit pairs: two assets that differ in one attribute and the instruction that leads from one to the other."""

from dataclasses import replace

import numpy as np

from .captions import STYLE_SYNONYMS, article, color_word, noun, pick
from .categories import CATEGORIES
from .look import FINISHES, draw_color
from .spec import AssetSpec, has_effect, sample_spec, secondary_noun
from .split import is_held_out

COMPARATIVES = {
    "tall": ("taller", "higher"), "short": ("shorter", "lower"), "wide": ("wider", "broader"),
    "narrow": ("narrower", "thinner"), "long": ("longer",), "chunky": ("chunkier", "stockier", "thicker"),
    "slender": ("more slender", "slimmer"), "tiny": ("tinier", "more compact"),
}
_SURFACE = {
    "wood": ("in wood", "make it out of wood", "make it wooden"), "brushed metal": ("in metal", "make it metallic"),
    "painted": ("plain painted", "make it plain", "without any pattern"), "stone": ("in stone", "make it out of stone"),
    "leather": ("in leather", "cover it with leather"), "glass-like": ("in glass", "make it glassy"),
    "worn": ("make it look old", "an old, worn one", "make it weathered"), "glossy": ("make it shiny", "a glossy one"),
}
_PATTERN = {
    "plaid": ("{c} plaid", "a {c} tartan pattern"), "striped": ("{c} stripes",),
    "dotted": ("{c} dots", "{c} polka dots"),
    "two-tone": ("a {c} part",),
}

_VERBS = ("make", "add", "give", "paint", "remove", "turn", "change", "put", "take")


def _color(spec: AssetSpec, r: np.random.Generator, split: str):
    for _ in range(400):
        target = replace(spec, color=draw_color(r, avoid=spec.color))
        if target.color != spec.secondary and is_held_out(target) == (split == "test"):
            c, n = color_word(target.color, r), noun(spec, r)
            forms = (f"make it {c}", f"the same but {c}", f"{c} instead", f"change the color to {c}",
                     f"paint it {c}",
                     f"the same {n} in {c}", f"turn it {c}", f"I want it {c}", f"{article(c)} one", f"in {c}")
            return target, pick(r, forms), {"attribute": "color", "from": spec.color, "to": target.color}
    return None


def _secondary(spec: AssetSpec, r: np.random.Generator):
    second = secondary_noun(spec)
    if not second:
        return None
    choice = draw_color(r, avoid=spec.secondary)
    if choice == spec.color:
        return None
    c = color_word(choice, r)
    forms = (f"make the {second} {c}", f"with {c} {second}", f"the same with {c} {second}",
             f"give it {c} {second}",
             f"paint the {second} {c}")
    return (replace(spec, secondary=choice), pick(r, forms),
            {"attribute": "secondary", "from": spec.secondary, "to": choice})


def _finish(spec: AssetSpec, r: np.random.Generator):
    choice = str(r.choice([f for f in FINISHES if f != spec.finish]))
    if choice in _PATTERN:
        p = pick(r, _PATTERN[choice]).format(c=color_word(spec.secondary, r))
        text = pick(r, (f"add {p}", f"with {p}", f"give it {p}", f"the same but with {p}",
                        f"make it {FINISHES[choice].adjectives[0]} with {p}"))
    else:
        text = pick(r, (*_SURFACE[choice], f"the same but {pick(r, FINISHES[choice].adjectives)}"))
    return replace(spec, finish=choice), text, {"attribute": "finish", "from": spec.finish, "to": choice}


def _size(spec: AssetSpec, r: np.random.Generator):
    sizes = CATEGORIES[spec.category].sizes
    if not sizes:
        return None
    spec = replace(spec, size="")
    choice = str(r.choice(sizes))
    word, n = pick(r, COMPARATIVES[choice]), noun(spec, r)
    forms = (f"make it {word}", f"{article(word)} one", f"{article(word)} {n}", f"the same but {word}", word,
             f"{article(word)} version", f"I want it {word}")
    return spec, replace(spec, size=choice), pick(r, forms), {"attribute": "size", "from": "", "to": choice}


def _style(spec: AssetSpec, r: np.random.Generator):
    styles = CATEGORIES[spec.category].styles
    if not styles:
        return None
    spec = replace(spec, style="")
    choice = str(r.choice(styles))
    word, n = pick(r, STYLE_SYNONYMS[choice]), noun(spec, r)
    forms = (f"make it {word}", f"{article(word)} version", f"the same but {word}", f"{article(word)} {n}",
             f"more {word}", f"in a {word} style")
    return spec, replace(spec, style=choice), pick(r, forms), {"attribute": "style", "from": "", "to": choice}


def _part(spec: AssetSpec, r: np.random.Generator):
    parts = CATEGORIES[spec.category].parts
    usable = [p for p in parts if has_effect(spec.category, spec.kind, p)]
    if not usable:
        return None
    choice = str(r.choice(usable))
    phrase = parts[choice]
    if choice in spec.parts:
        bare = phrase.removeprefix("a ").removeprefix("an ")
        text = pick(r, (f"remove the {bare}", f"without {phrase}", f"the same without the {bare}",
                        f"take away the {bare}", f"no {bare}"))
        target = replace(spec, parts=tuple(p for p in spec.parts if p != choice))
        return target, text, {"attribute": "part", "from": choice, "to": ""}
    text = pick(r, (f"add {phrase}", f"with {phrase}", f"give it {phrase}", f"the same but with {phrase}",
                    f"put {phrase} on it" if phrase.startswith("a ") and " " not in phrase[2:] else f"add {phrase}"))
    return (replace(spec, parts=tuple(sorted((*spec.parts, choice)))), text,
            {"attribute": "part", "from": "", "to": choice})


def differing(a: AssetSpec, b: AssetSpec) -> list[str]:
    """Names of the fields in which two specs differ."""
    x, y = a.to_dict(), b.to_dict()
    return [k for k in x if x[k] != y[k]]


def sample_edit(seed: int, index: int, split: str = "train") -> tuple[AssetSpec, AssetSpec, str, dict]:
    """Edit number `index`: (source, target, instruction, {"attribute", "from", "to"}).

    Both sides share the seed, so that all else stays as it is. In "train" neither side is a held-out pair; in
    "test" the target always is.
    """
    r = np.random.default_rng([seed, index, 21 if split == "train" else 22])
    kinds, weights = ("color", "size", "finish", "part", "secondary", "style"), (0.36, 0.2, 0.14, 0.14, 0.08, 0.08)
    for attempt in range(100):
        kind = kinds[int(r.choice(len(kinds), p=weights))]
        # a held-out colour edit starts from a seen pair, so that only the target is new
        source = sample_spec(seed, index * 101 + attempt + 7_000_003, "train" if kind == "color" else split)
        if kind == "color":
            found = _color(source, r, split)
        else:
            found = {"size": _size, "finish": _finish, "part": _part, "secondary": _secondary,
                     "style": _style}[kind](
                source, r)
        if not found:
            continue
        if len(found) == 3:
            found = (source, *found)
        before, after, text, change = found
        if r.random() < 0.25:
            text = text[0].upper() + text[1:]
        if r.random() < 0.15 and text.split()[0].lower() in _VERBS:
            text = "please " + text[0].lower() + text[1:]
        if r.random() < 0.12:
            text += "."
        return before, after, text, change
    raise ValueError(f"no edit found for seed {seed}, index {index}")
