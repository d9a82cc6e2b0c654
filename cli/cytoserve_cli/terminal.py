"""What the commands show: consoles, plain text, and the one progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cytoserve_reports.text import plain
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Report", "bars", "consoles", "plain"]

Report = Callable[[str, int, int], None]
"""Called with (stage, done, all) as the work goes on."""


def consoles(json_out: Path | None = None) -> tuple[Console, Console]:
    """Return (results, notes); with JSON on standard output the tables go to standard error."""
    notes = Console(stderr=True)
    return (notes if json_out is not None and str(json_out) == "-" else Console()), notes


@contextmanager
def bars(notes: Console, group: Callable[[str], str] = str, quiet: bool = False) -> Iterator[Report]:
    """Show a bar with rate and time left for each group of stages; nothing if ``quiet``, or without a terminal.

    ``group`` returns what a stage belongs to; by default each stage has a bar of its own.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> str:
            return "" if not task.speed else f"{60 * task.speed:.0f}/min"

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True, disable=quiet or not notes.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            name = group(stage)
            if name not in tasks:
                tasks[name] = progress.add_task(stage, total=total)
            progress.update(tasks[name], description=stage, completed=done, total=total)

        yield report
