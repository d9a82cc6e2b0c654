"""The table of docs/benchmarks.md on how near the server comes to the limit of the machine, with its bars."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.results import RESULTS
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
    Bar("one_each_to_together", "cells a second of 8 callers with one cell each / of one with 8", 0.95, at_most=False),
    Bar("fields_to_same_work", "fields a second through gRPC / the same work in process", 0.85, at_most=False),
    Bar(
        "client_ms_per_field",
        "the caller's processor time a field, gRPC itself included, ms",
        5,
        cause="gRPC and a thread for each image are in the figure; next step: no thread for a call of one image",
    ),
    Bar(
        "memory_ratio",
        "server's memory after 10,000 cells / after 100",
        1.02,
        cause="Arenas and caches of nine processes fill in the first thousands of cells; whether it goes on is what "
        "the soak tells ([reliability.md](reliability.md#soak))",
    ),
    Bar("ready_after_seconds", "start to ready, first inference included, s", 15),
)


def limits() -> str:
    """Return the table with the sentence that says what was measured."""
    found: dict[str, Any] = json.loads((RESULTS / "limits.json").read_text(encoding="utf-8"))
    said = (
        f"{found['evaluations_per_cell']} evaluations a cell, as Triton counts them. A film of 200 cells takes "
        f"{found['film_seconds']} s ({found['cells_per_second']} cells a second), during which the caller uses "
        f"{100 * found['caller_processor_share']:.0f} % of one core; one cell takes "
        f"{1000 * found['one_cell_seconds']:.0f} ms. The limit is that of batches of {found['baseline_batch']}."
    )
    return said + "\n\n" + table(["measure", "bar", "measured", "met"], [bar.row(found) for bar in BARS])


def slide() -> str:
    """Return what a whole slide took."""
    found: dict[str, Any] = json.loads((RESULTS / "slide.json").read_text(encoding="utf-8"))
    width, height = found["pixels"]
    memory = found["client_mib"]
    rows = [
        [f"seconds until {found['wanted']} white cells (aim 10)", f"{found['seconds']}"],
        ["slide", f"{width} x {height} px, {found['area_mm2']} mm2, {found['file_mib']} MiB"],
        ["regions in all, and answered", f"{found['regions']}, {found['regions_answered']}"],
        ["regions passed over, because cells lie on each other", f"{found['regions_not_single']}"],
        ["seconds a region", f"{found['seconds_a_region']}"],
        ["seconds to read, judge and encode one", f"{found['seconds_to_read_a_region']}"],
        ["client's memory, MiB: after a quarter, at the end", f"{memory['after_a_quarter']}, {memory['in_the_end']}"],
    ]
    return table(["what", "figure"], rows)


def long_film() -> str:
    """Return what a folder of 2,000 fields took."""
    found: dict[str, Any] = json.loads((RESULTS / "long_film.json").read_text(encoding="utf-8"))
    client, server, written = found["client_mib"], found["server_mib"], found["file_mib"]

    def memory(one: dict[str, float]) -> str:
        return f"{one['after_a_tenth']:.0f}, {one['after_a_half']:.0f}, {one['after_all']:.0f}"

    seconds = f"{found['seconds_until_the_last_answer']}, {found['seconds']}"
    rows = [
        ["fields sent; answered; failed", f"{found['fields']}; {found['answered']}; {len(found['failures'])}"],
        ["cells; of them to review", f"{found['cells']['all']}; {found['cells']['to_review']}"],
        ["seconds, to the last answer and with all files", seconds],
        ["server's memory after a tenth, a half, all, MiB", memory(server)],
        ["command's memory the same, MiB", memory(client)],
        ["command's memory at most, while it writes, MiB", f"{found['client_mib_most']:.0f}"],
        ["files, MiB", ", ".join(f"{name} {size}" for name, size in written.items())],
    ]
    return table(["what", "figure"], rows)


PARTS: Final[dict[str, Callable[[], str]]] = {"limits": limits, "slide": slide, "long_film": long_film}
