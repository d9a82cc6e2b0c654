"""Test-time augmentation of near ties: the same cell, in the other quarter turns.

More noise samples do not resolve a near tie (112 more on those of ``pbc/val`` changed nothing): what is left is the
picture's orientation, to which the denoiser is slightly sensitive though a cell's class is not. The two tied classes
are therefore evaluated in the other three quarter turns as well.

The turn is made on the latent. A patch-wise linear autoencoder turns its grid and mixes the channels of each patch by
one affine map, fitted with the autoencoder (``PatchPCAAutoencoder.quarter_turn``); a model without such a map has no
augmentation.
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
class TieAugmentation:
    """When a near tie is evaluated in the other quarter turns, and how its latent is turned."""

    statistic: float
    """A paired t statistic between the best two classes below this is a near tie."""
    least_budget: int
    """Requests of fewer noise samples have no augmentation: a statistic of a few pairs says little."""
    matrix: Floats
    offset: Floats
    """(c, c) and (c,) float32: a quarter turn maps the channels by ``z -> matrix z + offset`` and turns the grid."""

    def applies(self, statistic: float, budget: int) -> bool:
        """Return whether a cell whose best two classes have this paired statistic after ``budget`` samples is tied."""
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
    def from_json(cls, data: dict[str, Any]) -> TieAugmentation:
        """Read it back.

        Raises
        ------
        KeyError, ValueError
            Keys are missing or numbers are none.
        """
        matrix, offset = np.asarray(data["matrix"], np.float32), np.asarray(data["offset"], np.float32)
        if matrix.shape != (len(offset), len(offset)):
            raise ValueError("matrix and offset of the quarter turn differ in size")
        return cls(float(data["statistic"]), int(data["least_budget"]), matrix, offset)


@dataclass(frozen=True)
class AugmentedPair:
    """Two tied classes of a cell in every orientation."""

    pair: tuple[int, int]
    """The tied classes, the better one first."""
    difference: NDArray[np.float64]
    """(1 + TURNS, Q) float64. Errors of the second minus those of the first, the cell as it came in front, over the Q
    noise samples that both classes saw: all of the budget, or fewer where a class was dropped early."""


def revised(scores: Floats, augmented: AugmentedPair, usual_spread: float | None = None) -> tuple[Floats, int, float]:
    """Return scores, winner and paired statistic of one cell after augmentation.

    Parameters
    ----------
    scores : (C,) ndarray of float32
        Before augmentation; the best class is ``augmented.pair[0]``.
    usual_spread : float, optional
        See :func:`.scores.paired_t`.

    Notes
    -----
    The statistic is that of the Q means over the turns: a noise that favours a class does so in other turns too
    (correlation in docs/evidence.md), so a noise sample in four turns is not four samples.
    The winner keeps the level of the best score, the other stands behind it by the mean difference, and the classes
    that did not tie stay as far behind the winner as they were.
    """
    best, second = augmented.pair
    mean = float(augmented.difference.mean())
    out = scores.copy()
    level = scores[best]
    winner, other = (best, second) if mean >= 0 else (second, best)
    out[winner], out[other] = level, level + abs(mean)
    return out, winner, paired_t(augmented.difference.mean(axis=0), usual_spread)
