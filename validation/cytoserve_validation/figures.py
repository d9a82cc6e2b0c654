"""All figures of one set of labelled cells, each with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from cytoserve_client.results import SET_ERROR
from cytoserve_scoring.classifier.fitting import error_bound
from cytoserve_statistics.accuracy import balanced_accuracy_figure
from cytoserve_statistics.calibration import calibration_error_figure, chance_level, equal_count_bins, reliability
from cytoserve_statistics.resampling import Figure, Resampler, mean_of

from cytoserve_validation import psychometric, selective
from cytoserve_validation.answers import Answered, Flags, Integers

NOT_SCORED_COLUMN = "not scored"

RISES_BY_CHANCE = "calibration_error"
"""The figure that chance can only raise: its percentile interval is corrected (`resampling.unbiased_ends`)."""


def guess_among(cells: Answered, present: Sequence[int]) -> Integers:
    """Return the label of each cell if only some classes had been in the race: the least score among them.

    -1 for cells that were not scored. Classes that were dropped early have the error that the server estimates.
    """
    best = np.full(len(cells), -1, np.int64)
    scored = np.flatnonzero(np.isfinite(cells.scores[:, list(present)]).any(axis=1))
    best[scored] = np.array(present)[np.nanargmin(cells.scores[scored][:, list(present)], axis=1)]
    return best


def calibration_error(cells: Answered) -> Figure:
    """Return the figure: expected calibration error of the scored cells."""
    scored = cells.scored
    figure = calibration_error_figure(cells.confidence[scored], cells.right[scored])
    return lambda weights: figure(weights[:, scored])


def in_set(cells: Answered) -> tuple[Flags, Flags, Integers]:
    """Return, per cell: whether p-values were computed, whether the true class is in the set, the set's size."""
    known = np.isfinite(cells.conformal).all(axis=1)
    members = np.nan_to_num(cells.conformal) > SET_ERROR
    # as the client's prediction_set: a set that is not empty holds the label
    labelled = np.flatnonzero(members.any(axis=1) & (cells.label >= 0))
    members[labelled, cells.label[labelled]] = True
    return known, members[np.arange(len(cells)), cells.truth] & known, np.where(known, members.sum(axis=1), 0)


def shares(cells: Answered) -> dict[str, tuple[Flags, Flags]]:
    """Return the figures that are shares, by name: (hits, among)."""
    everyone = np.ones(len(cells), bool)
    known, covered, _ = in_set(cells)
    return {
        "accuracy": (cells.right, everyone),
        "accepted": (cells.accepted, everyone),
        "error_among_accepted": (~cells.right, cells.accepted),
        "set_coverage": (covered, known),
    }


def other_figures(cells: Answered) -> dict[str, tuple[Figure, int]]:
    """Return the figures that are no shares, by name: (figure, cells it is measured on)."""
    known, _, size = in_set(cells)
    scored = cells.scored
    return {
        "balanced_accuracy": (balanced_accuracy_figure(cells.label, cells.truth), len(cells)),
        "calibration_error": (calibration_error(cells), int(scored.sum())),
        "set_size": (mean_of(size.astype(float), known), int(known.sum())),
        "evaluations": (mean_of(cells.evaluations.astype(float), scored), int(scored.sum())),
    }


def headline(cells: Answered, resampler: Resampler) -> dict[str, dict[str, Any]]:
    """Return the figures that groups are compared by, with their intervals."""
    out = {name: resampler.share(*pair).json() for name, pair in shares(cells).items()}
    for name, pair in other_figures(cells).items():
        out[name] = resampler.figure(*pair, never_below_zero=name == RISES_BY_CHANCE).json()
    return out


