"""Captions: a small grammar with synonyms at three lengths.

`captions(spec)` gives several texts, longest first as the data sets of the field have them: rich descriptions,
one-sentence texts, and two or three words. All name the object; nearly all name its colour.
"""

import numpy as np

from train.data.procedural.categories import CATEGORIES
from train.data.procedural.look import COLORS, FINISHES
from train.data.procedural.spec import AssetSpec, secondary_noun

SIZE_SYNONYMS = {
    "tall": ("tall", "high"), "short": ("short", "low"), "wide": ("wide", "broad"), "narrow": ("narrow", "thin"),
    "long": ("long", "stretched"), "chunky": ("chunky", "stocky", "stubby"), "slender": ("slender", "slim"),
    "tiny": ("tiny", "miniature", "compact"),
}
STYLE_SYNONYMS = {
    "rustic": ("rustic", "rough-hewn", "handmade"), "futuristic": ("futuristic", "sci-fi", "high-tech"),
    "cartoon": ("cartoon", "cartoonish", "bulgy"), "crooked": ("crooked", "wonky", "lopsided"),
}
# Words that say nothing about this object's shape: the model learns to take them lightly.
FILLERS = ("small", "cute", "little", "nice", "toy", "low-poly", "simple", "stylized", "beautiful")
_POLITE = ("please make {x}", "I want {x}", "create {x}", "generate {x}", "can you make {x}", "show me {x}",
           "design {x}", "make me {x}, please")
_LEADS = ("a 3D model of {x}", "a 3D asset of {x}", "3D render of {x}", "a model of {x}", "a picture of {x}",
          "{x} on a plain background", "{x}, 3D model", "a video game asset of {x}")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    vowel = phrase[0].lower() in "aeiou" and not phrase.lower().startswith(("uni", "one", "eu", "u-"))
    return ("an " if vowel else "a ") + phrase


def pick(r: np.random.Generator, words) -> str:
    """One of the words, the first a little more often."""
    words = tuple(words)
    return words[0] if len(words) == 1 or r.random() < 0.25 else words[int(r.integers(len(words)))]


def noun(spec: AssetSpec, r: np.random.Generator, exact: bool = False) -> str:
    """The object's name: the category, a synonym, or the name of its kind; `exact` always names the kind."""
    category = CATEGORIES[spec.category]
    kinds = tuple(category.kinds.get(spec.kind, ()))
    if kinds and (exact or r.random() < 0.45):
        return pick(r, kinds)
    if category.synonyms and r.random() < 0.3:
        return pick(r, category.synonyms)
    return spec.category


def color_word(name: str, r: np.random.Generator) -> str:
    """The colour or, now and then, another word for it."""
    synonyms = COLORS[name].synonyms
    return pick(r, synonyms) if synonyms and r.random() < 0.22 else name


def names_of(category: str) -> list[str]:
    """Every noun by which a caption may call the category."""
    c = CATEGORIES[category]
    return [category, *c.synonyms, *(n for names in c.kinds.values() for n in names)]


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def pattern_phrase(spec: AssetSpec, r: np.random.Generator) -> str:
    """What a two-colour finish adds: "white stripes"; "" for the others."""
    second = color_word(spec.secondary, r)
    forms = {"striped": (f"{second} stripes", f"{second} bands"), "dotted": (f"{second} dots", f"{second} polka dots"),
             "plaid": (f"{second} plaid lines", f"a {second} tartan pattern"),
             "two-tone": (f"a {second} part", f"a second color, {second}")}
    return pick(r, forms[spec.finish]) if spec.finish in forms else ""


def _details(spec: AssetSpec, r: np.random.Generator) -> list[str]:
    """Phrases for "with ...": pattern, secondary colour, optional parts."""
    category, found = CATEGORIES[spec.category], []
    if pattern := pattern_phrase(spec, r):
        found.append(pattern)
    if second := secondary_noun(spec):
        found.append(f"{color_word(spec.secondary, r)} {second}")
    parts = [category.parts[p] for p in spec.parts]
    return found + [parts[i] for i in r.permutation(len(parts))]


def adjectives(spec: AssetSpec, r: np.random.Generator, finish: float = 0.8, filler: float = 0.3) -> str:
    """Size, style, colour and finish words in English order, each with its chance of being said."""
    words = []
    if r.random() < filler:
        words.append(pick(r, FILLERS))
    if spec.size and r.random() < 0.9:
        words.append(pick(r, SIZE_SYNONYMS[spec.size]))
    if spec.style and r.random() < 0.9:
        words.append(pick(r, STYLE_SYNONYMS[spec.style]))
    words.append(color_word(spec.color, r))
    if r.random() < (finish if spec.finish != "painted" else 0.12):
        if FINISHES[spec.finish].two and r.random() < 0.5:
            words[-1] = f"{words[-1]} and {color_word(spec.secondary, r)}"
        words.append(pick(r, FINISHES[spec.finish].adjectives))
    return " ".join(words)


