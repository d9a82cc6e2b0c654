"""A site's own calibration: a file of another owner and another life cycle than the model, bound to it by hash.

A hospital runs labelled cells of its own scanner and stain through the server and gets thresholds that hold there.
The file is plain JSON, so that a person can read the risk guarantee and the number of cells behind it; its own hash
covers everything else in it, so that an edit by hand is noticed. A signature says who made it (docs/calibration.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cytoserve_contract import names
from cytoserve_files import FileProblem, read_text

from cytoserve_scoring.classifier.engine import ScoringEngine
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.errors import CytoserveError

SCHEMA: Final = names.CALIBRATION
RULES: Final = 3
"""Version of the rules by which the engine comes to an answer, raised whenever other answers come of the same errors.
2: a near tie is augmented over the noise samples that both classes saw, wherever one was dropped. 3: a cell whose
picture is unfamiliar is referred."""

PROCEDURE: Final = (
    "classes",
    "latent_shape",
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
"""Environment variable that names the folder with the site's file; unset or an empty folder: the model's own."""

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
"""Keys that :func:`cytoserve_scoring.classifier.fitting.fit` gives and that replace the model's own."""


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


def check(document: Mapping[str, Any], served: ServedModel, source: str) -> None:
    """Refuse a document that is no calibration of what is served.

    Raises
    ------
    CalibrationRefused
        Wrong schema, changed content, made for other weights or under other rules, or a missing key.
    """
    if document.get("schema") == "cytoserve.calibration/1":
        raise CalibrationRefused(
            f"{source} was made by an earlier release, whose answers came about by other rules: its thresholds promise "
            "nothing here; make it again with `cytoserve calibrate`"
        )
    if document.get("schema") != SCHEMA:
        raise CalibrationRefused(f"{source} is no {SCHEMA} file; make one with `cytoserve calibrate`")
    if document.get("content_sha256") != content_sha256(document):
        raise CalibrationRefused(f"{source} was changed after it was made; make it again with `cytoserve calibrate`")
    if served.weights_sha256 is None or document.get("weights_sha256") != served.weights_sha256:
        raise CalibrationRefused(
            f"{source} was made for the weights {str(document.get('weights_sha256'))[:12]}, this server runs "
            f"{str(served.weights_sha256)[:12]}; make one for this model with `cytoserve calibrate`"
        )
    if document.get("procedure_sha256") != served.procedure_sha256:
        raise CalibrationRefused(
            f"{source} was made under other scoring rules ({str(document.get('procedure_sha256'))[:12]}) than this "
            f"server's ({served.procedure_sha256[:12]}): its thresholds promise nothing here; make it again with "
            "`cytoserve calibrate`"
        )
    missing = [key for key in FITTED if key not in document]
    if missing:
        raise CalibrationRefused(f"{source} lacks {', '.join(missing)}; make it again with `cytoserve calibrate`")


def find(folder: str | Path) -> Path | None:
    """Return the one ``*.json`` of the folder, or None if there is none.

    Raises
    ------
    CalibrationRefused
        The folder does not exist, or holds several files: which one counts must not be guessed.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CalibrationRefused(f"{CALIBRATION_ENV} names {path}, which is no folder; create it or unset the variable")
    files = sorted(path.glob("*.json"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise CalibrationRefused(f"{path} holds several calibrations ({names}); keep the one that is to be used")
    return files[0] if files else None


def read(path: Path, served: ServedModel) -> dict[str, Any]:
    """Read and check one file.

    Raises
    ------
    CalibrationRefused
    """
    try:
        document = json.loads(read_text(path))
    except FileProblem as error:
        raise CalibrationRefused(str(error)) from error
    except (OSError, ValueError) as error:
        raise CalibrationRefused(f"{path.name} cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise CalibrationRefused(f"{path.name} is no {SCHEMA} file; make one with `cytoserve calibrate`")
    check(document, served, path.name)
    return document


def weights_of(scoring_file: Path) -> str | None:
    """Return the hash of the weights that ``service_info`` beside the scorer declares, or None."""
    beside = scoring_file.parents[2] / "service_info" / "1" / "service.json"
    if not beside.is_file():
        return None
    value = json.loads(read_text(beside)).get("weights_sha256")
    return value if isinstance(value, str) else None


def load_engine(scoring_file: Path, folder: str | Path | None) -> ScoringEngine:
    """Return the engine of a scorer: the model's ``scoring.json``, with the site's calibration where there is one.

    Parameters
    ----------
    scoring_file : Path
        ``<repository>/scorer/<version>/scoring.json``.
    folder : str, Path or None
        Folder of the site's calibration; None or empty text: none.

    Raises
    ------
    CytoserveError
    """
    data = json.loads(read_text(scoring_file))
    own = ScoringConfig.from_json(data)
    path = find(folder) if folder else None
    if path is None:
        return ScoringEngine(own)
    document = read(path, ServedModel(weights_of(scoring_file), procedure_sha256(data)))
    site = ScoringConfig.from_json({**data, **{key: document[key] for key in FITTED}})
    if document.get("default_budget") is not None:
        site = replace(site, default_budget=int(document["default_budget"]))
    return ScoringEngine(replace(site, anomaly_level=_anomaly_level(document, own.anomaly_level, path.name)))


def _anomaly_level(document: Mapping[str, Any], own: float, source: str) -> float:
    """Return the site's level of the anomaly check, or the model's own: files of earlier releases name none."""
    level = document.get("anomaly_level", own)
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise CalibrationRefused(f"{source} has the anomaly_level {level!r}; it must lie between 0 and 1")
    return float(level)


def describe(folder: str | Path | None) -> dict[str, Any] | None:
    """Return who calibrated and the file's hash, for ``service_info``; None where the model's own calibration holds.

    The file is not checked here: the scorer does that, and the server does not start with a wrong one.
    """
    path = find(folder) if folder else None
    if path is None:
        return None
    document = json.loads(read_text(path))
    return {key: document.get(key) for key in ("site", "created", "content_sha256", "promise")}
