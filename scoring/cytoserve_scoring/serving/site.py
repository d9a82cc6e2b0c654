"""A site's own calibration: a file of another owner and another life cycle than the model, bound to it by hash.

A hospital runs labelled cells of its own scanner and stain through the server and gets thresholds that hold there.
The file is plain JSON, so that a person can read the risk guarantee and the number of cells behind it; its own hash
covers everything else in it, so that an edit by hand is noticed. A signature says who made it (docs/calibration.md).

This module reads and checks one such document. Which files of a folder count: :mod:`.calibration_folder`. What a
server makes of several: :mod:`.sites`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from cytoserve_contract import names
from cytoserve_contract.parameters import MAX_SITE_NAME, PARAMETERS
from cytoserve_files import FileProblem, open_regular

from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_scoring.errors import CytoserveError

SCHEMA: Final = names.CALIBRATION
RULES: Final = 5
"""Version of the rules by which the engine comes to an answer, raised whenever other answers come of the same errors.
2: a near tie is augmented over the noise samples that both classes saw, wherever one was dropped. 3: a cell whose
picture is unfamiliar is referred. 4: the tie statistic of few noise samples counts the usual spread;
where an evaluation answers all classes, none is dropped. 5: the anomaly score counts
indecision and the errors themselves, and is compared with all calibration cells."""

PROCEDURE: Final = (
    "classes",
    "latent_shape",
    "all_classes",
    "probes",
    "elimination",
    "second_look",
    "anomaly_profile",
    "ambiguous_from",
    "tie_statistic",
)
"""Keys of ``scoring.json`` that shape an answer and that a site's file does not replace: with others, its thresholds
and references mean something else."""

CALIBRATION_ENV: Final = names.ENV_CALIBRATION
"""Environment variable that names the folder with the sites' files; unset or an empty folder: only the model's own."""

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of a site's file; one of 1,704 cells has a third of a megabyte."""

AGAIN: Final = "make it again with `cytoserve calibrate`"

FITTED: Final = (
    "temperature",
    "accept_threshold",
    "anomaly_reference",
    "conformal_reference",
    "familiar",
    "expected_referral",
    "calibrated",
    "promise",
    "by_budget",
)
"""Keys that a site's file gives and that replace the model's own."""


class CalibrationRefused(CytoserveError):
    """A site calibration that must not be used: another model's, changed or unreadable. It ends the server's start."""


@dataclass(frozen=True)
class ServedModel:
    """What a calibration is bound to."""

    weights_sha256: str | None
    """Hash of the model's weights; None where the repository declares none."""
    procedure_sha256: str
    """See :func:`procedure_sha256`."""


def content_sha256(document: Mapping[str, Any]) -> str:
    """Return the hash of everything in a document but its own hash."""
    return _canonical_sha256({key: value for key, value in document.items() if key != "content_sha256"})


def procedure_sha256(scoring: Mapping[str, Any]) -> str:
    """Return the hash of how errors become answers: the engine's rules and the settings that a site does not replace.

    Parameters
    ----------
    scoring : mapping
        Content of the model's ``scoring.json``.
    """
    return _canonical_sha256({"rules": RULES, **{key: scoring.get(key) for key in PROCEDURE}})


