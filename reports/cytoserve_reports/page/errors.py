"""What can be wrong with a page, an analysis read back, or a reader's verdicts.

PageError
├── UnknownLanguage     a language without a table of texts
├── NotAnAnalysis       the file is no analysis of one sample
└── VerdictsError
    ├── NotVerdicts         the file is no `cytoserve.verdicts/1` document
    ├── EditedVerdicts      its content is not what the page exported
    ├── OtherAnalysis       it belongs to another analysis
    ├── UnknownCell         it names a cell that the analysis does not show, or shows elsewhere
    ├── NotComparable       two files that make no pair of readings
    └── FieldNotFound       the picture that a verdict is bound to is not in the folder
"""

from __future__ import annotations


class PageError(Exception):
    """Base of every error that the review page raises on purpose; the text says what to do."""


class UnknownLanguage(PageError):
    """There is no table of texts in that language."""


class NotAnAnalysis(PageError):
    """The file is not what ``cytoserve analyze --json`` writes for one sample."""


class VerdictsError(PageError):
    """Base of what can be wrong with a file of verdicts."""


class NotVerdicts(VerdictsError):
    """The file is not what a review page exports."""


class EditedVerdicts(VerdictsError):
    """The file was changed after its export."""


class OtherAnalysis(VerdictsError):
    """The verdicts were given on another analysis."""


class UnknownCell(VerdictsError):
    """A verdict is about a cell that the analysis does not hold, or holds at another place."""


class NotComparable(VerdictsError):
    """Two files of verdicts do not make two readings of the same cells."""


class FieldNotFound(VerdictsError):
    """No picture of the folder is the one that the verdicts were given on."""
