"""Why a person should look at a cell: the reasons of this release, with a sentence for people and their urgency."""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """Reasons for review that this release knows."""

    urgency: int
    """Rank in a review list, 1 is the most urgent; a reason of another release ranks as `UNKNOWN_URGENCY`."""
    explanation: str
    """One sentence for people who do not know the method."""

    def __new__(cls, name: str, urgency: int, explanation: str) -> Reason:
        """Make a member whose value is its name on the wire."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.urgency, member.explanation = urgency, explanation
        return member

    ANOMALOUS = "anomalous", 1, "stranger than nearly all calibration cells"
    KIND_CONFLICT = "kind_conflict", 2, "found as a white cell, but classified as a platelet"
    NEAR_TIE = "near_tie", 3, "the best two classes differ by less than the measurement can tell"
    AMBIGUOUS = "ambiguous", 3, "a second class has a considerable probability too"
    LOW_CONFIDENCE = (
        "low_confidence",
        4,
        "its probability does not reach a threshold that was calibrated for acceptance",
    )
    OUT_OF_SCALE = (
        "out_of_scale",
        6,
        "its physical scale is unknown, or the scale given, the one in the file and the red cells in view disagree, "
        "so it may have been shown too large or too small",
    )
    UNFAMILIAR_IMAGE = (
        "unfamiliar_image",
        6,
        "its picture is unlike those that the service was calibrated with, so nothing is known about errors on it",
    )
    UNFAMILIAR_SAMPLE = (
        "unfamiliar_sample",
        6,
        "the pictures of its sample, taken together, are unlike those that the service was calibrated with, so no cell "
        "of the sample is accepted",
    )
    POOR_IMAGE = "poor_image", 6, "too dark, too bright, too pale or too blurred to be judged"
    TOUCHES_BORDER = (
        "touches_border",
        6,
        "cut off by the edge of the picture, the rim of the eyepiece or a drawn mark",
    )
    NOT_CALIBRATED = (
        "not_calibrated",
        5,
        "no threshold was calibrated for this budget, alpha and choice of classes, or for its class",
    )


UNKNOWN_URGENCY = 5
"""Urgency of a reason that this release does not know."""
