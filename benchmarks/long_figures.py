"""The tables of docs on long work: a whole slide, a folder of 2,000 fields, 100,000 cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.figures import read
from benchmarks.text import table


def slide() -> str:
    """Return what a whole slide took."""
    found = read("slide")
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
    found = read("long_film")
    client, server, written = found["client_mib"], found["server_mib"], found["file_mib"]

    def memory(one: dict[str, float]) -> str:
        return f"{one['after_a_tenth']:.0f}, {one['after_a_half']:.0f}, {one['after_all']:.0f}"

    seconds = f"{found['seconds_until_the_last_answer']}, {found['seconds']}"
    rows = [
        ["fields sent; answered; failed", f"{found['fields']}; {found['answered']}; {found['failed']}"],
        ["cells; of them to review", f"{found['cells']['all']}; {found['cells']['to_review']}"],
        ["seconds, to the last answer and with all files", seconds],
        ["server's memory after a tenth, a half, all, MiB", memory(server)],
        ["command's memory the same, MiB", memory(client)],
        ["command's memory at most, while it writes, MiB", f"{found['client_mib_most']:.0f}"],
        ["files, MiB", ", ".join(f"{name} {size}" for name, size in written.items())],
    ]
    return table(["what", "figure"], rows)


def replay() -> str:
    """Return what 100,000 cells in a row did to a server."""
    found = read("replay")
    said = (
        f"{found['cells']} cells ({found['different_cells']} different ones) in {found['requests']} requests and "
        f"{found['seconds'] / 60:.0f} minutes, at {100 * found['share_of_capacity']:.0f} % of the "
        f"{found['capacity_requests_per_s']} requests a second of a closed loop. Outcomes: "
        + ", ".join(f"`{name}` {count}" for name, count in found["outcomes"].items())
        + ". Slopes are taken after the first third."
    )

    def row(name: str, text: str, unit: float, digits: int) -> list[str]:
        one = found[name]
        ends = f"{one['first'] / unit:.{digits}f}, {one['last'] / unit:.{digits}f}"
        low, high = one["interval"]
        slope = f"{one['slope_per_request']:.3g} ({low:.3g} to {high:.3g})"
        return [text, ends, slope, f"{100 * one['grown_share']:+.1f} %", "yes" if one["flat"] else "**no**"]

    rows = [
        row("memory", "memory (PSS without files), MiB; slope in bytes", 2**20, 1),
        row("files", "open files", 1, 0),
        row("threads", "threads", 1, 0),
        row("shared_bytes", "shared memory, MiB; slope in bytes", 2**20, 1),
        row("p50", "median latency of a window, s", 1, 3),
        row("p99", "p99 of a window, s", 1, 3),
    ]
    heads = ["", "first and last reading", "slope a request (95 % interval)", "growth over the run", "flat"]
    return f"{said}\n\n{table(heads, rows)}"


PARTS: Final[dict[str, Callable[[], str]]] = {"slide": slide, "long_film": long_film, "replay": replay}
