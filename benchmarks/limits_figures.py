"""The table of docs/benchmarks.md on how near the server comes to the limit of the machine, with its bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.figures import read
from benchmarks.text import table


@dataclass(frozen=True)
class Bar:
    """One figure and what it should reach.

    Attributes
    ----------
    name : str
        Key of the result.
    text : str
        What is divided by what.
    value : float
    at_most : bool
        Whether the figure may not be more than the bar, instead of less.
    cause : str
        Why it is missed, and the next step; shown only where it is.
    """

    name: str
    text: str
    value: float
    at_most: bool = True
    cause: str = ""

    def row(self, found: dict[str, Any]) -> list[str]:
        """Return the table's row."""
        measured = found[self.name]
        middle = measured["median"] if isinstance(measured, dict) else measured
        text = f"{middle:.2f}"
        if isinstance(measured, dict):
            text += f" (from {measured['least']:.2f} to {measured['greatest']:.2f})"
        is_met = middle <= self.value if self.at_most else middle >= self.value
        met = "yes" if is_met else f"**no**. {self.cause}".rstrip()
        return [self.text, f"{'at most' if self.at_most else 'at least'} {self.value:g}", text, met]


CUTTING: Final = (
    "Decoding and cutting a cell takes as much processor time as its evaluations and shares the cores with them; a "
    "GPU takes the evaluations away, and one decoder instance per core then sets the rate"
)
BARS: Final = (
    Bar("film_to_limit", "a film of 200 cells, first byte to last / limit of its evaluations", 1.1, cause=CUTTING),
    Bar("film_to_same_work", "the same film / the same work in process, one step after another", 1.0),
    Bar("one_cell_to_limit", "one cell on an idle server / limit of its evaluations", 1.3, cause=CUTTING),
    Bar("large_to_small", "time a cell in a request of 512 / in requests of 10", 1.05),
    Bar(
        "one_each_to_together",
        "cells a second of 8 callers with one cell each / of one with 8",
        0.95,
        at_most=False,
        cause="Each request pays its own way through gRPC and four processes, which weighs more since decoding is "
        "faster; the rounds of a run differ by more than what is lacking. Next step: a decoder and a scorer that take "
        "the cells of several requests together",
    ),
    Bar("fields_to_same_work", "fields a second through gRPC / the same work in process", 0.85, at_most=False),
    Bar(
        "client_ms_per_field",
        "the caller's processor time a field, gRPC itself included, ms",
        5,
    ),
    Bar(
        "memory_ratio",
        "server's memory after 10,000 cells / after 100",
        1.02,
        cause="Memory that the allocators of the denoiser's process keep; giving it back costs a third of the speed "
        "([lessons.md](lessons.md)). How it goes on: [100,000 cells](reliability.md#100000-cells)",
    ),
    Bar("ready_after_seconds", "start to ready, first inference included, s", 15),
)


def limits() -> str:
    """Return the table with the sentence that says what was measured."""
    found = read("limits")
    said = (
        f"{found['evaluations_per_cell']} evaluations a cell, as Triton counts them. A film of 200 cells takes "
        f"{found['film_seconds']} s ({found['cells_per_second']} cells a second), during which the caller uses "
        f"{100 * found['caller_processor_share']:.0f} % of one core; one cell takes "
        f"{1000 * found['one_cell_seconds']:.0f} ms. The limit is that of batches of {found['baseline_batch']}."
    )
    return said + "\n\n" + table(["measure", "bar", "measured", "met"], [bar.row(found) for bar in BARS])


PARTS: Final[dict[str, Callable[[], str]]] = {"limits": limits}
