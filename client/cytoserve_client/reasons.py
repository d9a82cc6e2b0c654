"""Why a person should look at a cell: the reasons that this release knows, and what each says in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final


class Reason(str, Enum):
    """Reasons for review that this release knows; a cell may carry others."""

    ANOMALOUS = "anomalous"
    KIND_CONFLICT = "kind_conflict"
    NEAR_TIE = "near_tie"
    AMBIGUOUS = "ambiguous"
    LOW_CONFIDENCE = "low_confidence"
    OUT_OF_SCALE = "out_of_scale"
    POOR_IMAGE = "poor_image"
    TOUCHES_BORDER = "touches_border"
    NOT_CALIBRATED = "not_calibrated"


EXPLANATIONS: Final[dict[Reason, str]] = {
    Reason.ANOMALOUS: "stranger than nearly all reference cells of the class it was given",
    Reason.KIND_CONFLICT: "found as a white cell, but classified as a platelet",
    Reason.NEAR_TIE: "the best two classes differ by less than the measurement can tell",
    Reason.AMBIGUOUS: "a second class has a considerable probability too",
    Reason.LOW_CONFIDENCE: "its probability does not reach a threshold that was calibrated for acceptance",
    Reason.OUT_OF_SCALE: (
        "its physical scale is unknown, or the scale given, the one in the file and the red cells in view disagree, "
        "so it may have been shown too large or too small"
    ),
    Reason.POOR_IMAGE: "too dark, too bright, too pale or too blurred to be judged",
    Reason.TOUCHES_BORDER: "cut off by the edge of the picture, the rim of the eyepiece or a drawn mark",
    Reason.NOT_CALIBRATED: "no threshold was calibrated for this budget, alpha and choice of classes, or for its class",
}
"""One sentence each, for people who do not know the method."""

UNKNOWN: Final = "a reason that this release of the client does not know"


def in_words(reason: str) -> str:
    """Return a reason as short words, such as ``low confidence``."""
    return reason.replace("_", " ")


def explained(reasons: Iterable[str]) -> dict[str, str]:
    """Return the sentence for each reason that occurs: the known ones in their order, then the others by name.

    >>> explained(["near_tie", "from_the_future", "near_tie"])["from_the_future"] == UNKNOWN
    True
    """
    found = set(reasons)
    known = {reason.value: sentence for reason, sentence in EXPLANATIONS.items() if reason.value in found}
    return known | {name: UNKNOWN for name in sorted(found - known.keys())}
