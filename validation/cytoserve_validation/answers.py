"""A server's answers about labelled cells, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_client import CellsAnalysis
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_files import shown
from numpy.typing import NDArray

from cytoserve_validation.errors import NothingScored
from cytoserve_validation.labelled import LabelledCells

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

NOT_SCORED = "not_scored"
"""Code, in lists of failures, of an image that was answered without a label."""


@dataclass(frozen=True)
class Answered:
    """Answers about M cells and C classes, in the order of the cells; NaN is not computed."""

    classes: tuple[str, ...]  # C
    names: tuple[str, ...]  # M relative file names
    truth: Integers  # (M,) -1 where there is none (anomalies)
    label: Integers  # (M,) -1 where a cell was not scored
    posterior: Doubles  # (M, C)
    scores: Doubles  # (M, C) error per class, lower is better
    conformal: Doubles  # (M, C) p-values
    anomaly: Doubles  # (M,) how strange a cell is, see `ANOMALY_COLUMNS` of the contract
    p_value: Doubles  # (M,) share of all reference cells that are at least as strange
    evaluations: Integers  # (M,)
    accepted: Flags  # (M,)
    statistics: Doubles  # (M, S) image statistics, before colours are normalised
    familiar: Doubles  # (M,) p-value of its picture among all calibration cells of the site in force
    familiar_of_kind: Doubles  # (M,) the same among those of the nearest class, which samples are judged by
    cells_of_kind: Integers  # (M,) how many those are; 0 where no picture was compared
    causes: tuple[str, ...]  # M what adds most to the distance ("noise+"); "" where no picture was compared
    reasons: tuple[tuple[str, ...], ...]  # M

    def __len__(self) -> int:
        return len(self.names)

    @property
    def scored(self) -> Flags:
        """(M,) whether the cell got a label."""
        found: Flags = self.label >= 0
        return found

    @property
    def right(self) -> Flags:
        """(M,) whether the label is the true one; a cell that was not scored is not right."""
        found: Flags = self.scored & (self.label == self.truth)
        return found

    @property
    def confidence(self) -> Doubles:
        """(M,) top posterior; 0 for a cell that was not scored."""
        found: Doubles = np.where(self.scored, np.nan_to_num(self.posterior).max(axis=1, initial=0.0), 0.0)
        return found

    def take(self, chosen: Flags | Integers) -> Answered:
        """Return some of the cells."""
        index = np.arange(len(self))[chosen]
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "classes"}
        some: dict[str, Any] = {
            name: tuple(values[i] for i in index) if isinstance(values, tuple) else values[index]
            for name, values in columns.items()
        }
        return replace(self, **some)


def of_labelled(analysis: CellsAnalysis, cells: LabelledCells) -> tuple[Answered, list[dict[str, str]]]:
    """Return the answers about the images of a labelled folder (see `arrays`), and the images without a label."""
    names = {shown(file): cells.name(file) for file in cells.files}
    truth = {shown(file): name for file, name in zip(cells.files, cells.truth, strict=True)}
    return arrays(analysis, names, truth), failures(analysis, names)


def of_anomalies(
    analysis: CellsAnalysis, files: Sequence[Path], folder: Path, kinds: Mapping[Path, str] | None = None
) -> tuple[Answered, list[dict[str, str]]]:
    """Return the answers about the images of anomalies below a folder (see `arrays`), and those without a label.

    ``kinds`` has the kind of each file where the folders of the files are not named by it.
    """
    where = {file: file.relative_to(folder).as_posix() for file in files}
    if kinds is not None:
        where = {file: f"{kinds[file]}/{path}" for file, path in where.items()}
    names = {shown(file): shown(f"{folder.name}/{path}") for file, path in where.items()}
    return arrays(analysis, names, None), failures(analysis, names)


def arrays(analysis: CellsAnalysis, names: Mapping[str, str], truth: Mapping[str, str] | None) -> Answered:
    """Turn answers into arrays.

    Parameters
    ----------
    names : mapping of str to str
        From an answer's ``source`` to the name to keep.
    truth : mapping of str to str, or None
        From ``source`` to the true class; None where there is none (anomalies).

    Raises
    ------
    NothingScored
        No cell has a label.
    """
    classes, cells = analysis.model.classes, analysis.cells
    place = {name: number for number, name in enumerate(classes)}
    if not any(cell.label is not None for cell in cells):
        first = f"; the first failure: {analysis.failures[0].message}" if analysis.failures else ""
        raise NothingScored(f"none of {len(cells) + len(analysis.failures)} images got a label{first}")
    return Answered(
        classes=classes,
        names=tuple(names[cell.source] for cell in cells),
        truth=np.array([place[truth[cell.source]] if truth else -1 for cell in cells], np.int64),
        label=np.array([-1 if cell.label is None else place[cell.label] for cell in cells], np.int64),
        posterior=_table([cell.probability for cell in cells], classes),
        scores=_table([cell.scores for cell in cells], classes),
        conformal=_table([cell.conformal for cell in cells], classes),
        anomaly=_column([cell.anomaly.score if cell.anomaly else None for cell in cells]),
        p_value=_column([cell.anomaly.p_value if cell.anomaly else None for cell in cells]),
        evaluations=np.array([cell.evaluations or 0 for cell in cells], np.int64),
        accepted=np.array([cell.decision == "accept" for cell in cells], bool),
        statistics=_statistics([cell.image_statistics for cell in cells]),
        familiar=_column([cell.familiarity.p_value if cell.familiarity else None for cell in cells]),
        familiar_of_kind=_column([cell.familiarity.p_value_of_kind if cell.familiarity else None for cell in cells]),
        cells_of_kind=np.array([cell.familiarity.cells_of_kind if cell.familiarity else 0 for cell in cells], np.int64),
        causes=tuple(cell.familiarity.cause if cell.familiarity else "" for cell in cells),
        reasons=tuple(cell.reasons for cell in cells),
    )


def failures(analysis: CellsAnalysis, names: Mapping[str, str]) -> list[dict[str, str]]:
    """Return every image without a label, with a stable code and what to do: refused ones and unscored ones."""
    refused = [(names.get(item.source, item.source), item.error, item.message) for item in analysis.failures]
    unscored = [
        (names[cell.source], NOT_SCORED, f"answered without a label ({', '.join(cell.reasons) or 'no reason given'})")
        for cell in analysis.cells
        if cell.label is None
    ]
    return [dict(zip(("file", "error", "message"), row, strict=True)) for row in refused + unscored]


def _table(rows: Sequence[Mapping[str, float] | None], classes: Sequence[str]) -> Doubles:
    return np.array([[(row or {}).get(name, np.nan) for name in classes] for row in rows], np.float64)


def _statistics(rows: Sequence[Sequence[float] | None]) -> Doubles:
    unknown = (np.nan,) * len(IMAGE_STATISTIC_NAMES)
    return np.array([unknown if row is None else row for row in rows], np.float64)


def _column(values: Sequence[float | None]) -> Doubles:
    return np.array([np.nan if value is None else value for value in values], np.float64)
