"""Figures of an evaluation: values, targets, definitions; as JSON and as a table."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figure:
    """One measured number.

    Attributes:
        name: key in the JSON.
        label: words for the table.
        value: what was measured.
        target: the least that is wanted, or None for a number that only explains others.
        count: how many assets, prompts or pictures it is a mean over.
        unit: "%" (the value is a share), "dB", or "".
        definition: how it is measured, in a sentence.
        details: further numbers.
    """

    name: str
    label: str
    value: float
    target: float | None
    count: int
    unit: str
    definition: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the value is at least the target; None without one."""
        return None if self.target is None else self.value >= self.target

    def shown(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "%":
            return f"{100 * value:.1f}%"
        return f"{value:.2f} dB" if self.unit == "dB" else f"{value:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded."""
        row = {"value": self.value, "target": self.target, "reached": self.reached, "count": self.count}
        row |= {"unit": self.unit, "label": self.label, "definition": self.definition}
        return rounded(row | ({"details": self.details} if self.details else {}))


def rounded(value: Any) -> Any:
    """Plain values with four decimals."""
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def mean(values: list[float]) -> float:
    """The mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def shares(rows: list[dict], key: str, ok: str) -> dict[str, dict[str, float]]:
    """Per value of `key`: the share of rows where `ok` holds, and how many rows there are."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(float(row[ok]))
    return {name: {"share": mean(v), "count": len(v)} for name, v in sorted(groups.items())}


def most_missed(rows: list[dict], key: str, ok: str, limit: int = 8) -> list[str]:
    """The values of `key` with the most failures: "duck 0 of 3"."""
    groups = shares(rows, key, ok)
    ranked = sorted(groups, key=lambda k: -(1 - groups[k]["share"]) * groups[k]["count"])
    missed = [k for k in ranked if groups[k]["share"] < 1][:limit]
    return [f"{k} {round(groups[k]['share'] * groups[k]['count'])} of {groups[k]['count']}" for k in missed]


def table(figures: dict[str, dict]) -> str:
    """The figures as text: one row each."""
    head = ("figure", "value", "at least", "reached", "n")
    rows = [head]
    for name, f in figures.items():
        figure = Figure(name, f["label"], f["value"], f["target"], f["count"], f["unit"], f["definition"])
        target = "" if figure.target is None else figure.shown(figure.target)
        reached = {True: "yes", False: "NO", None: ""}[figure.reached]
        rows.append((figure.label, figure.shown(figure.value), target, reached, str(figure.count)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
