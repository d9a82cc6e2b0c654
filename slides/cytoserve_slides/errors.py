"""What can be wrong with a slide. Each message names the file and says what to do."""

from __future__ import annotations


class SlideError(Exception):
    """Base of all errors of this package."""


class SlideUnreadable(SlideError):
    """The file is no slide that OpenSlide reads, is damaged, or has no image at full resolution."""


class RegionUnreadable(SlideError):
    """One region cannot be read, such as a tile of a file that was cut short; others may be."""