def describe(
    cells: Answered, resampler: Resampler, level: float, slides: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return everything that is measured on one set of cells.

    ``level`` is the confidence of the one-sided bounds on the error among accepted cells; where (M,) ``slides`` are
    given they are bounds for cells of new slides.
    """
    slide = None if slides is None else np.array(slides)
    accepted = int(cells.accepted.sum())
    wrong = int((cells.accepted & ~cells.right).sum())
    return {
        "cells": len(cells),
        "unscored": int((~cells.scored).sum()),
        "headline": headline(cells, resampler),
        "per_class": per_class(cells, resampler),
        "confusion": confusion(cells),
        "reliability": reliability(cells.confidence[cells.scored], cells.right[cells.scored]),
        "calibration_error_by_chance": chance_level(cells.confidence[cells.scored]),
        "psychometric": accuracy_by_confidence(cells),
        "sets": sets(cells, resampler),
        "risk_coverage": {
            "area": selective.area_under_risk(cells.confidence, cells.right),
            "points": selective.curve(cells.confidence, cells.right, level, slide),
        },
        "acceptance": {
            "accepted": accepted,
            "wrong": wrong,
            "bound": error_bound(cells.accepted, cells.right, level, slide) if accepted else None,
            "bound_confidence": level,
            "reasons": dict(Counter(reason for reasons in cells.reasons for reason in reasons).most_common()),
        },
        "evaluations": evaluations(cells),
    }


def class_shares(cells: Answered, number: int) -> dict[str, tuple[Flags, Flags]]:
    """Return sensitivity, specificity and predictive values of one class against the rest: (hits, among)."""
    true, called = cells.truth == number, cells.label == number
    return {
        "sensitivity": (called, true),
        "specificity": (~called, ~true),
        "positive_predictive_value": (true, called),
        "negative_predictive_value": (~true, ~called),
    }


def per_class(cells: Answered, resampler: Resampler) -> dict[str, dict[str, Any]]:
    """Return sensitivity, specificity and predictive values of every class.

    Predictive values are those of this mixture of classes, not of another laboratory's.
    """
    out = {}
    for number, name in enumerate(cells.classes):
        counts = {"cells": int((cells.truth == number).sum()), "called": int((cells.label == number).sum())}
        found = class_shares(cells, number)
        out[name] = {**counts, **{key: resampler.share(*pair).json() for key, pair in found.items()}}
    return out


def confusion(cells: Answered) -> dict[str, dict[str, int]]:
    """Return, by true class (those present) and by label (all, and not scored), the number of cells."""
    columns = (*cells.classes, NOT_SCORED_COLUMN)
    return {
        cells.classes[c]: {name: int(((cells.truth == c) & (cells.label == _number(cells, name))).sum())
                           for name in columns}
        for c in np.unique(cells.truth)
    }  # fmt: skip


def _number(cells: Answered, name: str) -> int:
    return -1 if name == NOT_SCORED_COLUMN else cells.classes.index(name)


def accuracy_by_confidence(cells: Answered) -> dict[str, Any]:
    """Return accuracy against confidence: bins of equally many cells, and the fitted curve where there is one."""
    confidence, right = cells.confidence[cells.scored], cells.right[cells.scored]
    fit = psychometric.fit(confidence, right, len(cells.classes))
    return {"bins": equal_count_bins(confidence, right, psychometric.BINS), "fit": None if fit is None else fit.json()}


def sets(cells: Answered, resampler: Resampler) -> dict[str, Any] | None:
    """Return coverage and size of the conformal sets, per class; None where the server computed none."""
    known, covered, size = in_set(cells)
    if not known.any():
        return None
    rows = {}
    for number, name in enumerate(cells.classes):
        true = (cells.truth == number) & known
        if true.any():
            rows[name] = {"coverage": resampler.share(covered, true).json(), "mean_size": float(size[true].mean())}
    return {
        "error": SET_ERROR,
        "per_class": rows,
        "sizes": {str(k): int((size[known] == k).sum()) for k in range(len(cells.classes) + 1)},
        "without_p_values": int((~known).sum()),
    }


def evaluations(cells: Answered) -> dict[str, Any]:
    """Return the cost per scored cell: mean, median, 95th percentile, most."""
    spent = cells.evaluations[cells.scored]
    found = {"mean": spent.mean(), "median": np.median(spent)}
    found |= {"percentile_95": np.percentile(spent, 95), "most": spent.max()}
    return {name: float(value) for name, value in found.items()}


def restricted(cells: Answered, resampler: Resampler) -> dict[str, Any] | None:
    """Return accuracy, balanced accuracy and recalls with only the classes present in the race; None if all are.

    It answers another question than the service does, which does not know which classes are absent.
    """
    present = [int(c) for c in np.unique(cells.truth)]
    if len(present) == len(cells.classes) or not np.isfinite(cells.scores).any():
        return None
    label = guess_among(cells, present)
    right = label == cells.truth
    everyone = np.ones(len(cells), bool)
    return {
        "classes": [cells.classes[c] for c in present],
        "accuracy": resampler.share(right, everyone).json(),
        "balanced_accuracy": resampler.figure(balanced_accuracy_figure(label, cells.truth), len(cells)).json(),
        "sensitivity": {cells.classes[c]: resampler.share(label == c, cells.truth == c).json() for c in present},
    }
