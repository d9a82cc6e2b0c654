"""The audit file: one line for each call, append-only, each line bound to the one before it by a hash.

A line holds when, who asked, which pictures (their hashes), which model and calibration, and how many cells were
accepted and referred; no pixels, no file names, nothing about the patient. The chain shows a line that was changed,
taken out or put in. It cannot show that the newest lines were cut off, or that everything was written anew: for that,
`head` is kept elsewhere (printed, mailed, in another system) and given to `verify`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from cytoserve_client import CellsAnalysis, ServiceInfo
from cytoserve_contract.names import AUDIT, AuditSchema
from cytoserve_files import append_line, last_line, open_regular, shown
from cytoserve_files.selection import digest_of
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cytoserve_reports.sample import SampleReport

NOT_SCORED: Final = "not_scored"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AskedBy = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]


class AuditError(Exception):
    """Base of every error about an audit file; the text says what to do."""


class NotAnAuditFile(AuditError):
    """It holds something else, or the last line was written by something else."""


class InvalidAsker(AuditError):
    """The name of who asks is empty, longer than 100 characters, or not printable."""


class BrokenChain(AuditError):
    """A line was changed, taken out, put in or not written whole; or the line that was asked for is not there."""


class AuditedCall(BaseModel):
    """What one call was and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    time: datetime = Field(description="when the answer was there, UTC")
    call: str = Field(description="an identifier of this call, made anew for each")
    command: str = Field(description="`analyze` or `classify`")
    asked_by: AskedBy = Field(description="who asked: as given, or the login name")
    site: str = Field(description="the site whose calibration decided")
    model: str
    version: str
    weights_sha256: str | dict[str, str] | None
    calibration_sha256: str | None = Field(description="hash of the site's calibration, as the server told it")
    inputs: tuple[Sha256 | None, ...] = Field(description="hash of each file sent, in order; null: it was not readable")
    failed: int = Field(ge=0, description="inputs without an answer")
    not_read: int = Field(ge=0, description="files named or found that were not sent, duplicates included")
    samples: int = Field(ge=0)
    unfamiliar_samples: int = Field(ge=0, description="samples of which nothing was accepted, as unlike the site's")
    cells: dict[str, int] = Field(description="cells by decision: accept, review, not_scored")
    synthetic: bool = Field(description="whether any picture was generated, not photographed")


class AuditLine(AuditedCall):
    """A call in its place in the chain."""

    schema_: AuditSchema = Field(default=AUDIT, alias="schema")
    number: int = Field(ge=1, description="of the line in its file")
    previous: Sha256 | None = Field(description="`sha256` of the line before; null: this is the first")
    sha256: Sha256 = Field(description="of this line's other keys as JSON: sorted, no spaces, UTF-8")


@dataclass(frozen=True)
class Verified:
    """A chain that holds: how many lines, from when to when, and the hash of the last, to keep elsewhere."""

    lines: int
    first: datetime | None
    last: datetime | None
    head: str | None


def input_hashes(files: Iterable[Path]) -> tuple[str | None, ...]:
    """Return the SHA-256 of each file's content, in hexadecimal; None of one that cannot be read."""
    return tuple(digest_of(partial(open_regular, file)) for file in files)


def check_asker(name: str) -> str:
    """Return the name of who asks; `InvalidAsker` where it is none that a line can hold."""
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidAsker("give a name of 1 to 100 printable characters for who asks (--asked-by)")
    return name


def call_of(
    answer: CellsAnalysis | Sequence[SampleReport],
    service: ServiceInfo,
    inputs: tuple[str | None, ...],
    asked_by: str,
    not_read: int,
) -> AuditedCall:
    """Return what is to be written of an answer.

    Parameters
    ----------
    answer : CellsAnalysis or sequence of SampleReport
        Of single-cell images, or the samples of one call on fields; not empty.
    service : ServiceInfo
        What the server said of itself in the same call.
    inputs : tuple of str or None
        See `input_hashes`.
    asked_by : str
        Who asked.
    not_read : int
        Files that were not sent; of several samples no report tells of them.
    """
    parts: Sequence[CellsAnalysis | SampleReport] = [answer] if isinstance(answer, CellsAnalysis) else answer
    cells = [cell for part in parts for cell in _cells(part)]
    site = service.site(parts[0].site)
    judged = [part.familiarity for part in parts if part.familiarity is not None]
    return AuditedCall(
        time=datetime.now(UTC).replace(microsecond=0),
        call=str(uuid.uuid4()),
        command="classify" if isinstance(answer, CellsAnalysis) else "analyze",
        asked_by=asked_by,
        site=parts[0].site,
        model=service.name,
        version=service.version,
        weights_sha256=service.weights_sha256,
        calibration_sha256=None if site is None else site.content_sha256,
        inputs=inputs,
        failed=sum(len(part.failures) for part in parts),
        not_read=not_read,
        samples=len(parts),
        unfamiliar_samples=sum(one.rejected for one in judged),
        cells=dict(sorted(Counter(cell.decision or NOT_SCORED for cell in cells).items())),
        synthetic=any(one.synthetic for part in parts for one in _pictures(part)),
    )


