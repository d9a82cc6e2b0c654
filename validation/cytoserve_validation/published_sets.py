"""Published sets of cells that hold kinds the model has no class for: which folder is a class, which a stranger.

The sets are not passed on with this project: download them under their own terms. Folder names are those of the sets as
published. Each set comes from a microscope of its own, so calibrate on other cells of it first (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from cytoserve_files import open_regular
from cytoserve_files.selection import Skipped, sift

from cytoserve_validation.errors import BadLabelledFolder
from cytoserve_validation.labelled import LabelledCells, scan, some

LEFT_OUT: Final = "left_out"
"""Reason of files that are neither a class nor a stranger."""


@dataclass(frozen=True)
class PublishedSet:
    """How a set's folders are to be read.

    Attributes
    ----------
    title : str
    source : str
        Paper and place to download it from.
    classes : mapping of str to str
        From a folder to the model's class.
    strangers : mapping of str to str
        From a folder to a kind that the model never learned.
    left_out : mapping of str to str
        From a folder to why it is neither.
    """

    title: str
    source: str
    classes: Mapping[str, str]
    strangers: Mapping[str, str]
    left_out: Mapping[str, str]

    @property
    def folders(self) -> frozenset[str]:
        """All folder names of the set."""
        return frozenset({*self.classes, *self.strangers, *self.left_out})


PUBLISHED: Final[dict[str, PublishedSet]] = {
    "aml_lmu": PublishedSet(
        title="AML-Cytomorphology_LMU",
        source="Matek et al. 2019, Nature Machine Intelligence 1, 538; doi.org/10.7937/tcia.2019.36f5o9ld",
        classes={
            "BAS": "basophil",
            "EBO": "erythroblast",
            "EOS": "eosinophil",
            "LYT": "lymphocyte",
            "MON": "monocyte",
            "NGB": "neutrophil",
            "NGS": "neutrophil",
            "MYB": "immature_granulocyte",
            "MMZ": "immature_granulocyte",
            "PMO": "immature_granulocyte",
        },
        strangers={
            "MYO": "myeloblast",
            "MOB": "monoblast",
            "PMB": "bilobed promyelocyte",
            "LYA": "atypical lymphocyte",
            "KSC": "smudge cell",
        },
        left_out={},
    ),
    "mll23": PublishedSet(
        title="MLL23",
        source="Shetab Boushehri et al. 2025, Scientific Data 12, 1773; zenodo.org/records/14277609",
        classes={
            "basophil": "basophil",
            "eosinophil": "eosinophil",
            "normoblast": "erythroblast",
            "lymphocyte": "lymphocyte",
            "monocyte": "monocyte",
            "neutrophil_band": "neutrophil",
            "neutrophil_segmented": "neutrophil",
            "myelocyte": "immature_granulocyte",
            "metamyelocyte": "immature_granulocyte",
            "promyelocyte": "immature_granulocyte",
        },
        strangers={
            "myeloblast": "myeloblast",
            "promyelocyte_atypical": "atypical promyelocyte",
            "hairy_cell": "hairy cell",
            "plasma_cell": "plasma cell",
            "lymphocyte_neoplastic": "neoplastic lymphocyte",
            "lymphocyte_reactive": "reactive lymphocyte",
            "smudge_cell": "smudge cell",
        },
        left_out={"lymphocyte_large_granular": "large granular lymphocytes are ordinary cells that PBC does not name"},
    ),
}
"""By the name that ``cytoserve validate --published`` takes."""


@dataclass(frozen=True)
class Divided:
    """A published set, divided.

    Attributes
    ----------
    cells : LabelledCells
        Those of the model's classes; what was left out is among ``ignored``.
    strangers : mapping of Path to str
        The others' files with their kinds, each content once.
    """

    cells: LabelledCells
    strangers: Mapping[Path, str]


def divided(folder: Path, name: str) -> Divided:
    """Return the labelled cells and the strangers of a published set on disk.

    Raises
    ------
    BadLabelledFolder
        No such set is known, or a folder has a name that is not the set's: nothing is guessed or passed over.
    NoCells
    """
    if name not in PUBLISHED:
        raise BadLabelledFolder(f"no published set {name!r} is known; choose from {', '.join(sorted(PUBLISHED))}")
    published, found = PUBLISHED[name], scan(folder)
    unknown = sorted(set(found.truth) - published.folders)
    if unknown:
        raise BadLabelledFolder(
            f"{some(unknown)} is no folder of {published.title}; give the folder that holds "
            f"{', '.join(sorted(published.folders))}, as published ({published.source})"
        )
    pairs = list(zip(found.files, found.truth, strict=True))
    own = [(file, published.classes[home]) for file, home in pairs if home in published.classes]
    out = tuple(
        Skipped(source=found.name(file), reason=LEFT_OUT, message=published.left_out[home])
        for file, home in pairs
        if home in published.left_out
    )
    strange = [(file, published.strangers[home]) for file, home in pairs if home in published.strangers]
    kept, repeated = sift([(found.name(file), partial(open_regular, file)) for file, _ in strange])
    cells = replace(
        found,
        files=tuple(file for file, _ in own),
        truth=tuple(label for _, label in own),
        ignored=(*found.ignored, *out, *repeated),
    )
    return Divided(cells, dict(strange[i] for i in kept))
