"""Edit pairs: two assets that differ in one attribute and the instruction that leads from one to the other."""

from dataclasses import replace

import numpy as np

from train.data.procedural.captions import STYLE_SYNONYMS, article, color_word, noun, pick
from train.data.procedural.categories import CATEGORIES
from train.data.procedural.look import FINISHES, draw_color
from train.data.procedural.spec import AssetSpec, has_effect, sample_spec, secondary_noun
from train.data.procedural.split import is_held_out

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


def _color(spec: AssetSpec, r: np.random.Generator, split: str) -> AssetSpec | None:
    for _ in range(400):
        target = replace(spec, color=draw_color(r, avoid=spec.color))
        if target.color != spec.secondary and is_held_out(target) == (split == "test"):
            return target
    return None


def _say_color(source: AssetSpec, target: AssetSpec, r: np.random.Generator) -> str:
    c, n = color_word(target.color, r), noun(source, r)
    return pick(r, (f"make it {c}", f"the same but {c}", f"{c} instead", f"change the color to {c}", f"paint it {c}",
                    f"the same {n} in {c}", f"turn it {c}", f"I want it {c}", f"{article(c)} one", f"in {c}"))


def _secondary(spec: AssetSpec, r: np.random.Generator) -> AssetSpec | None:
    if not secondary_noun(spec):
        return None
    choice = draw_color(r, avoid=spec.secondary)
    return None if choice == spec.color else replace(spec, secondary=choice)


def _say_secondary(source: AssetSpec, target: AssetSpec, r: np.random.Generator) -> str:
    second, c = secondary_noun(source), color_word(target.secondary, r)
    return pick(r, (f"make the {second} {c}", f"with {c} {second}", f"the same with {c} {second}",
                    f"give it {c} {second}", f"paint the {second} {c}"))


def _finish(spec: AssetSpec, r: np.random.Generator) -> AssetSpec:
    return replace(spec, finish=str(r.choice([f for f in FINISHES if f != spec.finish])))


def _say_finish(source: AssetSpec, target: AssetSpec, r: np.random.Generator) -> str:
    choice = target.finish
    if choice in _PATTERN:
        p = pick(r, _PATTERN[choice]).format(c=color_word(source.secondary, r))
        return pick(r, (f"add {p}", f"with {p}", f"give it {p}", f"the same but with {p}",
                        f"make it {FINISHES[choice].adjectives[0]} with {p}"))
    return pick(r, (*_SURFACE[choice], f"the same but {pick(r, FINISHES[choice].adjectives)}"))


def _size(spec: AssetSpec, r: np.random.Generator) -> AssetSpec | None:
    sizes = CATEGORIES[spec.category].sizes
    return replace(spec, size=str(r.choice(sizes))) if sizes else None


def _say_size(source: AssetSpec, target: AssetSpec, r: np.random.Generator) -> str:
    word, n = pick(r, COMPARATIVES[target.size]), noun(source, r)
    return pick(r, (f"make it {word}", f"{article(word)} one", f"{article(word)} {n}", f"the same but {word}", word,
                    f"{article(word)} version", f"I want it {word}"))


def _style(spec: AssetSpec, r: np.random.Generator) -> AssetSpec | None:
    styles = CATEGORIES[spec.category].styles
    return replace(spec, style=str(r.choice(styles))) if styles else None


def _say_style(source: AssetSpec, target: AssetSpec, r: np.random.Generator) -> str:
    word, n = pick(r, STYLE_SYNONYMS[target.style]), noun(source, r)
    return pick(r, (f"make it {word}", f"{article(word)} version", f"the same but {word}", f"{article(word)} {n}",
                    f"more {word}", f"in a {word} style"))


def _part(spec: AssetSpec, r: np.random.Generator) -> AssetSpec | None:
    usable = [p for p in CATEGORIES[spec.category].parts if has_effect(spec.category, spec.kind, p)]
    if not usable:
        return None
    choice = str(r.choice(usable))
    left = tuple(p for p in spec.parts if p != choice)
    return replace(spec, parts=left if choice in spec.parts else tuple(sorted((*spec.parts, choice))))


