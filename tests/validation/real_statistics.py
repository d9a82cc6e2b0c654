"""Image statistics of real cells for the tests of this folder, each set measured once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from cytoserve_scoring.vision.imaging import decode_picture

from benchmarks.familiarity import measured

SUFFIXES = (".webp", ".jpg")


@lru_cache
def statistics_of(folder: Path, um_per_pixel: float | None, most: int | None = None) -> tuple[np.ndarray, list[Path]]:
    """Return the (N, 24) statistics and the files of a set; with ``most``, of so many drawn at random.

    The crop is measured at the scale given, without looking for red cells, which takes far longer.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    rows = range(len(files)) if most is None else np.random.default_rng(0).permutation(len(files))[:most]
    chosen = [files[i] for i in rows]
    found = [measured(decode_picture(file.read_bytes()).pixels, um_per_pixel) for file in chosen]
    return np.stack(found).astype(np.float64), chosen
