"""What can be wrong with labelled cells and with the files made from them."""

from __future__ import annotations


class ValidationError(Exception):
    """Base of every error this package raises on purpose; the text says what to do."""


class BadLabelledFolder(ValidationError):
    """The path is no folder that holds one folder per class."""


class UnknownClass(BadLabelledFolder):
    """A folder is named like no class of the served model."""


class NoCells(BadLabelledFolder):
    """No image lies in any class folder."""


class RepeatedImage(BadLabelledFolder):
    """The same image is there twice: every risk guarantee counts cells as different ones."""


class BadGroups(ValidationError):
    """The table of groups does not fit the labelled folder."""


class UnboundModel(ValidationError):
    """The server does not declare the one hash of its weights that a calibration is bound to."""


class TooFewCells(ValidationError):
    """Fewer cells than a site's pictures can be learnt from."""


class NoReference(ValidationError):
    """The cells' pictures make no reference of familiar ones."""


class MixedPictures(ValidationError):
    """The cells are of two scanners or stains, and a calibration is for one."""


class NothingScored(ValidationError):
    """Not one of the cells got a label."""


class AlreadyThere(ValidationError):
    """The file to be written exists; calibrations and reports are never overwritten."""


class BadTarget(ValidationError):
    """The file to be written cannot be: no permission, a read-only file system, a file in place of a folder."""


class BadSetting(ValidationError):
    """A setting is outside its range."""
