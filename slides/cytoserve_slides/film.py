"""The fields of a slide for a client to send, read one after another, and the answers put into the slide again."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from cytoserve_client.images import SYNTHETIC_KEY, EncodedImage
from cytoserve_client.results import Cell, Failure, FieldAnalysis, SlideRegion
from cytoserve_files import path_of
from cytoserve_files.selection import ENDED, ENOUGH_CELLS, INTERRUPTED, NOT_MONOLAYER, Skipped
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from cytoserve_slides.errors import RegionUnreadable
from cytoserve_slides.monolayer import background_of, layer_of
from cytoserve_slides.slide import Slide
from cytoserve_slides.tiles import USUAL_SCALE, Tile, spread, tiles_of

Pixels = NDArray[np.uint8]

UNREADABLE: Final = "unreadable"
"""Code of a region that could not be read."""

EMPTY: Final = 0.99
"""Share of the background's light above which a region of the overview is empty glass."""


@dataclass
class FilmTally:
    """What became of a slide's regions so far.

    Attributes
    ----------
    regions : int
        All of them.
    empty : int
        Glass, as the overview shows it.
    not_single : int
        Read, and no monolayer.
    read : int
        Given to be sent.
    unreadable : list of Failure
    """

    regions: int
    empty: int = 0
    not_single: int = 0
    read: int = 0
    unreadable: list[Failure] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Regions that nobody has looked at."""
        return self.regions - self.empty - self.not_single - self.read - len(self.unreadable)

    def skipped(self, name: str, interrupted: bool = False, unanswered: int = 0) -> list[Skipped]:
        """Return what a report says about the regions without an answer that are no failures.

        ``unanswered`` is how many of those that were read to be sent have no answer, because nobody waited for it.
        """
        out = []
        if self.not_single:
            message = f"{self.not_single} of {self.regions} regions hold no single layer of cells; they were not sent"
            out.append(Skipped(name, NOT_MONOLAYER, message))
        reason = INTERRUPTED if interrupted else ENOUGH_CELLS
        if self.left:
            message = f"{self.left} of {self.regions} regions were not looked at: {ENDED[reason]}"
            out.append(Skipped(name, reason, message))
        if unanswered:
            message = f"{unanswered} of {self.regions} regions were sent and not waited for: {ENDED[reason]}"
            out.append(Skipped(name, reason, message))
        return out


class Film:
    """A slide as a sequence of fields.

    Parameters
    ----------
    slide : Slide
    um_per_pixel : float, optional
        Of the slide at full resolution, where the file does not tell it or is wrong.

    Attributes
    ----------
    um_per_pixel : float or None
        What the server is told; None: it measures each field's red cells.
    tally : FilmTally
    """

    def __init__(self, slide: Slide, um_per_pixel: float | None = None) -> None:
        self.slide = slide
        self.um_per_pixel = um_per_pixel if um_per_pixel is not None else slide.um_per_pixel
        self._scale = self.um_per_pixel or USUAL_SCALE
        self._tiles = tiles_of(slide.origin, slide.size, self._scale)
        self._sent: dict[str, Tile] = {}
        self.tally = FilmTally(len(self._tiles))

    def fields(self) -> Iterator[EncodedImage]:
        """Yield the regions that hold a monolayer, spread over the film, as lossless images; each is read when its turn
        comes. A region that cannot be read is noted in `tally`, and the next one is tried."""
        candidates = [tile for tile, empty in zip(self._tiles, self._empty, strict=True) if not empty]
        self.tally.empty = len(self._tiles) - len(candidates)
        for tile in spread(candidates):
            name = self._name(tile)
            try:
                pixels = self._pixels(tile)
            except RegionUnreadable as error:
                self.tally.unreadable.append(Failure(source=name, error=UNREADABLE, message=str(error)))
                continue
            if not layer_of(pixels, self._scale, self._background).single:
                self.tally.not_single += 1
                continue
            self.tally.read += 1
            self._sent[name] = tile
            yield EncodedImage(name, encoded(pixels, self.slide.synthetic), self.slide.synthetic)

    def placed(self, answer: FieldAnalysis) -> FieldAnalysis:
        """Return the answer to one of `fields` with its place in the slide, and without the cells that count elsewhere.

        A field of another slide comes back as it is.
        """
        tile = self._sent.get(answer.source)
        if tile is None or answer.region is not None:
            return answer
        left, upper, right, lower = tile.core
        region = SlideRegion(slide=self.slide.name, x=tile.x, y=tile.y, core=(left, upper, right, lower))
        cells = tuple(cell for cell in answer.cells if _counts(cell, tile.core))
        return answer.model_copy(update={"region": region, "cells": cells})

    def picture(self, answer: FieldAnalysis) -> bytes | None:
        """Return the image of one of `fields` again; None for a field of another slide.

        Raises
        ------
        OSError
            It cannot be read any more.
        """
        tile = self._sent.get(answer.source)
        if tile is None:
            return None
        try:
            return encoded(self._pixels(tile), self.slide.synthetic)
        except RegionUnreadable as error:
            raise OSError(str(error)) from error

    def skipped(self, interrupted: bool = False, answered: Collection[str] | None = None) -> list[Skipped]:
        """Return what a report says about the regions without an answer that are no failures.

        ``answered`` are the sources of fields and failures; None: all that was read to be sent has its answer.
        """
        unanswered = 0 if answered is None else len(self._sent.keys() - set(answered))
        return self.tally.skipped(self.slide.name, interrupted, unanswered)

    @cached_property
    def _seen(self) -> tuple[Pixels, float] | None:
        return self.slide.overview()

    @cached_property
    def _background(self) -> float | None:
        return None if self._seen is None else background_of(self._seen[0])

    @cached_property
    def _empty(self) -> list[bool]:
        """For each tile, whether the overview shows glass there; where there is no overview all are looked at."""
        if self._seen is None or self._background is None:
            return [False] * len(self._tiles)
        pixels, downsample = self._seen
        out = []
        for tile in self._tiles:
            x, y = (tile.x - self.slide.origin[0]) / downsample, (tile.y - self.slide.origin[1]) / downsample
            part = pixels[int(y) : int(y + tile.height / downsample) + 1, int(x) : int(x + tile.width / downsample) + 1]
            out.append(bool(part.size) and float(part[..., 1].mean()) > EMPTY * self._background)
        return out

    def _pixels(self, tile: Tile) -> Pixels:
        return self.slide.region(tile.x, tile.y, tile.width, tile.height)

    def _name(self, tile: Tile) -> str:
        return f"{self.slide.name}#x={tile.x},y={tile.y}"


def region_picture(answer: FieldAnalysis) -> bytes:
    """Return the image of a field of a stored analysis, as it was sent: the file that its region names is opened again.

    Raises
    ------
    SlideError
        The slide, or the region, cannot be read.
    ValueError
        The field is no region of a slide.
    """
    region = answer.region
    if region is None:
        raise ValueError(f"{answer.source} is no region of a slide")
    with Slide(path_of(region.slide)) as slide:
        return encoded(slide.region(region.x, region.y, answer.width, answer.height), slide.synthetic)


def encoded(pixels: Pixels, synthetic: bool) -> bytes:
    """Return (H, W, 3) uint8 RGB as a PNG file, with the mark of a generated picture where it is one."""
    marks = PngImagePlugin.PngInfo()
    if synthetic:
        marks.add_text(SYNTHETIC_KEY, "true")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1, pnginfo=marks)
    return buffer.getvalue()


def _counts(cell: Cell, core: tuple[int, int, int, int]) -> bool:
    """Return whether the centre of a cell is in the core: half-open, so that of two cores that meet one has it."""
    if cell.box is None:
        return True
    x, y = (cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2
    return core[0] <= x < core[2] and core[1] <= y < core[3]
