"""Names, codes, units and colours of the classes, and the code systems: one table for every format.

The codes are methodless ones: LOINC's codes for automated counters name another method than a classifier of pictures.
A class whose code could not be confirmed is sent with its text alone, as are platelets: LOINC counts them per volume,
not per 100 white cells.

This material contains content from LOINC (http://loinc.org). LOINC is copyright (c) Regenstrief Institute, Inc. and
the Logical Observation Identifiers Names and Codes (LOINC) Committee and is available at no cost under the license at
http://loinc.org/license. LOINC is a registered United States trademark of Regenstrief Institute, Inc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cytoserve_reports.differential import OUTSIDE_DENOMINATOR

LOINC_SYSTEM: Final = "http://loinc.org"
UCUM_SYSTEM: Final = "http://unitsofmeasure.org"
LOCAL_SYSTEM: Final = "urn:x-cytoserve:codes"
"""FHIR's name of the codes that are ours: `MEASURES`, and classes without a LOINC code."""

LOCAL_TABLE: Final = "99CYTO"
"""The same in HL7 v2, LIS2 and DICOM, where a local table begins with 99."""

PERCENT: Final = "%"
PER_100_WHITE: Final = "/100{WBCs}"
"""Units, as UCUM writes them."""

PANEL: Final = ("69738-3", "Differential panel, method unspecified - Blood")
"""LOINC code and name of the whole differential."""

MEASURES: Final = {
    "cells": "Cells of this class",
    "referred": "Cells of this class referred for review",
    "white_cells": "White cells counted",
    "interval_95": "95 % interval of the count",
}
"""What stands beside each percentage, under codes of ours."""


@dataclass(frozen=True)
class ClassTerm:
    """What a class is called in messages."""

    name: str
    """The model's name of it."""
    text: str
    """Its name for people."""
    loinc: str | None
    """Methodless LOINC code of its share of the white cells; None where there is none."""
    loinc_name: str | None
    """LOINC's long common name of that code."""
    colour: tuple[int, int, int]
    """Red, green and blue, 0 to 255."""

    @property
    def unit(self) -> str:
        """The UCUM unit of its number."""
        return PER_100_WHITE if self.name in OUTSIDE_DENOMINATOR else PERCENT


_KNOWN: Final = {
    term.name: term
    for term in (
        ClassTerm("basophil", "Basophils", "30180-4", "Basophils/Leukocytes in Blood", (0, 114, 178)),
        ClassTerm("eosinophil", "Eosinophils", "26450-7", "Eosinophils/Leukocytes in Blood", (213, 94, 0)),
        ClassTerm(
            "erythroblast",
            "Nucleated red cells",
            "19048-8",
            "Nucleated erythrocytes/Leukocytes [Ratio] in Blood",
            (204, 121, 167),
        ),
        ClassTerm(
            "immature_granulocyte",
            "Immature granulocytes",
            "38518-7",
            "Immature granulocytes/Leukocytes in Blood",
            (240, 228, 66),
        ),
        ClassTerm("lymphocyte", "Lymphocytes", "26478-8", "Lymphocytes/Leukocytes in Blood", (86, 180, 233)),
        ClassTerm("monocyte", "Monocytes", "26485-3", "Monocytes/Leukocytes in Blood", (0, 158, 115)),
        ClassTerm("neutrophil", "Neutrophils", "26511-6", "Neutrophils/Leukocytes in Blood", (230, 159, 0)),
        ClassTerm("platelet", "Platelets", None, None, (153, 153, 153)),
    )
}
"""The colours of the white and red cells are those of Okabe and Ito, told apart with any colour vision."""

NO_CLASS: Final = ClassTerm("", "Not scored", None, None, (60, 60, 60))
"""A white-cell candidate without a label."""

RED_CELL: Final = ClassTerm("red_cell", "Red cell", None, None, (180, 60, 60))
"""A red cell, which is counted and not classified."""

CODED_CLASSES: Final = tuple(name for name, term in _KNOWN.items() if term.loinc)
"""The classes that have a LOINC code."""


def term_of(name: str) -> ClassTerm:
    """Return what a class of the model is called; a class that this table does not know has its name and no code."""
    return _KNOWN.get(name) or ClassTerm(name, name.replace("_", " "), None, None, (120, 120, 120))


def has_valid_check_digit(code: str) -> bool:
    """Return whether the last digit of a LOINC code is the one that its number asks for.

    The check digit is Luhn's (modulus 10), computed from the digits before the hyphen.

    Examples
    --------
    >>> has_valid_check_digit("26511-6"), has_valid_check_digit("26511-7")
    (True, False)
    """
    number, hyphen, digit = code.rpartition("-")
    if not (hyphen and number.isascii() and number.isdigit() and len(digit) == 1 and digit.isdigit()):
        return False
    total = 0
    for place, character in enumerate(reversed(number)):
        value = int(character) * (2 if place % 2 == 0 else 1)
        total += value // 10 + value % 10
    return (10 - total % 10) % 10 == int(digit)