def _say_part(source: AssetSpec, target: AssetSpec, r: np.random.Generator) -> str:
    (choice,) = set(source.parts) ^ set(target.parts)
    phrase = CATEGORIES[source.category].parts[choice]
    if choice in source.parts:
        bare = phrase.removeprefix("a ").removeprefix("an ")
        return pick(r, (f"remove the {bare}", f"without {phrase}", f"the same without the {bare}",
                        f"take away the {bare}", f"no {bare}"))
    return pick(r, (f"add {phrase}", f"with {phrase}", f"give it {phrase}", f"the same but with {phrase}",
                    f"put {phrase} on it" if phrase.startswith("a ") and " " not in phrase[2:] else f"add {phrase}"))


_KINDS = {
    "color": (0.36, _color, _say_color), "size": (0.2, _size, _say_size), "finish": (0.14, _finish, _say_finish),
    "part": (0.14, _part, _say_part), "secondary": (0.08, _secondary, _say_secondary),
    "style": (0.08, _style, _say_style),
}
"""Attribute: how often, what it may become, and the words for it."""
_FROM_NOTHING = ("size", "style")
"""An edit gives these to an asset that has none: words such as "taller" compare with the usual one."""


def _draw_kind(r: np.random.Generator) -> str:
    return list(_KINDS)[int(r.choice(len(_KINDS), p=[share for share, *_ in _KINDS.values()]))]


def _edited(spec: AssetSpec, kind: str, r: np.random.Generator, split: str) -> AssetSpec | None:
    choose = _KINDS[kind][1]
    return choose(spec, r, split) if kind == "color" else choose(spec, r)


def _instruction(kind: str, source: AssetSpec, target: AssetSpec, r: np.random.Generator) -> str:
    """Words that lead from `source` to `target`, with a capital, a please or a full stop now and then."""
    text = _KINDS[kind][2](source, target, r)
    if r.random() < 0.25:
        text = text[0].upper() + text[1:]
    if r.random() < 0.15 and text.split()[0].lower() in _VERBS:
        text = "please " + text[0].lower() + text[1:]
    return text + "." if r.random() < 0.12 else text


def _change(kind: str, source: AssetSpec, target: AssetSpec) -> dict[str, str]:
    if kind == "part":
        before, after = (set(spec.parts) for spec in (source, target))
        return {"attribute": kind, "from": "".join(before - after), "to": "".join(after - before)}
    return {"attribute": kind, "from": getattr(source, kind), "to": getattr(target, kind)}


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
    for attempt in range(100):
        kind = _draw_kind(r)
        # a held-out colour edit starts from a seen pair, so that only the target is new
        source = sample_spec(seed, index * 101 + attempt + 7_000_003, "train" if kind == "color" else split)
        if kind in _FROM_NOTHING:
            source = replace(source, **{kind: ""})
        target = _edited(source, kind, r, split)
        if target is not None:
            return source, target, _instruction(kind, source, target, r), _change(kind, source, target)
    raise ValueError(f"no edit found for seed {seed}, index {index}")


def reversed_edit(
    source: AssetSpec, target: AssetSpec, change: dict, r: np.random.Generator
) -> tuple[str, dict] | None:
    """(instruction, change) that leads from the target of an edit back to its source; None where no words do."""
    kind = change["attribute"]
    if kind in _FROM_NOTHING:
        return None
    return _instruction(kind, target, source, r), _change(kind, target, source)


def told_edits(spec: AssetSpec, count: int, r: np.random.Generator) -> list[tuple[str, AssetSpec]]:
    """Up to `count` instructions for an asset of the training split and the specs that they lead to."""
    found: list[tuple[str, AssetSpec]] = []
    for _ in range(4 * count):
        kind = _draw_kind(r)
        if kind in _FROM_NOTHING and getattr(spec, kind):
            continue
        target = _edited(spec, kind, r, "train")
        if target is not None:
            found.append((_instruction(kind, spec, target, r), target))
        if len(found) == count:
            break
    return found
