"""Every figure per group, against all other cells, and which groups are too small to judge."""

from __future__ import annotations

from typing import Any

import numpy as np
from cytoserve_statistics.resampling import FEW_SLIDES, Resampler, Weights, percentiles, ratio, unbiased_ends
from cytoserve_statistics.shares import newcombe

from cytoserve_validation.answers import Answered, Doubles, Flags
from cytoserve_validation.figures import RISES_BY_CHANCE, class_shares, describe, other_figures, shares
from cytoserve_validation.labelled import Groups

Side = tuple[Weights, Flags, Flags]
"""Draws of one side's cells, which of them are hits, and among which."""

FEWEST_CELLS = 30
WIDEST = 0.2
"""A group is too small to judge below so many cells, or where its accuracy's interval is wider than this."""

FEWEST_OF_CLASS = 10
SHOWN_ERROR = 0.05
"""Among the accepted cells, an error rate that a group should at least be able to exclude."""


def describe_groups(cells: Answered, resampler: Resampler, groups: Groups, level: float) -> dict[str, Any]:
    """Return, by group: figures, differences to all other cells with their intervals, and warnings."""
    names = np.array(groups.group)
    out = {}
    for name in sorted(set(groups.group)):
        inside = names == name
        part = resampler.take(inside, groups.slide)
        found = describe(cells.take(inside), part, level, groups.take(inside).slide)
        out[name] = {
            **found,
            "slides": part.slides,
            "difference_to_others": differences(cells, resampler, inside),
            "class_difference_to_others": class_differences(cells, resampler, inside),
            "warnings": too_small(cells.take(inside), part, found),
        }
    return out


def differences(cells: Answered, resampler: Resampler, inside: Flags) -> dict[str, dict[str, Any]] | None:
    """Return, by figure, group minus all others with its 95 % interval; None where there are no others.

    Shares of independent cells: Newcombe 1998, method 10. Everything else, and everything where slides are drawn: the
    percentile interval of the difference over the draws.
    """
    if inside.all():
        return None
    first, second = cells.take(inside), cells.take(~inside)
    here, there = resampler.weights[:, inside], resampler.weights[:, ~inside]
    out: dict[str, dict[str, Any]] = {}
    theirs = shares(second)
    for name, pair in shares(first).items():
        out[name] = _share_difference(resampler, (here, *pair), (there, *theirs[name]))
    everyone = np.ones((1, len(cells)))
    for name, (figure, _) in other_figures(first).items():
        other, _ = other_figures(second)[name]
        value = float((figure(everyone[:, inside]) - other(everyone[:, ~inside]))[0])
        drawn = figure(here) - other(there)
        low, high = unbiased_ends(drawn, value) if name == RISES_BY_CHANCE else percentiles(drawn)
        method = "slides" if resampler.slides is not None else "bootstrap"
        out[name] = _row(value, low, high, method)
    return out


def class_differences(cells: Answered, resampler: Resampler, inside: Flags) -> dict[str, dict[str, Any]] | None:
    """Return, by class, the differences of sensitivity, specificity and predictive values, as `differences`."""
    if inside.all():
        return None
    first, second = cells.take(inside), cells.take(~inside)
    here, there = resampler.weights[:, inside], resampler.weights[:, ~inside]
    out = {}
    for number, name in enumerate(cells.classes):
        ours, theirs = class_shares(first, number), class_shares(second, number)
        out[name] = {
            key: _share_difference(resampler, (here, *pair), (there, *theirs[key])) for key, pair in ours.items()
        }
    return out


def _share_difference(resampler: Resampler, first: Side, second: Side) -> dict[str, Any]:
    (_, hits, among), (_, others, among_others) = first, second
    count, total = int((hits & among).sum()), int(among.sum())
    other_count, other_total = int((others & among_others).sum()), int(among_others.sum())
    if total == 0 or other_total == 0:
        return _row(float("nan"), float("nan"), float("nan"), "none")
    value = count / total - other_count / other_total
    low, high = newcombe(count, total, other_count, other_total)
    if resampler.slides is None:
        return _row(value, low, high, "Newcombe")
    low_slides, high_slides = percentiles(_drawn(*first) - _drawn(*second))
    return _row(value, min(low, low_slides), max(high, high_slides), "slides")


def _drawn(weights: Weights, hits: Flags, among: Flags) -> Doubles:
    return ratio(weights @ (hits & among), weights @ among)


def _row(value: float, low: float, high: float, method: str) -> dict[str, Any]:
    if np.isnan([value, low, high]).any():
        return {"value": None, "low": None, "high": None, "method": "none"}
    return {"value": value, "low": low, "high": high, "method": method}


def too_small(cells: Answered, resampler: Resampler, found: dict[str, Any]) -> list[str]:
    """Return what this group is too small for, as sentences."""
    out = []
    accuracy = found["headline"]["accuracy"]
    width = accuracy["high"] - accuracy["low"]
    if len(cells) < FEWEST_CELLS:
        out.append(f"too small to judge: {len(cells)} cells, fewer than {FEWEST_CELLS}")
    elif width > WIDEST:
        out.append(f"too small to judge: the interval of its accuracy is {100 * width:.0f} points wide")
    if resampler.slides is not None and resampler.slides < FEW_SLIDES:
        out.append(f"{resampler.slides} slide(s), fewer than {FEW_SLIDES}: intervals over slides are too narrow")
    bound = found["acceptance"]["bound"]
    if bound is None:
        out.append("no cell was accepted: the error among accepted cells is unknown")
    elif bound > SHOWN_ERROR:
        out.append(
            f"{found['acceptance']['accepted']} accepted cells cannot show an error below {SHOWN_ERROR:.0%} "
            f"(bound {bound:.1%})"
        )
    few = [f"{name} ({row['cells']})" for name, row in found["per_class"].items() if 0 < row["cells"] < FEWEST_OF_CLASS]
    if few:
        out.append(f"fewer than {FEWEST_OF_CLASS} cells of {', '.join(few)}: their sensitivities say little")
    return out
