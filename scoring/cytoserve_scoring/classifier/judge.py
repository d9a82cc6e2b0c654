"""From the errors of a race to an answer for each cell: label, posterior, prediction set, decision and its reasons."""

from __future__ import annotations

import numpy as np
from cytoserve_contract.anomaly import ANOMALY_COLUMNS
from cytoserve_contract.image_statistics import DOMAIN_COLUMNS
from cytoserve_contract.reasons import Reason
from cytoserve_contract.values import (
    FLAG_OUT_OF_SCALE,
    FLAG_POOR_IMAGE,
    FLAG_SEGMENTED_WHITE_CELL,
    FLAG_TOUCHES_BORDER,
)
from numpy.typing import NDArray

from cytoserve_scoring.classifier.augmentation import revised
from cytoserve_scoring.classifier.familiarity import Assessment
from cytoserve_scoring.classifier.probe_interval import posterior_interval, probe_lags
from cytoserve_scoring.classifier.race import Raced
from cytoserve_scoring.classifier.score_profile import early_errors
from cytoserve_scoring.classifier.scores import (
    CellScores,
    Floats,
    class_scores,
    conformal_p_value,
    nonconformity,
    paired_statistic,
    softmax_posterior,
)
from cytoserve_scoring.classifier.settings import BudgetSettings, RaceTerms, ScoringConfig


def judge(
    raced: Raced,
    flags: NDArray[np.int32],
    config: ScoringConfig,
    terms: RaceTerms,
    assessment: Assessment | None = None,
) -> CellScores:
    """Return the answers for the M cells of a race.

    Parameters
    ----------
    flags : (M,) ndarray of int32
        Bits of ``CELL_FLAGS``; some of them are reasons for review.
    terms : RaceTerms
        Those of the race.
    assessment : Assessment, optional
        How familiar the cells' pictures are; None where pictures are not checked.
    """
    out = _unscored(len(flags), len(config.classes), raced.evaluations)
    if assessment is not None:
        out.domain[:] = assessment.columns()
        out.domain_cause[:] = assessment.cause
    scored = raced.scored
    if scored.size == 0:
        return out
    fitted = config.at(terms.budget)
    out.scores[scored], out.label[scored] = class_scores(raced.errors[scored])
    statistic = {int(cell): paired_statistic(raced.errors[cell], config.usual_spread) for cell in scored}
    for cell, pair in raced.augmented.items():
        out.scores[cell], out.label[cell], statistic[cell] = revised(out.scores[cell], pair, config.usual_spread)
    out.posterior[scored] = softmax_posterior(out.scores[scored], fitted.temperature)
    out.uncertainty[scored] = 1.0 - out.posterior[scored].max(axis=1)
    early = early_errors(raced.errors, out.label)
    for cell, tie in statistic.items():
        best, scores = int(out.label[cell]), out.scores[cell]
        lags = probe_lags(raced.errors[cell], best, raced.augmented.get(cell))
        out.interval[cell] = posterior_interval(scores, best, lags, fitted.temperature, config.usual_spread)
        out.anomaly[cell] = _anomaly(scores, early[cell], config.classes[best], fitted)
        out.conformal[cell] = _conformal(scores, config.classes, fitted)
        unfamiliar = None if assessment is None else bool(assessment.unfamiliar[cell])
        reasons = _reasons(out, cell, tie, int(flags[cell]), unfamiliar, config, terms)
        out.reasons[cell] = ",".join(reasons)
        out.decision[cell] = 1 if reasons else 0
    return out


def _unscored(cells: int, classes: int, evaluations: NDArray[np.int32]) -> CellScores:
    """Return the answer for cells that could not be scored: nothing known, refer."""
    return CellScores(
        label=np.full(cells, -1, np.int32),
        posterior=np.full((cells, classes), np.nan, np.float32),
        interval=np.full((cells, 2), np.nan, np.float32),
        scores=np.full((cells, classes), np.nan, np.float32),
        uncertainty=np.full(cells, np.nan, np.float32),
        anomaly=np.full((cells, len(ANOMALY_COLUMNS)), np.nan, np.float32),
        conformal=np.full((cells, classes), np.nan, np.float32),
        domain=np.full((cells, len(DOMAIN_COLUMNS)), np.nan, np.float32),
        domain_cause=[""] * cells,
        decision=np.ones(cells, np.uint8),
        reasons=[Reason.POOR_IMAGE.value] * cells,
        evaluations=evaluations,
    )


def _anomaly(scores: Floats, early: NDArray[np.float64], name: str, fitted: BudgetSettings) -> tuple[float, ...]:
    """Return ``ANOMALY_COLUMNS`` of a cell answered ``name``; NaN where it is not known.

    A class that no calibration cell was answered with has no p-value at all, though other classes have: whether its
    cells are as strange as theirs was not seen.
    """
    score = float("nan") if fitted.profile is None else fitted.profile.score(scores, early, name)
    of_kind = fitted.anomaly_reference.get(name) if fitted.anomaly_reference else None
    if not of_kind or np.isnan(score):
        return score, float("nan"), float("nan"), float("nan")
    value = float(np.float32(score))
    return (
        score,
        conformal_p_value(value, fitted.all_anomalies),
        conformal_p_value(value, of_kind),
        len(of_kind),
    )


def _conformal(scores: Floats, classes: tuple[str, ...], fitted: BudgetSettings) -> list[float]:
    """Return the class-conditional p-values; a class without reference cells can never be excluded (p = 1)."""
    reference = fitted.conformal_reference
    if reference is None:
        return [float("nan")] * len(scores)
    return [
        conformal_p_value(float(value), reference.get(name, ()))
        for name, value in zip(classes, nonconformity(scores[None])[0], strict=True)
    ]


def _reasons(
    out: CellScores,
    cell: int,
    statistic: float,
    flags: int,
    unfamiliar: bool | None,
    config: ScoringConfig,
    terms: RaceTerms,
) -> list[str]:
    fitted = config.at(terms.budget)
    ranked = np.sort(out.posterior[cell])[::-1]
    p_value = float(out.anomaly[cell, 1])
    # Where cells are checked for anomaly, a class without reference cells must not pass for want of them; nor may a
    # cell pass where no calibration says what pictures it holds for.
    unchecked = unfamiliar is None or (fitted.anomaly_reference is not None and np.isnan(p_value))
    present = {
        Reason.ANOMALOUS: p_value < config.anomaly_level,
        Reason.KIND_CONFLICT: bool(flags & FLAG_SEGMENTED_WHITE_CELL) and config.classes[out.label[cell]] == "platelet",
        Reason.NEAR_TIE: statistic < config.tie_statistic,
        Reason.AMBIGUOUS: len(ranked) > 1 and ranked[1] >= config.ambiguous_from,
        Reason.LOW_CONFIDENCE: fitted.accept_threshold is None or ranked[0] < fitted.accept_threshold,
        Reason.NOT_CALIBRATED: not terms.calibrated or unchecked,
        Reason.UNFAMILIAR_IMAGE: bool(unfamiliar),
        Reason.POOR_IMAGE: bool(flags & FLAG_POOR_IMAGE),
        Reason.OUT_OF_SCALE: bool(flags & FLAG_OUT_OF_SCALE),
        Reason.TOUCHES_BORDER: bool(flags & FLAG_TOUCHES_BORDER),
    }
    return [reason.value for reason, holds in present.items() if holds]
