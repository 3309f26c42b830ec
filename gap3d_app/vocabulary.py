"""The words that weights have been taught, for those that were taught from few."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, NamedTuple

_SAID_OF_NOTHING = frozenset(
    "a an the this that these those some any one my your his her its our their i me you we he she it they and or but "
    "of with without for from by at to in on as is are was be has have very really quite so please there which who "
    "would could should will want like need s t d m re ve ll".split()
)
"""Words that no object looks different for."""

SHOWN = 4
"""Unknown words that a sentence names."""


def words_of(text: str) -> list[str]:
    """The words of a text as they are written: runs of letters, of any script."""
    return re.findall(r"[^\W\d_]+", text)


def signs_of(text: str) -> list[str]:
    """Numbers that stand by themselves, and pictograms and other symbols."""
    symbols = [character for character in text if unicodedata.category(character) in ("So", "Sc", "Sm")]
    return re.findall(r"(?<!\w)\d+(?!\w)", text) + symbols


class Vocabulary(NamedTuple):
    """What weights know by name.

    Attributes:
        things: names of the objects that they were taught.
        words: every word of their prompts, in lower case.
    """

    things: tuple[str, ...]
    words: frozenset[str]

    @classmethod
    def of(cls, args: dict[str, Any]) -> Vocabulary | None:
        """That of weights with these "args" of pipeline.json; None for those that learnt from people's texts."""
        given = args.get("vocabulary")
        return None if given is None else cls(tuple(given["things"].split(", ")), frozenset(given["words"].split()))

    def unknown(self, text: str) -> list[str]:
        """The words of `text` that were never taught, as they are written; each once."""
        known, found = self.words | _SAID_OF_NOTHING, {}
        for word in words_of(text) + signs_of(text):
            found.setdefault(word.lower(), word)
        return [word for low, word in found.items() if known.isdisjoint(_forms(low))]

    def warning(self, text: str) -> str | None:
        """A sentence for the person who wrote `text`; None when all of it is known."""
        unknown = self.unknown(text)
        if not unknown:
            return None
        named = ", ".join(f'"{word[:30]}"' for word in unknown[:SHOWN])
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        return (
            f"New to these weights, so without effect or misleading: {named}{more}. They know {len(self.things)} kinds "
            "of things and make the nearest of them."
        )


def _forms(word: str) -> set[str]:
    """The word, what it may be the plural of, and its own plural."""
    return {word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y", f"{word}s"}
