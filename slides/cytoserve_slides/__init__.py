"""Whole slides as fields of view: read, tiled, judged for their layer, and put together again."""

from cytoserve_slides.errors import RegionUnreadable, SlideError, SlideUnreadable
from cytoserve_slides.film import Film, FilmTally, region_picture
from cytoserve_slides.slide import Slide, is_slide

__all__ = [
    "Film",
    "FilmTally",
    "RegionUnreadable",
    "Slide",
    "SlideError",
    "SlideUnreadable",
    "is_slide",
    "region_picture",
]
