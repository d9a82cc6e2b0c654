"""``cytoserve``: the command line. Subcommands and what they import: `cytoserve_cli.mounts`.

Exit codes: `cytoserve_cli.exit_codes`. Results go to standard output, notes and progress to standard error.
"""

from __future__ import annotations

import io
import sys
import warnings
from importlib import metadata
from typing import Annotated

import typer

from cytoserve_cli import exit_codes, mounts

app = typer.Typer(
    name="cytoserve",
    help="Blood-cell triage by a diffusion classifier, served by NVIDIA Triton. "
    "For research use; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 all answered, 2 usage, 3 some images failed or were not read, 4 all failed, "
    "5 server unavailable, 6 out of time, 7 server of another release or access refused.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cytoserve {metadata.version('cytoserve')}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Hold the options that come before a subcommand."""
    _print_anything()


mounts.add_all(app)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    # Pillow warns of damaged EXIF while the metadata is read; the server says whether the image is usable.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    _print_anything()
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(exit_codes.INTERRUPTED)


def _print_anything() -> None:
    """Print a character that the terminal's encoding lacks as an escape, rather than end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
