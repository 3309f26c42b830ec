"""The words that weights have been taught, for those that were taught from few."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_WORD = re.compile(r"[^\W\d_]+")
_SAID_OF_NOTHING = frozenset(
    "a an the this that these those some any one my your his her its our their i me you we he she it they and or but "
    "of with without for from by at to in on as is are was be has have very really quite so please there which who "
    "would could should will want like need s t d m re ve ll".split()
)
"""Words that no object looks different for."""

SHOWN = 4
"""Unknown words that a sentence names."""


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
        return given and cls(tuple(given["things"].split(", ")), frozenset(given["words"].split()))

    def unknown(self, text: str) -> list[str]:
        """The words of `text` that were never taught, as they are written; each once."""
        found = {word.lower(): word for word in reversed(_WORD.findall(text))}
        return [word for low, word in reversed(found.items()) if not self._knows(low)]

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

    def _knows(self, word: str) -> bool:
        singular = {word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"}
        return not (self.words | _SAID_OF_NOTHING).isdisjoint({*singular, f"{word}s"})