def short_caption(spec: AssetSpec, r: np.random.Generator) -> str:
    """Two to four words: "red chair"."""
    u = r.random()
    if u < 0.05:
        return noun(spec, r)
    if u < 0.55:
        return f"{color_word(spec.color, r)} {noun(spec, r)}"
    words = [pick(r, SIZE_SYNONYMS[spec.size])] if spec.size else []
    if spec.style:
        words.append(pick(r, STYLE_SYNONYMS[spec.style]))
    if not words and u > 0.85:
        words.append(pick(r, FILLERS))
    words.append(color_word(spec.color, r))
    if spec.finish != "painted" and u > 0.6:
        words.append(pick(r, FINISHES[spec.finish].adjectives))
    return " ".join([*words, noun(spec, r)])


def sentence_caption(spec: AssetSpec, r: np.random.Generator) -> str:
    """One sentence or phrase: "a small red toy airplane with white wheels"."""
    name, details = noun(spec, r), _details(spec, r)
    text = f"{adjectives(spec, r)} {name}"
    u = r.random()
    if u < 0.12 and FINISHES[spec.finish].materials:
        text = f"{color_word(spec.color, r)} {name} made of {pick(r, FINISHES[spec.finish].materials)}"
    elif u < 0.22:
        text = f"{name} in {color_word(spec.color, r)}"
    elif u < 0.30:
        text = f"{name} that is {color_word(spec.color, r)}"
        details = []
    if details and r.random() < 0.65:
        text += " with " + _list(details[: int(r.integers(1, 3))])
    text = article(text)
    form = r.random()
    if form < 0.14:
        text = pick(r, _POLITE).format(x=text)
    elif form < 0.34:
        text = pick(r, _LEADS).format(x=text)
    return text


def rich_caption(spec: AssetSpec, r: np.random.Generator) -> str:
    """A description that names colours, finish, parts, size and style."""
    name, details = noun(spec, r, exact=True), _details(spec, r)
    head = article(f"{adjectives(spec, r, 1.0, 0.4)} {name}")
    if details:
        head += " with " + _list(details)
    color, extra = color_word(spec.color, r), []
    if FINISHES[spec.finish].materials and r.random() < 0.8:
        extra.append(f"its surface looks like {color} {pick(r, FINISHES[spec.finish].materials)}")
    else:
        extra.append(pick(r, (f"the main color is {color}", f"it is mostly {color}", f"its body is {color}")))
    if spec.size and r.random() < 0.7:
        extra.append(f"its shape is {pick(r, SIZE_SYNONYMS[spec.size])}")
    if spec.style and r.random() < 0.7:
        extra.append(f"the style is {pick(r, STYLE_SYNONYMS[spec.style])}")
    if name != spec.category and r.random() < 0.5:
        extra.append(f"it is a kind of {spec.category}")
    joiner = pick(r, ("; ", ", ", ". "))
    tail = [e.capitalize() if joiner == ". " else e for e in extra]
    text = joiner.join([head, *tail])
    return pick(r, _LEADS[:4]).format(x=text) if r.random() < 0.2 else text


def _surface(text: str, r: np.random.Generator) -> str:
    """Case, article and full stop vary as people's typing does."""
    u = r.random()
    if u < 0.30:
        text = text[0].upper() + text[1:]
    elif u < 0.33:
        text = text.upper()
    if text.lower().startswith("a ") and r.random() < 0.12:
        text = text[2:]
    if r.random() < 0.25 and len(text.split()) > 2:
        text += "."
    return text


def captions(spec: AssetSpec, count: int = 6) -> list[str]:
    """`count` different captions, longest kinds first: one third rich, one third sentences, the rest short."""
    r = np.random.default_rng([spec.seed, 55])
    makers = [rich_caption] * (count // 3) + [sentence_caption] * (count // 3)
    makers += [short_caption] * (count - len(makers))
    found: list[str] = []
    for maker in makers:
        for _ in range(8):
            text = _surface(maker(spec, r), r)
            if text not in found:
                break
        found.append(text)
    return sorted(dict.fromkeys(found), key=len, reverse=True)
