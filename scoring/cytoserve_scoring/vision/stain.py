"""Bring the nuclear dye of a crop to one hue, so that another laboratory's blue is not another kind of cell.

Stain is additive in optical density, ``OD = -log(I / white)`` (Beer-Lambert). A Romanowsky stain has two dyes: azure B
(nuclei) and eosin (red cells, granules). The azure of a crop is read off its densest pixels; one linear map of optical
density then takes that direction to :data:`AZURE` and leaves eosin and the empty background where they are. Strength
is not touched: how dense a nucleus is tells classes apart.

Training makes the same change to its augmented crops (``cytoserve_training.augment.normalise_stain``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from cytoserve_contract.limits import CROP_SIZE
from numpy.typing import NDArray

from cytoserve_scoring.constants import WHITE_LEVEL

AZURE: Final = (1.24, 2.18, 0.44)
"""Mean optical density (R, G, B) of nuclei in ``pbc/train``: thiazine dyes (azure B)."""
EOSIN: Final = (0.19, 0.27, 0.16)
"""Mean optical density (R, G, B) of red cells in ``pbc/train``."""

NUCLEAR_RADIUS: Final = 26.0 / 96.0
"""Nuclear pixels are searched within this part of the crop's side about its centre (6.5 um)."""
NUCLEAR_SHARE: Final = 0.07
"""The densest share of these pixels is taken as nucleus: small enough for a platelet."""
DENSITY_RANGE: Final = (0.6, 1.2)
"""Summed optical density below which nothing is nuclear, and from which all of the change is made."""
MOST_CHANGE: Final = 0.25
"""Longest change of the unit vector; more is not another laboratory's blue, and is kept."""
MOST_TOWARDS_EOSIN: Final = 0.12
"""Longest change towards eosin: beyond it, the two dyes cannot be separated and noise is amplified."""


@lru_cache
def nuclear_disc(size: int = CROP_SIZE) -> NDArray[np.bool_]:
    """Return the (size, size) bool mask of the pixels among which nuclear ones are searched."""
    offset = np.arange(size) - (size - 1) / 2
    inside: NDArray[np.bool_] = offset[:, None] ** 2 + offset[None, :] ** 2 < (NUCLEAR_RADIUS * size) ** 2
    inside.flags.writeable = False
    return inside


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.maximum(np.linalg.norm(vector), 1e-9)
    return unit


def _frame(azure: NDArray[np.float64], eosin: NDArray[np.float64]) -> NDArray[np.float64]:
    (a, b, c), (u, v, w) = azure, eosin
    rest = _unit(np.array([b * w - c * v, c * u - a * w, a * v - b * u]))  # as np.cross, which takes ten times as long
    return np.stack([azure, eosin, rest], axis=1)


def stain_map(nucleus: NDArray[Any]) -> NDArray[np.float32]:
    """Return the (3, 3) float32 map of optical density that brings ``nucleus`` to the hue of :data:`AZURE`.

    Parameters
    ----------
    nucleus : (3,) ndarray
        Mean optical density (R, G, B) of the crop's densest pixels.

    Notes
    -----
    ``M = S S'^-1`` where the columns of ``S`` are the reference azure, eosin and their normal, and those of ``S'`` the
    same with the azure found. The change is bounded (:data:`MOST_CHANGE`, :data:`MOST_TOWARDS_EOSIN`) and fades out
    where nothing is dense enough to be nuclear, so that an empty or a pale crop is left alone.
    """
    azure, eosin = _unit(np.asarray(AZURE, np.float64)), _unit(np.asarray(EOSIN, np.float64))
    found = np.asarray(nucleus, np.float64)
    low, high = DENSITY_RANGE
    weight = float(np.clip((found.sum() - low) / (high - low), 0.0, 1.0))
    change = _unit(found) - azure
    towards = _unit(eosin - azure)
    along = float(change @ towards)
    change = change - max(0.0, along - MOST_TOWARDS_EOSIN) * towards
    change = change * min(1.0, MOST_CHANGE / max(float(np.linalg.norm(change)), 1e-9)) * weight
    there = _frame(_unit(azure + change), eosin)
    result: NDArray[np.float32] = (_frame(azure, eosin) @ np.linalg.inv(there)).astype(np.float32)
    return result


def normalise_stain(crop: NDArray[Any]) -> NDArray[np.float32]:
    """Return a white-balanced crop with the hue of its nuclear dye brought to the reference.

    Parameters
    ----------
    crop : (S, S, 3) ndarray of float
        RGB in 0..255, background near :data:`.constants.WHITE_LEVEL`.

    Returns
    -------
    (S, S, 3) float32 ndarray in 0..255.
    """
    density = -np.log(np.clip(crop, 1.0, 255.0).astype(np.float32) / np.float32(WHITE_LEVEL))
    inside = density[nuclear_disc(crop.shape[0])]
    count = int(NUCLEAR_SHARE * len(inside))
    total = inside.sum(axis=1)
    nucleus = inside[np.argpartition(total, -count)[-count:]].mean(axis=0)
    changed = density @ stain_map(nucleus).T
    result: NDArray[np.float32] = np.clip(np.float32(WHITE_LEVEL) * np.exp(-changed), 0.0, 255.0)
    return result
