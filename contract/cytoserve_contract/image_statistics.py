"""What is measured of a picture before its colours are normalised, and what each number says when it is unusual.

A cell is *familiar* when these numbers are those of the site's calibration cells
(:mod:`cytoserve_scoring.classifier.familiarity`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class ImageStatistic:
    """One number measured of every cell.

    Attributes
    ----------
    name : str
        Its name on the wire and in files.
    high, low : str
        What a person reads when it is above or below what the site's own cells have.
    """

    name: str
    high: str
    low: str


_COLOURS: Final = ("red", "green", "blue")


def _by_colour(name: str, high: str, low: str) -> tuple[ImageStatistic, ...]:
    return tuple(ImageStatistic(f"{name}_{c}", high.format(c), low.format(c)) for c in _COLOURS)


def _plain(name: str, high: str, low: str) -> ImageStatistic:
    return ImageStatistic(name, high, low)


IMAGE_STATISTICS: Final[tuple[ImageStatistic, ...]] = (
    *_by_colour("lamp", "the background holds more {} light", "the background holds less {} light"),
    *_by_colour("nucleus", "nuclei absorb more {} light", "nuclei absorb less {} light"),
    *_by_colour("cytoplasm", "cytoplasm absorbs more {} light", "cytoplasm absorbs less {} light"),
    *_by_colour(
        "surroundings", "what surrounds the cell absorbs more {} light", "what surrounds the cell absorbs less {} light"
    ),
    _plain("sharpness", "the picture is sharper", "the picture is less sharp"),
    _plain("contrast", "the contrast is higher", "the contrast is lower"),
    _plain("noise", "the picture is noisier", "the picture is smoother"),
    _plain("edges", "edges are steeper", "edges are softer"),
    _plain("colour_noise_blue", "blue is noisier", "blue is smoother"),
    _plain("colour_noise_red", "red is noisier", "red is smoother"),
    _plain("compression_blocks", "blocks of compression show more", "blocks of compression show less"),
    _plain("detail_coarse", "there is more coarse detail", "there is less coarse detail"),
    _plain("detail_medium", "there is more detail of middle size", "there is less detail of middle size"),
    _plain("detail_fine", "there is more fine detail", "there is less fine detail"),
    _plain("dark_part", "more of the picture is dark", "less of the picture is dark"),
    _plain("saturation", "colours are stronger", "colours are paler"),
)
"""In the order of the tensor ``IMAGE_STATISTICS``. Logarithms, optical densities or parts of 1: none has a unit."""

DOMAIN_COLUMNS: Final = {
    "distance": "distance to the calibration cells of the nearest class, 1 is usual",
    "p_value": "its conformal p-value among all calibration cells, which decides about the cell",
    "p_value_of_kind": "that among the calibration cells of that class, which samples are judged by",
    "cells_of_kind": "how many those are",
}
"""The columns of the tensor ``DOMAIN`` and what each is."""

IMAGE_STATISTIC_NAMES: Final = tuple(statistic.name for statistic in IMAGE_STATISTICS)


def cause_in_short(cause: str) -> str:
    """Return the words for a cause such as ``nucleus_red+`` (a statistic's name, ``+`` for high, ``-`` for low).

    >>> cause_in_short("nucleus_red+")
    'nuclei absorb more red light'
    >>> cause_in_short("from_the_future-")
    'from the future is lower'
    """
    name, high = cause[:-1], cause.endswith("+")
    for statistic in IMAGE_STATISTICS:
        if statistic.name == name:
            return statistic.high if high else statistic.low
    return f"{name.replace('_', ' ')} is {'higher' if high else 'lower'}"


def cause_in_words(cause: str) -> str:
    """Return the sentence for a cause.

    >>> cause_in_words("nucleus_red+")
    "nuclei absorb more red light than in this site's calibration"
    """
    return f"{cause_in_short(cause)} than in this site's calibration"
