"""What may have gone wrong with an unfamiliar sample's pictures: channels swapped, colours inverted, YCbCr for RGB.

Each mistake makes pictures that no stained film has under any lamp: it is read off the medians of the image statistics
(optical densities, natural logarithms, against the picture's own background) over the sample's cells. Limits lie
between what the mistake gives and what home and external sites have as they are; `tests/client/test_client_mistakes.py`
measures both. A wrong scale is not named: cells of another site differ from home as much as cells of another scale do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Final

from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES

from cytoserve_client.results import ScoredCell

LEAST_CELLS: Final = 5
"""With fewer measured cells nothing is named."""

SWAPPED: Final = -0.25
"""Nuclei hold azure dyes, which absorb more red light than blue: by 0.3 or more at every site at hand. With red and
blue swapped the difference is negative."""
DARK_SURROUNDINGS: Final = 3.0
"""Sum over the channels. Plasma and red cells absorb little, below 1.5; inverted, they are the darkest part."""
BLACK: Final = 3.0
"""Blue density above which surroundings are no inverted film but black: an eyepiece's rim, a mask."""
PALE_NUCLEUS: Final = 0.2
"""Nuclei absorb most green light, 0.5 or more. Cb and Cr, taken for green and blue, are nearly the background's."""
LUMA_STEP: Final = 0.15
"""How much denser than that the nucleus still is in Y, taken for red; without it the picture is only faint."""


def likely_mistake(cells: Iterable[ScoredCell]) -> str | None:
    """Return the name of the mistake that the pictures look like (a key of `results.MISTAKES`), or None.

    Parameters
    ----------
    cells : iterable of ScoredCell
        Cells of one sample; those whose picture was not measured do not count.
    """
    rows = [cell.image_statistics for cell in cells if cell.image_statistics is not None]
    if len(rows) < LEAST_CELLS:
        return None
    usual = {name: median(row[i] for row in rows) for i, name in enumerate(IMAGE_STATISTIC_NAMES)}
    if _is_inverted(usual):
        return "inverted"
    if _is_ycbcr(usual):
        return "ycbcr"
    return "red_and_blue_swapped" if _is_swapped(usual) else None


def _is_inverted(usual: Mapping[str, float]) -> bool:
    around, inside = (
        sum(usual[f"{part}_{c}"] for c in ("red", "green", "blue")) for part in ("surroundings", "cytoplasm")
    )
    return around > max(DARK_SURROUNDINGS, 2 * inside) and usual["surroundings_blue"] < BLACK


def _is_ycbcr(usual: Mapping[str, float]) -> bool:
    pale = max(usual["nucleus_green"], usual["nucleus_blue"]) < PALE_NUCLEUS
    return pale and usual["nucleus_red"] - usual["nucleus_green"] > LUMA_STEP


def _is_swapped(usual: Mapping[str, float]) -> bool:
    return usual["nucleus_green"] > PALE_NUCLEUS and usual["nucleus_red"] - usual["nucleus_blue"] < SWAPPED
