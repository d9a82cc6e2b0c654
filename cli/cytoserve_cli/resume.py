"""``analyze --resume FILE``: answers are kept as they come, so that after a crash the same command goes on from there.

The file is one JSON document a line, each on the disk before the next field's answer is taken: first the terms that all
answers share, then the answers, each with the hash of the file that its picture came from. An answer counts again only
where that file is still the same; failures are not kept, so they are tried again. The file is removed when the film is
complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import typer
from cytoserve_client import Failure, FieldAnalysis, ModelInfo, ServiceInfo
from cytoserve_client.options import Options
from cytoserve_client.results import Frozen
from cytoserve_contract.codes import ErrorCode
from cytoserve_files import append_line, read_bytes, shown, write_bytes
from cytoserve_reports.audit import input_hashes
from pydantic import ValidationError
from rich.console import Console

from cytoserve_cli.terminal import plain

PASSING: Final = frozenset(code.value for code in ErrorCode if code.retryable)
"""Failures that another call may not meet."""


class Terms(Frozen):
    """What the answers of one film have in common: answers of two models, or of two calibrations, are no sample."""

    schema_name: Literal["cytoserve.unfinished_film/1"] = "cytoserve.unfinished_film/1"
    model: ModelInfo
    site: str
    calibration_sha256: str | None
    um_per_pixel: float | None
    budget: int | None
    alpha: float | None
    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, service: ServiceInfo, um_per_pixel: float | None, options: Options) -> Terms:
        """Return the terms of a call."""
        site = service.site(options.site_name)
        return cls(
            model=service.model,
            site=options.site_name,
            calibration_sha256=None if site is None else site.content_sha256,
            um_per_pixel=um_per_pixel,
            budget=options.budget,
            alpha=options.alpha,
            classes=options.classes,
        )

    def differences(self, other: Terms) -> list[str]:
        """Return the names of what is not equal."""
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]


class KeptAnswer(Frozen):
    """One answer, and the file that its picture came from."""

    file_sha256: str
    answer: FieldAnalysis


class UnfinishedFilm:
    """The answers of a film that may end too early.

    Parameters
    ----------
    path : Path
        Where they are kept.
    files : sequence of Path
        The fields, or the slides that they are regions of.
    terms : Terms
        Of this call.

    Attributes
    ----------
    answered : mapping of str to FieldAnalysis
        By source: what an earlier call was told about pictures that are still the same.

    Raises
    ------
    BadParameter
        The file holds something else, is damaged, or was begun on other terms.
    NotRegularFile, OSError
        It cannot be read or written.
    """

    def __init__(self, path: Path, files: Sequence[Path], terms: Terms) -> None:
        self.path = path
        self._hashes = dict(zip(map(shown, files), input_hashes(files), strict=True))
        kept = self._read(terms)
        self.answered: Mapping[str, FieldAnalysis] = {
            one.answer.source: one.answer for one in kept if one.file_sha256 == self._hash_of(one.answer.source)
        }
        if not kept:
            write_bytes(path, _line(terms) + b"\n")

    def keep(self, answer: FieldAnalysis) -> None:
        """Add an answer, on the disk when this returns; one that is known is not added again.

        Raises
        ------
        OSError
            It cannot be written.
        """
        digest = self._hash_of(answer.source)
        if answer.source in self.answered or digest is None:
            return
        line = _line(KeptAnswer(file_sha256=digest, answer=answer))
        append_line(self.path, lambda _: line)

    def end(self, reported: bool, failures: Iterable[Failure], notes: Console) -> None:
        """Remove the file where the film is complete; else say what it is good for.

        Parameters
        ----------
        reported : bool
            Whether the film was read as far as it should be and every output was written.
        failures : iterable of Failure
            Images without an answer. One that would fail again, such as a damaged one, leaves the film complete.
        """
        if reported and not any(failure.error in PASSING for failure in failures):
            self.path.unlink(missing_ok=True)
        else:
            notes.print(plain(f"unfinished: {shown(self.path)} keeps the answers; the same command goes on from there"))

    def _hash_of(self, source: str) -> str | None:
        """Return the hash of the file that a picture is from: of that name, or the slide that it is a region of."""
        return self._hashes.get(source) or self._hashes.get(source.rpartition("#")[0])

    def _read(self, terms: Terms) -> list[KeptAnswer]:
        """Return the answers in the file, and cut off a last line that a crash left in parts."""
        try:
            data = read_bytes(self.path)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not data or (not lines and _line(terms).startswith(data)):
            return []
        name = shown(self.path)
        try:
            begun = Terms.model_validate_json(lines[0])
        except (IndexError, ValidationError) as error:
            raise typer.BadParameter(f"{name} is not the file of an unfinished film; give another name") from error
        if differing := begun.differences(terms):
            raise typer.BadParameter(
                f"{name} was begun with another {' and '.join(differing)}: answers of both are no one sample. Call as "
                "before, or delete the file to begin anew"
            )
        kept = []
        for number, line in enumerate(lines[1:], 2):
            try:
                kept.append(KeptAnswer.model_validate_json(line))
            except ValidationError as error:
                raise typer.BadParameter(f"{name} is damaged in line {number}; delete it to begin anew") from error
        if whole != data:
            write_bytes(self.path, whole)
        return kept


def _line(document: Frozen) -> bytes:
    return json.dumps(document.model_dump(mode="json"), ensure_ascii=False, allow_nan=False).encode("utf-8")
