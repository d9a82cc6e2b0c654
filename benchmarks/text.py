"""How documents write figures: acceptance criteria, sections, tables, shares with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Criterion:
    """One acceptance criterion and the figure it is judged by.

    Attributes
    ----------
    text, measured : str
    met : bool or None
        None where it was not measured, or cannot be judged.
    """

    text: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """``yes``, ``**no**`` or ``not measured``."""
        return "not measured" if self.met is None else "yes" if self.met else "**no**"


@dataclass(frozen=True)
class Section:
    """One heading of docs/evidence.md.

    Attributes
    ----------
    key : str
        Name under which notes are kept.
    title : str
    results : tuple of str
        Measurements that it shows, by name.
    criteria : list of Criterion
        Empty where nothing was measured.
    text : str
        Markdown; empty where nothing was measured.
    """

    key: str
    title: str
    results: tuple[str, ...]
    criteria: list[Criterion]
    text: str

    def markdown(self, commands: Sequence[str], notes: Sequence[str]) -> str:
        """Return the section with the commands of its results and the notes on them."""
        parts = [f"## {self.title}", "```console\n" + "\n".join(commands) + "\n```"]
        if self.criteria:
            rows = [[one.text, one.measured, one.verdict] for one in self.criteria]
            parts.append(table(["acceptance criterion", "measured", "met"], rows))
        parts.append(self.text or "Not measured.")
        if notes:
            parts.append("\n".join(f"- {note}" for note in notes))
        return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def percent(value: float | None, interval: Sequence[float] | None = None, digits: int = 1) -> str:
    """Return a share in per cent, with its interval in brackets."""
    if value is None:
        return "-"
    shown = f"{100 * value:.{digits}f} %"
    if interval is None:
        return shown
    return f"{shown} [{100 * interval[0]:.{digits}f}, {100 * interval[1]:.{digits}f}]"


def interval(row: dict[str, Any]) -> str:
    """Return a share as `cytoserve_statistics.resampling.Interval` holds it, in per cent."""
    return percent(row["value"], (row["low"], row["high"]))


def share(row: dict[str, Any], digits: int = 1) -> str:
    """Return a share as the results hold it: ``3 of 40: 7.5 % [..]``."""
    if row["value"] is None:
        return "none of none"
    return f"{row['count']} of {row['of']}: {percent(row['value'], row['interval'], digits)}"


def points(row: dict[str, Any]) -> str:
    """Return a paired difference in points with its interval."""
    low, high = row["interval"]
    return f"{row['points']:+.1f} [{low:+.1f}, {high:+.1f}]"


def recalls(served: dict[str, Any]) -> str:
    """Return the table of recalls of an accuracy result."""
    rows = [[name, str(row["n"]), percent(row["recall"], row["interval"])] for name, row in served["recall"].items()]
    return table(["class", "cells", "recall"], rows)
