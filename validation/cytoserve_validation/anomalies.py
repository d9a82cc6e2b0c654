"""Strangers given, cells of kinds that the model has no class for: do they stand out from the labelled cells, and how
many of each kind are referred?"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
from cytoserve_contract.reasons import Reason
from cytoserve_statistics.ranking import auc, auc_difference, placements, roc
from cytoserve_statistics.resampling import Interval, Resampler, draw
from cytoserve_statistics.shares import normal_quantile
from numpy.typing import NDArray

from cytoserve_validation.answers import Answered, Doubles, Flags
from cytoserve_validation.figures import NOT_SCORED_COLUMN
from cytoserve_validation.labelled import Groups
from cytoserve_validation.zeta import zeta

CURVE_POINTS = 200
MAIN = "anomaly_score"
MANY_UNFAMILIAR: Final = 0.1
"""Share of unfamiliar pictures from which a kind is said to come from another scanner."""
OF_PICTURE: Final = frozenset((Reason.UNFAMILIAR_IMAGE.value, Reason.UNFAMILIAR_SAMPLE.value))
"""Reasons that look at no class score."""


def anomaly_scores(cells: Answered) -> dict[str, Doubles]:
    """Return every anomaly score, higher for anomalies, NaN where it is unknown.

    ``anomaly_score``: the served one (`Answered.anomaly`).
    ``p_value``: one minus it. ``zeta``: minus the published score.
    ``uncertainty``: one minus the top posterior.
    """
    published = -zeta(cells.scores) if len(cells.classes) > 2 else np.full(len(cells), np.nan)
    return {
        MAIN: np.where(cells.scored, cells.anomaly, np.nan),
        "p_value": 1 - np.where(cells.scored, cells.p_value, np.nan),
        "zeta": np.where(cells.scored, published, np.nan),
        "uncertainty": np.where(cells.scored, 1 - cells.confidence, np.nan),
    }


def describe_anomalies(
    anomalies: Answered, cells: Answered, resampler: Resampler, groups: Groups | None
) -> dict[str, Any]:
    """Return AUC and ROC of every score, differences to the published one, and what happened to the anomalies."""
    high, low = anomaly_scores(anomalies), anomaly_scores(cells)
    usable = [name for name in high if np.isfinite(high[name]).any() and np.isfinite(low[name]).any()]
    everyone = np.ones(len(anomalies), bool)
    own = draw([""] * len(anomalies), None, None)
    out: dict[str, Any] = {
        "cells": len(anomalies),
        "unscored": int((~anomalies.scored).sum()),
        "by_kind": _by_kind(anomalies),
        "ordinary": _referral(cells, resampler),
        "accepted": own.share(anomalies.accepted, everyone).json(),
        "flagged_anomalous": own.share(np.array(["anomalous" in r for r in anomalies.reasons]), everyone).json(),
        "labels": {name: int((anomalies.label == number).sum()) for number, name in enumerate(anomalies.classes)},
        "auc": {name: _auc(high[name], low[name], resampler).json() for name in usable},
        "roc": {name: _curve(high[name], low[name]) for name in usable},
    }
    if MAIN in usable and "zeta" in usable:
        out["auc_ahead_of_zeta"] = _ahead(high, low)
    if groups is not None and MAIN in usable:
        out["auc_by_group"] = by_group(high[MAIN], low[MAIN], resampler, groups)
    return out


def kind_of(strangers: Answered) -> NDArray[np.str_]:
    """Return the (M,) kinds: the folder that a file lies in inside the folder of strangers, or that folder itself."""
    parts = [name.split("/") for name in strangers.names]
    return np.array([names[1] if len(names) > 2 else names[0] for names in parts])


def kinds(strangers: Answered) -> list[str]:
    """Return the kinds among strangers, sorted."""
    return sorted(set(kind_of(strangers).tolist()))


def _by_kind(strangers: Answered) -> dict[str, dict[str, Any]]:
    kind = kind_of(strangers)
    parts = {name: strangers.take(kind == name) for name in kinds(strangers)}
    return {name: _referral(part, draw([""] * len(part), None, None)) for name, part in parts.items()}


def _referral(cells: Answered, resampler: Resampler) -> dict[str, Any]:
    """Return how many cells are referred, for what reasons, and how many would be if no picture were checked.

    A stranger photographed on another scanner is referred for its picture. That says nothing about whether the model
    knows it for a stranger, so what is referred for other reasons too is counted by itself.
    """
    everyone = np.ones(len(cells), bool)
    beyond = np.array([bool(set(reasons) - OF_PICTURE) for reasons in cells.reasons], bool)
    unfamiliar = np.array([Reason.UNFAMILIAR_IMAGE.value in reasons for reasons in cells.reasons], bool)
    return {
        "cells": len(cells),
        "referred": resampler.share(~cells.accepted, everyone).json(),
        "referred_whatever_the_picture": resampler.share(beyond | ~cells.scored, everyone).json(),
        "unfamiliar_picture": resampler.share(unfamiliar, everyone).json(),
        "reasons": dict(Counter(reason for reasons in cells.reasons for reason in reasons).most_common()),
        "labels": dict(Counter(_label(cells, i) for i in range(len(cells))).most_common()),
    }


def _label(cells: Answered, index: int) -> str:
    number = int(cells.label[index])
    return NOT_SCORED_COLUMN if number < 0 else cells.classes[number]


def _known(values: Doubles) -> Flags:
    known: Flags = np.isfinite(values)
    return known


def _auc(high: Doubles, low: Doubles, resampler: Resampler) -> Interval:
    kept = _known(low)
    part = Resampler(resampler.weights[:, kept], resampler.slides)
    return auc(high[_known(high)], low[kept], part)


def _curve(high: Doubles, low: Doubles) -> list[list[float]]:
    """Return at most CURVE_POINTS (false, true) positive rates."""
    false, true = roc(high[_known(high)], low[_known(low)])
    chosen = np.unique(np.linspace(0, len(false) - 1, CURVE_POINTS).round().astype(int))
    return [[float(false[i]), float(true[i])] for i in chosen]


def _ahead(high: dict[str, Doubles], low: dict[str, Doubles]) -> dict[str, Any]:
    """Return how far the served score's AUC is ahead of the published one's, on the same cells."""
    both_high, both_low = _known(high[MAIN]) & _known(high["zeta"]), _known(low[MAIN]) & _known(low["zeta"])
    first = placements(high[MAIN][both_high], low[MAIN][both_low])
    second = placements(high["zeta"][both_high], low["zeta"][both_low])
    value, bottom, top = auc_difference(first, second)
    return {"value": value, "low": bottom, "high": top, "method": "DeLong"}


def by_group(high: Doubles, low: Doubles, resampler: Resampler, groups: Groups) -> dict[str, dict[str, Any]]:
    """Return the AUC of each group's cells against all anomalies, and its difference to all other cells.

    The interval of the difference takes the anomalies as shared: both AUCs rise and fall with them.
    """
    names, out = np.array(groups.group), {}
    anomalies = high[_known(high)]
    for name in sorted(set(groups.group)):
        inside, outside = (names == name) & _known(low), (names != name) & _known(low)
        part = Resampler(resampler.weights[:, inside], resampler.slides)
        row: dict[str, Any] = {**auc(anomalies, low[inside], part).json(), "difference_to_others": None}
        if inside.sum() > 1 and outside.sum() > 1 and len(anomalies) > 1:
            row["difference_to_others"] = _difference(anomalies, low[inside], low[outside])
        out[name] = row
    return out


def _difference(anomalies: Doubles, here: Doubles, there: Doubles) -> dict[str, Any]:
    first, second = placements(anomalies, here), placements(anomalies, there)
    variance = (first.of_anomalies - second.of_anomalies).var(ddof=1) / len(anomalies)
    variance += first.of_ordinary.var(ddof=1) / len(here) + second.of_ordinary.var(ddof=1) / len(there)
    value, half = first.auc - second.auc, normal_quantile() * float(np.sqrt(variance))
    return {"value": value, "low": value - half, "high": value + half, "method": "DeLong"}


def sentences(found: dict[str, Any] | None) -> list[str]:
    """Return what a caller should know of the strangers of a ``validation.json``, one sentence a kind."""
    if found is None:
        return []
    out = []
    for name, row in [*found["by_kind"].items(), ("labelled cells", found["ordinary"])]:
        referred, beyond = row["referred"], row["referred_whatever_the_picture"]
        out.append(
            f"{name}: {row['cells']} cell(s), referred {referred['value']:.1%} ({referred['low']:.1%} to "
            f"{referred['high']:.1%}), whatever the picture {beyond['value']:.1%} ({beyond['low']:.1%} to "
            f"{beyond['high']:.1%})"
        )
    unlike = [name for name, row in found["by_kind"].items() if row["unfamiliar_picture"]["value"] > MANY_UNFAMILIAR]
    if unlike:
        out.append(
            f"Pictures of {', '.join(unlike)} are unlike the calibration's: they come from another scanner or stain "
            "than it, and say little about strangers on yours."
        )
    return out