def _canonical_sha256(data: Mapping[str, Any]) -> str:
    """Return the hash of canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_schema(document: Mapping[str, Any], source: str) -> None:
    """Refuse a document that is no calibration of this release; `CalibrationRefused`."""
    if document.get("schema") == "cytoserve.calibration/1":
        raise CalibrationRefused(
            f"{source} was made by an earlier release, whose answers came about by other rules: its thresholds promise "
            f"nothing here; {AGAIN}"
        )
    if document.get("schema") != SCHEMA:
        raise CalibrationRefused(f"{source} is no {SCHEMA} file; make one with `cytoserve calibrate`")


def check(document: Mapping[str, Any], served: ServedModel, source: str) -> None:
    """Refuse a document that is no calibration of what is served.

    Raises
    ------
    CalibrationRefused
        Wrong schema, changed content, made for other weights or under other rules, a missing key, or a reference of
        familiar pictures or an expected share of referrals that cannot be used.
    """
    check_schema(document, source)
    if document.get("content_sha256") != content_sha256(document):
        raise CalibrationRefused(f"{source} was changed after it was made; {AGAIN}")
    if served.weights_sha256 is None or document.get("weights_sha256") != served.weights_sha256:
        raise CalibrationRefused(
            f"{source} was made for the weights {str(document.get('weights_sha256'))[:12]}, this server runs "
            f"{str(served.weights_sha256)[:12]}; make one for this model with `cytoserve calibrate`"
        )
    if document.get("procedure_sha256") != served.procedure_sha256:
        raise CalibrationRefused(
            f"{source} was made under other scoring rules ({str(document.get('procedure_sha256'))[:12]}) than this "
            f"server's ({served.procedure_sha256[:12]}): its thresholds promise nothing here; {AGAIN}"
        )
    missing = [key for key in FITTED if key not in document]
    if missing:
        raise CalibrationRefused(f"{source} lacks {', '.join(missing)}; {AGAIN}")
    _check_familiar(document["familiar"], source)
    ReferralBand.from_json(document["expected_referral"], source)


def _check_familiar(reference: Any, source: str) -> None:
    """Refuse a reference without which no picture is compared: every cell of the site would be referred."""
    if not isinstance(reference, dict):
        raise CalibrationRefused(f"{source} has no reference of familiar pictures (`familiar`); {AGAIN}")
    try:
        FamiliarPictures.from_json(reference)
    except (CytoserveError, AttributeError) as error:
        raise CalibrationRefused(f"{source} cannot be used: {error}") from error


@dataclass(frozen=True)
class ReferralBand:
    """Which share of a site's cells is referred, as its calibration expects."""

    value: float
    """Expected share, 0 to 1."""
    low: float
    high: float
    """The band outside which an alert is raised."""
    cells: int
    """Calibration cells that the share was measured on."""

    @classmethod
    def from_json(cls, data: Any, source: str) -> ReferralBand:
        """Build from ``expected_referral`` of a calibration or of ``scoring.json``.

        Raises
        ------
        CalibrationRefused
            It is not three shares in order and a number of cells.
        """
        given = data if isinstance(data, dict) else {}
        parts: list[Any] = [given.get(key) for key in ("low", "value", "high", "cells")]
        low, value, high, cells = parts
        are_numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (low, value, high))
        are_cells = isinstance(cells, int) and not isinstance(cells, bool) and cells >= 1
        if not (are_numbers and are_cells and 0 <= low <= value <= high <= 1):
            raise CalibrationRefused(
                f"{source} has an `expected_referral` that is not shares in order, 0 <= low <= value <= high <= 1, "
                f"and a number of cells; {AGAIN}"
            )
        return cls(float(value), float(low), float(high), int(cells))

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands in a calibration and in ``service_info``."""
        return {"value": self.value, "low": self.low, "high": self.high, "cells": self.cells}


def name_of(document: Mapping[str, Any], source: str) -> str:
    """Return the name of the site that a document is for.

    Raises
    ------
    CalibrationRefused
        None that a request could send: not a text of 1 to `MAX_SITE_NAME` printable characters, or blanks around it.
    """
    name = document.get("site")
    if not PARAMETERS["site"].is_name(name):
        raise CalibrationRefused(
            f"{source} names no site (a text of 1 to {MAX_SITE_NAME} printable characters); {AGAIN} --site NAME"
        )
    if name != name.strip():
        raise CalibrationRefused(f"{source} names a site with blanks around its name; {AGAIN} --site NAME")
    return name


def read(path: Path, served: ServedModel) -> dict[str, Any]:
    """Read and check one file.

    Raises
    ------
    CalibrationRefused
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileProblem as error:
        raise CalibrationRefused(str(error)) from error
    except OSError as error:
        raise CalibrationRefused(f"{path.name} cannot be read ({type(error).__name__})") from error
    document = parse(content, path.name)
    check(document, served, path.name)
    return document


def parse(content: bytes, source: str) -> dict[str, Any]:
    """Return the document that a file's bytes hold, not yet checked.

    Raises
    ------
    CalibrationRefused
        Too many bytes, not JSON (cut off, another encoding, numbers that are not finite), or no object.
    """
    if len(content) > MAX_FILE_BYTES:
        raise CalibrationRefused(
            f"{source} has more than {MAX_FILE_BYTES // 1024**2} MiB, which no calibration has; {AGAIN}"
        )
    try:
        document = json.loads(content.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise CalibrationRefused(
            f"{source} cannot be read as JSON ({type(error).__name__}): it is cut off or another file; copy it again, "
            f"or {AGAIN}"
        ) from error
    if not isinstance(document, dict):
        raise CalibrationRefused(f"{source} is no {SCHEMA} file; make one with `cytoserve calibrate`")
    return document


def _finite(text: str) -> float:
    """Return a number of the file; with NaN as a threshold, every cell would be accepted."""
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")
