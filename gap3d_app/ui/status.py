"""The progress card and the row of stage pictures, as HTML.

Everything that goes into a tag is either a number, a sentence of `texts`, or escaped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from gap3d_app.ui import texts

if TYPE_CHECKING:
    from gap3d_app.pipeline import StageEvent
    from gap3d_app.settings import Settings


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        state: "idle", "refused", "loading", "running", "done", "cancelled" or "failed".
        of: planned steps per stage, for the bar.
        step: finished steps per stage.
        seconds: wall time per finished stage.
        stage: the stage at work.
        line: what is happening, in words.
    """

    state: str = "idle"
    of: dict[str, int] = field(default_factory=dict)
    step: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = ""
    line: str = texts.IDLE

    def begin(self, settings: Settings) -> None:
        """A run with these settings starts."""
        self.of = dict.fromkeys(texts.STAGES, 1)
        self.of |= {"grid": settings.grid_steps, "structure": settings.structure_steps,
                    "slat": settings.slat_steps, "decode": 2, "files": 3}
        self.step, self.seconds, self.stage, self.state = {}, {}, "prompt", "running"
        self.line = texts.STAGES["prompt"]

    def observe(self, event: StageEvent) -> None:
        """A step has finished; the line speaks of the step that comes next."""
        if event.stage not in texts.STAGES:
            return
        self.stage, self.of[event.stage], self.step[event.stage] = event.stage, event.of, event.step
        if event.done:
            self.seconds[event.stage] = event.seconds
            names = list(texts.STAGES)
            self.stage = names[min(names.index(event.stage) + 1, len(names) - 1)]
        upcoming, of = self.step.get(self.stage, 0) + 1, self.of[self.stage]
        self.line = texts.STAGES[self.stage]
        if of > 2:
            self.line = texts.RUNNING.format(stage=self.line, step=upcoming, of=of)
        if self.stage == "files":
            self.line = texts.WRITING

    def end(self, state: str, line: str) -> None:
        """The run has come to its end, good or bad."""
        self.state, self.line = state, line

    @property
    def share(self) -> float:
        """Finished part of all planned steps, 0..1."""
        if self.state == "done":
            return 1.0
        total = sum(self.of.values())
        return sum(min(self.step.get(name, 0), of) for name, of in self.of.items()) / total if total else 0.0

    @property
    def _said(self) -> str:
        """What a screen reader hears: every stage once, then how it ended."""
        if self.state == "idle":
            return ""
        if self.state == "loading":
            return texts.LOADING
        return texts.STAGES[self.stage] if self.state == "running" and self.stage else self.line

    def html(self) -> str:
        """The card."""
        percent = round(100 * self.share)
        busy = ' data-busy="true"' if self.state == "loading" else ""
        stages = "".join(self._stage(name, label) for name, label in texts.STAGES.items())
        total = f"{sum(self.seconds.values()):.1f} s" if self.seconds else "&ndash;"
        stages += f'<li data-state="{"done" if self.seconds else "ahead"}"><span>{texts.TOTAL}</span>'
        stages += f'<span class="g-time">{total}</span></li>'
        return (
            f'<section class="g-status" data-state="{self.state}" aria-label="Progress of the run">'
            f'<p class="g-line" data-said="{escape(self._said)}">{escape(self.line)}</p>'
            f'<div class="g-bar"{busy} role="progressbar" aria-label="Finished steps" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{percent}"><span style="width:{percent}%"></span></div>'
            f'<ol class="g-stages">{stages}</ol></section>'
        )

    def _stage(self, name: str, label: str) -> str:
        if name in self.seconds:
            state, time = "done", f"{self.seconds[name]:.1f} s"
        elif self.state == "running" and name == self.stage:
            state, time = "now", "..."
        else:
            state, time = "ahead", "&ndash;"
        return f'<li data-state="{state}"><span>{label}</span><span class="g-time">{time}</span></li>'


def tiles_html(pictures: dict[str, str]) -> str:
    """The row of stage pictures.

    Args:
        pictures: data: address per tile name of `texts.TILES`; tiles without one say what will appear.
    """
    return '<div class="g-tiles">' + "".join(_tile(name, pictures.get(name)) for name in texts.TILES) + "</div>"


def _tile(name: str, picture: str | None) -> str:
    title, meaning, alt = texts.TILES[name]
    inner = f'<img src="{picture}" alt="{alt}">' if picture else f'<span class="g-empty">{meaning}</span>'
    return f'<figure class="g-tile"><div class="g-frame">{inner}</div><figcaption>{title}</figcaption></figure>'


def cut_out_html(picture: str | None, line: str, warning: str | None = None) -> str:
    """The cut-out on its checkerboard with the method that made it, or what will appear.

    Args:
        picture: data: address, or None where there is none or it cannot be used.
        line: what was done, or what will appear.
        warning: a sentence that needs attention, or None.
    """
    if picture is None:
        kind, words = ("g-empty g-refused", warning) if warning else ("g-empty", line)
        return f'<figure class="g-cut"><div class="g-frame"><span class="{kind}">{escape(words)}</span></div></figure>'
    kind, words = ("g-warning", warning) if warning else ("g-note", line)
    return (
        f'<figure class="g-cut"><div class="g-frame"><img src="{picture}" alt="The object cut out of the picture, on '
        f'a checkerboard"></div><figcaption class="{kind}">{escape(words)}</figcaption></figure>'
    )
