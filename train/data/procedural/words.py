"""Every word that a caption or an edit instruction may hold; the app warns of prompts that hold others."""

import numpy as np

from gap3d_app.vocabulary import words_of
from train.data.procedural.captions import FILLERS, SIZE_SYNONYMS, STYLE_SYNONYMS, captions, names_of
from train.data.procedural.categories import CATEGORIES
from train.data.procedural.edits import COMPARATIVES, told_edits
from train.data.procedural.look import COLORS, FINISHES
from train.data.procedural.spec import sample_spec
from train.data.prompts import UNCHANGED

DRAWN = 1000
"""Assets whose texts are read for what the grammar itself says, such as "made of"."""


def taught_words() -> dict[str, str]:
    """What `gap3d_app.vocabulary.Vocabulary.of` reads: "things" with commas between, "words" in alphabetical order."""
    phrases = [*FILLERS, *UNCHANGED]
    for name, category in CATEGORIES.items():
        second = category.second
        phrases += [*names_of(name), *category.parts.values()]
        phrases += [second] if isinstance(second, str) else second.values()
    for name, color in COLORS.items():
        phrases += [name, *color.synonyms]
    for finish in FINISHES.values():
        phrases += [*finish.adjectives, *finish.materials]
    for table in (SIZE_SYNONYMS, STYLE_SYNONYMS, COMPARATIVES):
        phrases += [word for words in table.values() for word in words]
    draws = np.random.default_rng(0)
    for index in range(DRAWN):
        spec = sample_spec(0, index)
        phrases += captions(spec) + [text for text, _ in told_edits(spec, 4, draws)]
    words = {word for phrase in phrases for word in words_of(phrase.lower())}
    return {"things": ", ".join(sorted(CATEGORIES)), "words": " ".join(sorted(words))}
