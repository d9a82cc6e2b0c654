"""Whether the caller's names fit a format: checked before the work, refused rather than cut or changed.

A shortened number may be another patient's. So a name that a format cannot carry whole is an error that says which
format, and how long it may be.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from cytoserve_files import shown

from cytoserve_reports.formats.errors import IdentifierRefused

LINE_BREAKS: Final = "\t\n\r"
"""Control characters that every text format carries, escaped by its own rules."""

LONGEST: Final = {
    "fhir": (1_000_000, 1_000_000),
    "hl7": (199, 199),
    "lis2": (10_000, 10_000),
    "csv": (32_767, 32_767),
    "geojson": (1_000_000, 1_000_000),
    "dicom-sr": (10_000, 64),
}
"""Most characters of a sample's name and of a patient's number, by format: FHIR's string, HL7's ST (component EI.1),
the cell of a spreadsheet, DICOM's unlimited text and its LO. LIS2 names no limit; its readers do not take megabytes."""


def check_identifiers(form: str, sample: str | None, patient: str | None) -> None:
    r"""Refuse a sample's name or a patient's number that a format cannot carry whole.

    Parameters
    ----------
    form : str
        A key of `LONGEST`.
    sample, patient : str, optional
        As the caller gave them.

    Raises
    ------
    IdentifierRefused
        Too long, or with a control character other than a tab or a line break; for DICOM also with a space at an
        end, and a patient's number with a backslash or a line break, which separate values there.
    """
    for option, value, most in zip(("--sample", "--patient-id"), (sample, patient), LONGEST[form], strict=True):
        if value is None:
            continue
        if len(value) > most:
            raise IdentifierRefused(
                f"--{form} carries at most {most} characters of {option}, which has {len(value)}: give a shorter one "
                f"(it is not cut, because what is left may be another's)"
            )
        if form == "dicom-sr" and value != value.strip(" "):
            raise IdentifierRefused(f"--{form} drops a space at an end of {option} {shown(value[:40])!r}: leave it out")
        allowed = LINE_BREAKS if (form, option) != ("dicom-sr", "--patient-id") else ""
        for character in value:
            control = unicodedata.category(character) == "Cc" and character not in allowed
            if control or (not allowed and character == "\\"):
                raise IdentifierRefused(
                    f"--{form} cannot carry the character U+{ord(character):04X} in {option} {shown(value[:40])!r}: "
                    f"leave it out"
                )
