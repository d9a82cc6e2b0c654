"""Build and write a site's calibration from labelled cells that went through the live server."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_client import ServiceInfo
from cytoserve_contract.parameters import HOME_SITE, MAX_SITE_NAME, folded_site
from cytoserve_files import NotWritable, check_output, write_text
from cytoserve_reports.text import NOTICE
from cytoserve_scoring.classifier.fitting import (
    LabelledAnswers,
    RiskGuarantee,
    correlation_of_errors,
    document,
    error_bound,
    fit_budget,
)
from cytoserve_scoring.classifier.settings import BudgetSettings, ScoringConfig
from cytoserve_scoring.serving import site as site_file
from cytoserve_statistics.referral_band import everything_referred, expected_referral
from numpy.typing import NDArray
from scipy import special

from cytoserve_validation.answers import Answered, Doubles, Flags
from cytoserve_validation.errors import AlreadyThere, BadSetting, BadTarget, NothingScored, UnboundModel
from cytoserve_validation.pictures import SitePictures
from cytoserve_validation.selective import curve

SET_ERROR: Final = 0.05
"""Error level of prediction sets that the cell counts are judged by."""

ANOMALY_LEVEL: Final = float(ScoringConfig.anomaly_level)
"""The engine's usual level: a p-value below it is an anomaly. A site may ask for a stricter one."""

OF_THE_FIT: Final = frozenset({"anomalous", "ambiguous", "low_confidence", "not_calibrated", "unfamiliar_image"})
"""Reasons that this calibration replaces; the others come from the picture and the scores and stay."""

AMBIGUOUS_FROM: Final = float(ScoringConfig.ambiguous_from)
"""The engine's usual level: a second posterior at or above it is ambiguous."""


@dataclass(frozen=True)
class Made:
    """What the file says about how it was made."""

    site: str
    created: str  # UTC, ISO 8601
    bound_to: site_file.ServedModel  # weights and scoring rules that the file may be used with
    data_sha256: str
    budget: int  # most probes of a cell that were requested
    um_per_pixel: float | None  # as given with the cells
    anomaly_level: float = ANOMALY_LEVEL  # cells with an anomaly p-value below it go to review


def now() -> str:
    """Return the time in UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0).isoformat()


def check_share(name: str, value: float) -> float:
    """Return a setting's value; `BadSetting` if it is not between 0 and 1."""
    if not 0 < value < 1:
        raise BadSetting(f"the {name} must lie between 0 and 1, it is {value}")
    return value


def check_guarantee(tolerated_error: float, confidence: float, most_accepted: float = 1.0) -> RiskGuarantee:
    """Return the risk guarantee; `BadSetting` if a share is not between 0 and 1, the last but for 1 itself."""
    if most_accepted != 1.0:
        check_share("largest share to accept", most_accepted)
    error, sure = check_share("tolerated error", tolerated_error), check_share("confidence", confidence)
    return RiskGuarantee(error, sure, most_accepted)


def check_site(site: str) -> str:
    """Return the site's name, without blanks around it.

    Raises
    ------
    BadSetting
        It is empty, longer than a request may name, holds characters that cannot be printed, or is that of the
        model's own calibration.
    """
    name = site.strip()
    if not name or not name.isprintable():
        raise BadSetting(f"the site's name {site!r} is empty or cannot be printed")
    if len(name) > MAX_SITE_NAME:
        raise BadSetting(f"the site's name has {len(name)} characters; requests can name at most {MAX_SITE_NAME}")
    if folded_site(name) == folded_site(HOME_SITE):
        raise BadSetting(f"{name!r} is the model's own calibration; give the site another name")
    return name


def bound_to(info: ServiceInfo) -> site_file.ServedModel:
    """Return the hashes that the calibration is bound to.

    Raises
    ------
    UnboundModel
        The server declares no hash of its weights, or one per file, or none of its scoring rules.
    """
    if not (isinstance(info.weights_sha256, str) and info.weights_sha256):
        raise UnboundModel(
            "the server does not declare one weights_sha256, so a calibration could not be bound to its model; "
            "export the model again"
        )
    procedure = (info.model_extra or {}).get("procedure_sha256")
    if not (isinstance(procedure, str) and procedure):
        raise UnboundModel(
            "the server does not declare the procedure_sha256 of its scoring rules, so a calibration could not be "
            "bound to them; calibrate with a server of this release"
        )
    return site_file.ServedModel(info.weights_sha256, procedure)


def budget_of(info: ServiceInfo, asked: int | None) -> tuple[int, int]:
    """Return (budget, probes in the bank): the budget asked for, else the server's default, else the whole bank.

    Raises
    ------
    BadSetting
        The budget is outside the bank.
    UnboundModel
        The server does not declare how many probes it has.
    """
    declared = info.model_extra or {}
    probes = declared.get("probes")
    if not isinstance(probes, int) or probes < 1:
        raise UnboundModel("the server does not tell how many probes its bank has; export the model again")
    default = declared.get("default_budget")
    budget = asked if asked is not None else default if isinstance(default, int) else probes
    if not 1 <= budget <= probes:
        raise BadSetting(f"the budget must be from 1 to {probes}, the probes of this model's bank; it is {budget}")
    return budget, probes