def _cells(part: CellsAnalysis | SampleReport) -> Iterable[Any]:
    return part.cells if isinstance(part, CellsAnalysis) else [cell for field in part.fields for cell in field.cells]


def _pictures(part: CellsAnalysis | SampleReport) -> Iterable[Any]:
    return part.cells if isinstance(part, CellsAnalysis) else part.fields


def append(path: Path, call: AuditedCall) -> AuditLine:
    """Append a call to an audit file, on the disk when this returns; several processes may do so at once.

    Raises
    ------
    NotAnAuditFile
        Its last line is none of an audit file: nothing was written.
    NotWritable
        See `append_line`.
    """
    made: list[AuditLine] = []

    def following(last: bytes | None) -> bytes:
        before = None if last is None else _read(last, path, "its last line")
        bare: dict[str, Any] = {
            "schema": AUDIT,
            "number": 1 if before is None else before.number + 1,
            **call.model_dump(mode="json"),
            "previous": None if before is None else before.sha256,
        }
        document = {**bare, "sha256": _own_hash(bare)}
        made.append(AuditLine.model_validate(document))
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    append_line(path, following)
    return made[0]


def check_appendable(path: Path) -> None:
    """See, before any work, that a line can be appended after the last one (`NotAnAuditFile`, `NotWritable`)."""
    last = last_line(path)
    if last is not None:
        _read(last, path, "its last line")


def verify(path: Path, head: str | None = None) -> Verified:
    """Read an audit file from its first line to its last and see that the chain holds.

    Parameters
    ----------
    path : Path
        The file.
    head : str, optional
        ``sha256`` of a line, as it was kept elsewhere: it must still be in the chain.

    Raises
    ------
    BrokenChain
        The first line that does not fit, by its number, and how; or ``head`` is no line of the file.
    NotAnAuditFile
        The first line is none of an audit file.
    NotRegularFile, OSError
        It cannot be read.
    """
    number, before, first = 0, None, None
    found = head is None
    with open_regular(path) as file:
        for number, raw in enumerate(file, 1):  # the last number is how many there are
            where = f"{shown(path)}, line {number}"
            if not raw.endswith(b"\n"):
                raise BrokenChain(f"{where}: not written whole, or cut off")
            try:
                line = _read(raw.rstrip(b"\n"), path, f"line {number}")
            except NotAnAuditFile as error:
                if number == 1:
                    raise
                raise BrokenChain(str(error)) from error
            _check_place(line, before, number, where)
            found = found or line.sha256 == head
            before, first = line, first or line
    if not found:
        raise BrokenChain(
            f"{shown(path)}: no line has the hash {head}: lines were cut off, or the file was written anew"
        )
    return Verified(
        number,
        None if first is None else first.time,
        None if before is None else before.time,
        None if before is None else before.sha256,
    )


def _check_place(line: AuditLine, before: AuditLine | None, number: int, where: str) -> None:
    if line.previous != (None if before is None else before.sha256) or line.number != number:
        raise BrokenChain(f"{where}: it does not follow on the line before; lines were taken out, put in or moved")


def _read(raw: bytes, path: Path, which: str) -> AuditLine:
    """Return a line whose own hash is right."""
    try:
        document = json.loads(raw)
        line = AuditLine.model_validate(document)
    except (ValueError, ValidationError) as error:
        raise NotAnAuditFile(
            f"{shown(path)}: {which} is no {AUDIT} line; give a file that --audit made, or a new name"
        ) from error
    bare = {key: value for key, value in document.items() if key != "sha256"}
    if _own_hash(bare) != line.sha256:
        raise BrokenChain(f"{shown(path)}: {which} was changed after it was written (its hash is another)")
    return line


def _own_hash(document: dict[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
