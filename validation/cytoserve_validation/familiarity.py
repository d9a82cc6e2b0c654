"""What validation says about how familiar the cells' pictures were to the site in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from cytoserve_client.familiarity import SAMPLE_LEVEL
from cytoserve_contract.image_statistics import cause_in_words
from cytoserve_contract.reasons import Reason
from cytoserve_statistics.combined import combined_p_value
from cytoserve_statistics.resampling import Resampler
from cytoserve_statistics.shares import upper_bound

from cytoserve_validation.answers import Answered, Flags
from cytoserve_validation.labelled import Groups

LEVELS: Final = (0.01, 0.05, 0.1, 0.5)
"""p-values at or below which the share of cells is reported: as much, where pictures are those of the site."""
CAUSES_SHOWN: Final = 5


def describe_familiarity(
    cells: Answered, resampler: Resampler, groups: Groups | None, level: float
) -> dict[str, Any] | None:
    """Return how familiar M cells were; None where the server compared no picture.

    Parameters
    ----------
    groups : Groups, optional
        Of the same cells; the sample test is then also made for each group and for each slide.
    level : float
        Confidence of the bounds on the error among accepted cells.
    """
    known = np.isfinite(cells.familiar)
    if not known.any():
        return None
    return {
        **_part(cells, resampler),
        "not_compared": int((~known).sum()),
        "p_values": {
            f"{at:g}": resampler.share(known & (np.nan_to_num(cells.familiar, nan=1.0) <= at), known).json()
            for at in LEVELS
        },
        "per_class": {
            name: resampler.share(unfamiliar(cells), cells.truth == c).json()
            for c, name in enumerate(cells.classes)
            if (cells.truth == c).any()
        },
        "causes": causes(cells),
        "acceptance": {
            "with_check": _accepted(cells, cells.accepted, resampler, level),
            "without_check": _accepted(cells, cells.accepted | _by_it_alone(cells), resampler, level),
        },
        "groups": None if groups is None else _each(cells, resampler, groups.group, groups),
        "slides": None if groups is None or groups.slide is None else _each(cells, resampler, groups.slide, groups),
    }


def unfamiliar(cells: Answered) -> Flags:
    """Return (M,) which cells were referred as unfamiliar, whatever else they were referred for."""
    found: Flags = np.array([Reason.UNFAMILIAR_IMAGE.value in reasons for reasons in cells.reasons], bool)
    return found


def sample_p_value(cells: Answered) -> float | None:
    """Return the p-value of the cells taken as one sample; None where no picture was compared."""
    known = np.isfinite(cells.familiar_of_kind) & (cells.cells_of_kind > 0)
    if not known.any():
        return None
    return combined_p_value(cells.familiar_of_kind[known].tolist(), cells.cells_of_kind[known].tolist())


def causes(cells: Answered) -> list[dict[str, Any]]:
    """Return what the unfamiliar cells' pictures differ by, the most frequent first, in words."""
    return [
        {"cause": cause, "in_words": cause_in_words(cause), "cells": count}
        for cause, count in usual_causes(cells.causes, unfamiliar(cells))
    ]


def usual_causes(named: Sequence[str], far: Flags) -> list[tuple[str, int]]:
    """Return the most frequent causes among the cells that are ``far``, with their numbers of cells."""
    counts = Counter(cause for cause, is_far in zip(named, far, strict=True) if is_far and cause)
    return counts.most_common(CAUSES_SHOWN)


def sentence(found: dict[str, Any] | None) -> str:
    """Return the one line that the terminal shows."""
    if found is None:
        return "familiar pictures: the server compared none"
    share, first = found["unfamiliar"], found["causes"][0]["in_words"] if found["causes"] else ""
    line = f"unfamiliar pictures: {share['value']:.4g}  ({share['low']:.4g} to {share['high']:.4g})"
    rejected = sum(row["rejected"] for row in (found["slides"] or found["groups"] or {}).values())
    parts = [line, first] if first else [line]
    if found["groups"]:
        kind = "slide" if found["slides"] else "group"
        parts.append(f"{rejected} of {len(found['slides'] or found['groups'])} {kind}(s) rejected as samples")
    elif found["rejected"]:
        parts.append("taken as one sample they are not of this site")
    return "; ".join(parts)


def _part(cells: Answered, resampler: Resampler) -> dict[str, Any]:
    p_value = sample_p_value(cells)
    return {
        "cells": len(cells),
        "unfamiliar": resampler.share(unfamiliar(cells), np.ones(len(cells), bool)).json(),
        "sample_p_value": p_value,
        "rejected": p_value is not None and p_value < SAMPLE_LEVEL,
    }


def _each(cells: Answered, resampler: Resampler, names: Sequence[str], groups: Groups) -> dict[str, dict[str, Any]]:
    own = np.array(names)
    return {
        name: _part(cells.take(own == name), resampler.take(own == name, groups.slide)) for name in sorted(set(names))
    }


def _by_it_alone(cells: Answered) -> Flags:
    """Return (M,) which cells were referred for no other reason than an unfamiliar picture, or an unfamiliar sample."""
    check = {Reason.UNFAMILIAR_IMAGE.value, Reason.UNFAMILIAR_SAMPLE.value}
    found: Flags = np.array([bool(reasons) and set(reasons) <= check for reasons in cells.reasons], bool)
    return found & cells.scored


def _accepted(cells: Answered, accepted: Flags, resampler: Resampler, level: float) -> dict[str, Any]:
    count, wrong = int(accepted.sum()), int((accepted & ~cells.right).sum())
    return {
        "accepted": count,
        "wrong": wrong,
        "share": resampler.share(accepted, np.ones(len(cells), bool)).json(),
        "error": resampler.share(~cells.right, accepted).json(),
        "bound": upper_bound(wrong, count, level) if count else None,
    }