def needed_cells(guarantee: RiskGuarantee) -> int:
    """Return how many accepted cells without any error the risk guarantee takes at least.

    The exact bound of 0 wrong among n is ``1 - (1 - confidence)^(1/n)``; it meets the tolerated error from
    ``n = ln(1 - confidence) / ln(1 - tolerated_error)`` on.

    Examples
    --------
    >>> needed_cells(RiskGuarantee(0.01, 0.95)), needed_cells(RiskGuarantee(0.10, 0.90))
    (299, 22)
    """
    return math.ceil(math.log(1 - guarantee.confidence) / math.log(1 - guarantee.tolerated_error))


def build(
    found: Answered,
    info: ServiceInfo,
    guarantee: RiskGuarantee,
    made: Made,
    probes: int,
    failed: Sequence[Mapping[str, str]],
    pictures: SitePictures,
    slides: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Fit on the answers and return the document, its own hash included.

    ``pictures`` and ``slides`` are those of the scored cells, in the order of ``found``. Where slides are given, the
    guarantee is for cells of new slides.

    Raises
    ------
    NothingScored
        The server did not return the scores of all classes.
    """
    cells = found.take(found.scored)
    if not np.isfinite(cells.scores).all():
        raise NothingScored("the server left out scores of some classes; calibrate with a server of this release")
    answers = LabelledAnswers(cells.label, cells.scores, cells.anomaly, cells.evaluations)
    slide = None if slides is None else np.array(slides)[found.scored]
    fitted = fit_budget(answers, cells.truth, found.classes, guarantee, slide)
    fit = document({made.budget: fitted}, probes, guarantee, len(cells))
    top = posterior(cells, fitted.settings).max(axis=1)
    left = kept(cells, fitted.settings, made.anomaly_level, pictures.unfamiliar)
    per_class = {name: int((cells.truth == c).sum()) for c, name in enumerate(found.classes)}
    whole = {
        "schema": site_file.SCHEMA,
        "notice": NOTICE,
        "site": made.site,
        "created": made.created,
        "made_with": {"cytoserve": metadata.version("cytoserve")},
        "model": {"name": info.name, "version": info.version, "classes": list(found.classes)},
        "weights_sha256": made.bound_to.weights_sha256,
        "procedure_sha256": made.bound_to.procedure_sha256,
        "data_sha256": made.data_sha256,
        "um_per_pixel": made.um_per_pixel,
        "cells": {
            "scored": len(cells),
            "per_class": per_class,
            "absent": [name for name, count in per_class.items() if count == 0],
            "failed": [dict(item) for item in failed],
        },
        "default_budget": made.budget,
        "anomaly_level": made.anomaly_level,
        **fit,
        "promise": {
            **fit["promise"],
            **_counted_by(cells, slide, guarantee),
            "most_accepted": guarantee.most_accepted,
        },
        "familiar": pictures.familiar.to_json(),
        "pictures": pictures.summary,
        "expected_referral": (
            everything_referred(len(cells))
            if fitted.settings.accept_threshold is None
            else expected_referral(int((~left).sum()), len(cells))
        ),
        "seen": seen(cells, fitted.settings, guarantee, left, slide),
        "warnings": [
            *warnings(fitted.settings, found.classes, made.anomaly_level),
            *_more_than_asked(_passed(cells, fitted.settings), guarantee),
            *pictures.warnings,
        ],
        "curves": {"risk_coverage": curve(top, cells.right, guarantee.confidence, slide)},
    }
    return {**whole, "content_sha256": site_file.content_sha256(whole)}


def posterior(cells: Answered, fitted: BudgetSettings) -> Doubles:
    """Return (M, C) probabilities under the new temperature."""
    found: Doubles = special.softmax(-cells.scores / fitted.temperature, axis=1)
    return found


def kept(cells: Answered, fitted: BudgetSettings, level: float, unfamiliar: Flags) -> Flags:
    """Return (M,) which calibration cells would be accepted under the new calibration, every reason counted.

    The reasons of `OF_THE_FIT` are worked out again: the threshold, anomaly (each cell among all others),
    ambiguity, and ``unfamiliar``, which must come of references that the cell did not help to make.
    """
    ranked = np.sort(posterior(cells, fitted), axis=1)[:, ::-1]
    out = _passed(cells, fitted) & ~unfamiliar & _ordinary(cells, fitted.all_anomalies, level)
    if ranked.shape[1] > 1:
        out &= ranked[:, 1] < AMBIGUOUS_FROM
    out &= np.array([set(reasons) <= OF_THE_FIT for reasons in cells.reasons])
    return out


def _counted_by(cells: Answered, slides: NDArray[Any] | None, guarantee: RiskGuarantee) -> dict[str, Any]:
    """Return what the guarantee takes as independent: cells, or the slides that they come from."""
    if slides is None:
        return {"independent": "cells", "slides": None, "correlation_within_slides": None}
    alike = correlation_of_errors(cells.right, guarantee.confidence, slides)
    return {
        "independent": "slides",
        "slides": len(np.unique(slides)),
        "correlation_within_slides": float(f"{alike:.4g}"),
    }


def seen(
    cells: Answered,
    fitted: BudgetSettings,
    guarantee: RiskGuarantee,
    left: Flags,
    slides: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Return how many calibration cells would be accepted, by the threshold alone and with every other reason.

    The risk guarantee holds for the threshold alone: other reasons only take cells out, but which ones is not tested
    by it. The second count shows on these same cells whether that did harm. By class, because classes are referred at
    different rates: whoever meets another mix of them must expect another share.

    Parameters
    ----------
    left : (M,) ndarray of bool
        Of `kept`.
    slides : (M,) ndarray, optional
        Given, ``upper`` is a bound for cells of new slides.
    """
    shares = {name: cells.truth == c for c, name in enumerate(cells.classes) if (cells.truth == c).any()}
    return {
        "by_threshold": _count(cells, _passed(cells, fitted), guarantee, slides),
        "with_every_reason": _count(cells, left, guarantee, slides),
        "referred_by_class": {name: float((~left[own]).mean()) for name, own in shares.items()},
        "needed_without_error": needed_cells(guarantee),
    }


def _passed(cells: Answered, fitted: BudgetSettings) -> Flags:
    threshold = fitted.accept_threshold
    if threshold is None:
        return np.zeros(len(cells), bool)
    found: Flags = posterior(cells, fitted).max(axis=1) >= threshold
    return found


def _ordinary(cells: Answered, known: Doubles, level: float) -> Flags:
    """Return which cells the sorted scores of all cells, ``known``, do not call anomalous."""
    own = np.array([float(f"{value:.6g}") for value in cells.anomaly])
    # A cell stands in the reference itself: it counts for the 1 that a new cell's p-value adds.
    p_values = (len(known) - np.searchsorted(known, own, side="left")) / max(len(known), 1)
    # A cell without an anomaly score is referred as not calibrated, so it is not among the accepted.
    ordinary: Flags = (p_values >= level) & np.isfinite(cells.anomaly)
    return ordinary


def _count(cells: Answered, accepted: Flags, guarantee: RiskGuarantee, slides: NDArray[Any] | None) -> dict[str, Any]:
    count, wrong = int(accepted.sum()), int((accepted & ~cells.right).sum())
    upper = error_bound(accepted, cells.right, guarantee.confidence, slides) if count else None
    return {"accepted": count, "share": count / len(cells), "wrong": wrong, "upper": upper}


def warnings(fitted: BudgetSettings, classes: Sequence[str], level: float) -> list[str]:
    """Return what these cells are too few for, class by class, as sentences."""
    out = []
    true_cells, taken_cells = fitted.conformal_reference or {}, fitted.anomaly_reference or {}
    sets = math.ceil(1 / SET_ERROR) - 1
    compared, anomalies = len(fitted.all_anomalies), math.floor(1 / level)
    if compared < anomalies:
        out.append(f"{compared} cells have an anomaly score; below {anomalies} none can be flagged as anomalous")
    for name in classes:
        true = len(true_cells[name])
        if true < sets:
            out.append(f"{name}: {true} cells; below {sets} it stays in every {1 - SET_ERROR:.0%} prediction set")
        if not taken_cells[name]:
            out.append(f"{name}: no cell was called so; cells called so get no anomaly p-value and are not accepted")
    if fitted.accept_threshold is None:
        out.append("no threshold keeps the promise on these cells: every cell goes to review")
    return out


def _more_than_asked(passed: Flags, guarantee: RiskGuarantee) -> list[str]:
    """Return the sentence on a threshold that accepts more than was asked for, because none is stricter."""
    share = float(passed.mean())
    if share <= guarantee.most_accepted:
        return []
    return [
        f"{share:.1%} of the cells pass the strictest threshold, more than the {guarantee.most_accepted:.1%} asked for"
    ]


def refuse_to_overwrite(path: Path) -> None:
    """Say so before any work is done: also if the file could not be written after it.

    Raises
    ------
    AlreadyThere
        Something is there: a file, a folder, a link, a device.
    BadTarget
        It cannot be written.
    """
    if os.path.lexists(path):
        raise AlreadyThere(f"{path} exists; calibrations are kept, not overwritten: give another name")
    try:
        check_output(path)
    except NotWritable as error:
        raise BadTarget(str(error)) from error


def write(path: Path, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Write the file whole or not at all, read it back as the server will, and return what was read.

    Raises
    ------
    AlreadyThere
    CalibrationRefused
        What was written would be refused; it is removed.
    """
    refuse_to_overwrite(path)
    text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)
    try:
        return site_file.read(path, site_file.ServedModel(whole["weights_sha256"], whole["procedure_sha256"]))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
