"""The one error mapper: what a room raises on purpose becomes a sentence on standard error and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from cytoserve_cli import exit_codes
from cytoserve_cli.terminal import plain


@contextmanager
def exit_on_error(command: str) -> Iterator[None]:
    """End the command with a sentence and its exit code where a room raises; a decorator, or a ``with`` block."""
    try:
        yield
    except KeyboardInterrupt:
        _print("interrupted")
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    except Exception as error:
        code = exit_codes.of_error(error, command)
        if code is None:
            raise
        _print(sentence(error), "red")
        raise typer.Exit(code) from None


def sentence(error: Exception) -> str:
    """Return an error as the terminal shows it: its sentence, and its stable name in brackets."""
    name = getattr(error, "code", None)
    return f"{error} [{name if isinstance(name, str) else type(error).__name__}]"


def _print(text: str, style: str = "") -> None:
    notes = Console(stderr=True, soft_wrap=True, highlight=False)
    for line in text.splitlines():
        notes.print(plain(line, style))
