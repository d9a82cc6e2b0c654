"""The audit file: ``--audit`` of ``analyze`` and ``classify``, and ``cytoserve audit verify``."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from cytoserve_client import CellsAnalysis, ServiceInfo
from cytoserve_files import NotWritable, is_regular_or_new, shown
from cytoserve_files.selection import Selection
from cytoserve_reports import audit
from cytoserve_reports.sample import SampleReport
from rich.console import Console

from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.outputs import STANDARD_OUTPUT
from cytoserve_cli.terminal import consoles, plain

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Audit files (`--audit` of `analyze` and `classify`). For research use; not a medical device.",
)


@app.callback()
def commands() -> None:
    """Keep `verify` a word of its own, though it is the only command."""


@app.command(name="verify")
@exit_on_error("audit")
def verify(
    file: Annotated[Path, typer.Argument(help="The audit file.")],
    head: Annotated[
        str | None,
        typer.Option("--head", help="Hash of a line, kept elsewhere: it must still be in the file, and so all before."),
    ] = None,
) -> None:
    """See that no line of an audit file was changed, taken out or put in, and print the hash of the last."""
    out, _ = consoles()
    found = audit.verify(file, head)
    if found.head is None:
        out.print(plain(f"{shown(file)} is empty."))
        return
    out.print(
        plain(f"{found.lines} line(s), from {found.first:%Y-%m-%d %H:%M:%S} to {found.last:%Y-%m-%d %H:%M:%S} UTC.")
    )
    out.print(plain("The chain holds." if head is None else "The chain holds, and the line asked for is in it."))
    out.print(plain(f"head: {found.head}"))
    out.print(plain("Keep the head elsewhere: without it nobody can see that the newest lines were cut off.", "dim"))


@dataclass(frozen=True)
class AuditOutput:
    """Where the line of a call goes; None: none is wanted."""

    path: Path | None
    asked_by: str | None

    def check(self) -> None:
        """Refuse before the work what no line could be appended to.

        Raises
        ------
        AuditError
            The file holds something else, or the name of who asks is none; a name and no file.
        NotWritable
            It is no regular file, or its last line is not whole.
        """
        if self.path is None:
            if self.asked_by is not None:
                raise audit.InvalidAsker("--asked-by is written into the audit file: give --audit FILE too")
            return
        self._asker()
        if str(self.path) == STANDARD_OUTPUT or not is_regular_or_new(self.path):
            raise NotWritable(f"cannot append to {shown(self.path)}: it is no file; give the name of a file")
        audit.check_appendable(self.path)

    def _asker(self) -> str:
        return audit.check_asker(getpass.getuser() if self.asked_by is None else self.asked_by)

    def hashes(self, selected: Selection) -> tuple[str | None, ...]:
        """Return the hashes of the inputs, before they are sent; none where no line is wanted."""
        return () if self.path is None else audit.input_hashes(selected.files)

    def write(
        self,
        answer: CellsAnalysis | Sequence[SampleReport],
        service: ServiceInfo | None,
        inputs: tuple[str | None, ...],
        not_read: int,
        notes: Console,
    ) -> bool:
        """Append the line of a call; return False where it could not be written."""
        if self.path is None or service is None:
            return True
        try:
            line = audit.append(self.path, audit.call_of(answer, service, inputs, self._asker(), not_read))
        except (OSError, audit.AuditError) as error:
            notes.print(plain(f"cannot write the audit line: {error}", "red"))
            return False
        notes.print(plain(f"audit: {shown(self.path)}, line {line.number}, head {line.sha256}"))
        return True
