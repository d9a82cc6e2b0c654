"""The sites whose cells train the denoiser, and how each is split.

A site is a microscope with its stain. ``bccd_cells`` is never trained on: it is where the committed model is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Final, Literal

from cytoserve_scoring.constants import PBC_UM_PER_PIXEL

from cytoserve_training.cells import CellSet, class_files, read_cells

Part = Literal["train", "val"]

CHULA_HELD_OUT: Final = frozenset(("B-42", "B-57", "E-12", "E-15", "E-8", "L-10", "L-9", "M-3B", "M-5Bb", "N-2B"))
"""Slides of ``chula_wbc`` that are not trained on: 132 of its 511 cells, every class among them. Slides are nearly of
one class each, so they were named by hand, before any training, such that each class has slides on either side."""


@dataclass(frozen=True)
class TrainingSite:
    """Cells of one site.

    ``share`` is its part of a training batch, relative to the other sites'; ``um_per_pixel`` the scale of its files;
    ``files`` finds the files of a part below the folder of all data; ``laboratory`` names the folders, below the same,
    of all that shows its microscope or may do so.
    """

    share: float
    um_per_pixel: float
    files: Callable[[Path, Part], list[Path]]
    laboratory: tuple[str, ...]


def _pbc(data: Path, part: Part) -> list[Path]:
    return class_files(data / "pbc" / part)


def _bcisc(data: Path, part: Part) -> list[Path]:
    return sorted((data / "bcisc" / "cells" / part).glob("*/*"))


def _chula(data: Path, part: Part) -> list[Path]:
    files = sorted((data / "chula_wbc" / "cells").glob("*/*"))
    return [file for file in files if (file.name.split("_")[0] in CHULA_HELD_OUT) == (part == "val")]


SITES: Final = {
    "pbc": TrainingSite(0.72, PBC_UM_PER_PIXEL, _pbc, ("pbc",)),
    "bcisc": TrainingSite(0.14, 0.134, _bcisc, ("bcisc",)),
    "chula_wbc": TrainingSite(0.14, 0.10, _chula, ("chula_wbc", "chula_rbc")),
}
"""By name. The shares of the small sites are a trial's: with them 523 cells were enough, and PBC lost little."""


def shows(site: str, folder: str) -> bool:
    """Return whether a folder below that of all data shows, or may show, the microscope of a site; no site: False."""
    return bool(site) and Path(folder).parts[0] in SITES[site].laboratory


def load_site(data: Path, name: str, part: Part, per_class: int | None = None) -> CellSet:
    """Read the cells of a site, of each class the first ``per_class``, all at the scale of PBC.

    Raises
    ------
    FileNotFoundError
        There are none.
    """
    site = SITES[name]
    by_class = groupby(site.files(data, part), key=lambda file: file.parent.name)
    files = [file for _, of_class in by_class for file in islice(of_class, per_class)]
    if not files:
        raise FileNotFoundError(f"{data} holds no cells of {name}; leave the site out, or give the folder of all data")
    return read_cells(files, site.um_per_pixel)
