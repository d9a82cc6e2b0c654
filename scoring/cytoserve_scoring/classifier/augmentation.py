"""A near tie is looked at again: the same cell, turned.

What is left of an error after some probes is not noise of the probes (112 more on the near ties of ``pbc/val`` changed
nothing) but of the one picture: a denoiser is not quite indifferent to how a slide lies under the lens, though a cell's
class is. The two classes that tie are asked once more in the other three quarter turns. Only near ties pay for it.

The turn is made on the latent. A patch-wise linear autoencoder turns its grid and mixes the channels of each patch by
one affine map, fitted with the autoencoder (``PatchPCAAutoencoder.quarter_turn``); a model without such a map has no
second look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoserve_scoring.classifier.scores import paired_t

Floats = NDArray[np.float32]

TURNS: Final = 3
"""Quarter turns besides the picture as it came."""


@dataclass(frozen=True)
class SecondLook:
    """When a cell is looked at again, and how its latent is turned.

    Attributes
    ----------
    statistic : float
        A paired t statistic between the best two classes below this asks for the second look.
    least_budget : int
        Requests of fewer probes per class have none: a statistic of a few pairs says little.
    matrix : (c, c) ndarray of float32
    offset : (c,) ndarray of float32
        What a quarter turn does to the channels: ``z -> matrix z + offset``, besides turning the grid.
    """

    statistic: float
    least_budget: int
    matrix: Floats
    offset: Floats

    def asks(self, statistic: float, budget: int) -> bool:
        """Tell whether a cell whose best two classes have this paired statistic after ``budget`` probes is tied."""
        return budget >= self.least_budget and statistic < self.statistic

    def turned(self, latents: Floats) -> Floats:
        """Return the (TURNS, M, c, h, w) latents of (M, c, h, w) ones turned by one, two and three quarters."""
        out, last = [], latents
        for _ in range(TURNS):
            grid = np.rot90(last, 1, (2, 3))
            mixed = np.einsum("ij,mjhw->mihw", self.matrix, grid) + self.offset[:, None, None]
            last = np.ascontiguousarray(mixed, np.float32)
            out.append(last)
        return np.stack(out)

    def to_json(self) -> dict[str, Any]:
        """Return what ``scoring.json`` holds."""
        return {
            "statistic": self.statistic,
            "least_budget": self.least_budget,
            "matrix": [[float(f"{v:.7g}") for v in row] for row in self.matrix],
            "offset": [float(f"{v:.7g}") for v in self.offset],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SecondLook:
        """Read it back.

        Raises
        ------
        KeyError, ValueError
            Keys are missing or numbers are none.
        """
        matrix, offset = np.asarray(data["matrix"], np.float32), np.asarray(data["offset"], np.float32)
        if matrix.shape != (len(offset), len(offset)):
            raise ValueError("matrix and offset of the second look differ in size")
        return cls(float(data["statistic"]), int(data["least_budget"]), matrix, offset)


@dataclass(frozen=True)
class Again:
    """What the second look at a cell gave.

    Attributes
    ----------
    pair : (int, int)
        The tied classes, the better one first.
    difference : (1 + TURNS, Q) ndarray of float64
        Errors of the second minus those of the first, the first look in front, over the Q probes that the first look
        asked both of: all of the budget, or fewer where a class left early.
    """

    pair: tuple[int, int]
    difference: NDArray[np.float64]


def revised(scores: Floats, again: Again) -> tuple[Floats, int, float]:
    """Return scores, winner and paired statistic of one cell after the second look.

    Parameters
    ----------
    scores : (C,) ndarray of float32
        After the first look; the best class is ``again.pair[0]``.
    again : Again

    Notes
    -----
    The statistic is that of the Q means over the turns: a noise that favours a class does so in other turns too
    (correlation in docs/evidence.md), so a probe asked four times is not four probes.
    The winner keeps the level of the best score, the other stands behind it by the mean difference, and the classes
    that did not tie stay as far behind the winner as they were.
    """
    best, second = again.pair
    mean = float(again.difference.mean())
    out = scores.copy()
    level = scores[best]
    winner, other = (best, second) if mean >= 0 else (second, best)
    out[winner], out[other] = level, level + abs(mean)
    return out, winner, paired_t(again.difference.mean(axis=0))
