"""What a site's calibration promises, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cytoserve_statistics.referral_band import WINDOW_CELLS


def sentences(whole: Mapping[str, Any]) -> list[str]:
    """Return what the site may promise, in words."""
    promise, observed = whole["promise"], whole["seen"]
    asked = f"at most {promise['tolerated_error']:.3g} wrong among accepted, with confidence {promise['confidence']:g}"
    needed, own = observed["needed_without_error"], whole["pictures"]["unfamiliar"]
    familiar = (
        f"Of its own cells {own['count']} ({own['value']:.1%}) are unfamiliar to a reference made of "
        f"{whole['pictures']['compared_with']}."
    )
    taken = observed["by_threshold"]
    if taken["accepted"] == 0 and promise["independent"] == "slides":
        why = (
            f"the {promise['n']} scored cells are of {promise['slides']} slide(s), whose cells are right or wrong "
            f"together (correlation up to {promise['correlation_within_slides']:.2f}); {needed} independent cells "
            "without an error are the least, so take more slides, with fewer cells of each"
        )
        return [f"Nothing can be promised ({asked}): {why}. Every cell will go to review.", familiar]
    if taken["accepted"] == 0:
        few = promise["n"] < needed
        why = (
            f"{promise['n']} scored cells are too few to promise anything: {needed} accepted ones without an error "
            "are the least"
            if few
            else f"too many errors among the surest {needed} or more of {promise['n']} cells; the least that would do "
            f"is {needed} accepted ones without an error"
        )
        return [f"Nothing can be promised ({asked}): {why}. Every cell will go to review.", familiar]
    left, band = observed["with_every_reason"], whole["expected_referral"]
    most = promise.get("most_accepted", 1.0)
    strict = [] if most == 1.0 else [f"At most {most:.0%} of these cells were to be accepted, however few are wrong."]
    return [
        f"Promised: {asked}, for {_held_for(promise)}; others go to review.",
        *strict,
        f"The threshold accepts {taken['share']:.1%} of them ({taken['accepted']}, {taken['wrong']} wrong).",
        f"With the other reasons for review {left['share']:.1%} are accepted ({left['accepted']}, "
        f"{left['wrong']} wrong).",
        familiar,
        f"Expect {band['value']:.1%} under review; below {band['low']:.0%} or above {band['high']:.0%} of "
        f"{WINDOW_CELLS} or more cells of this mix of classes something has changed.",
    ]


def _held_for(promise: Mapping[str, Any]) -> str:
    """Return in words which cells a guarantee holds for."""
    alike = f"cells whose pictures look like these {promise['n']}"
    if promise["independent"] == "slides":
        return f"{alike}, on new slides too (calibrated on {promise['slides']})"
    return f"{alike}, taken as independent (cells of one slide are not: give --groups with slides)"
