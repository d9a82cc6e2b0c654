"""A reference of familiar pictures for tests of what comes after it, and statistics that it knows."""

from __future__ import annotations

import numpy as np
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_scoring.classifier.familiarity import FamiliarPictures

_SEEN = np.random.default_rng(7).normal(size=(200, len(IMAGE_STATISTIC_NAMES)))
FAMILIAR = FamiliarPictures.fit(_SEEN, ["any"] * len(_SEEN))


def ordinary(cells: int) -> np.ndarray:
    """Return the (M, S) statistics of cells in the middle of what is familiar."""
    return np.zeros((cells, len(IMAGE_STATISTIC_NAMES)), np.float32)
