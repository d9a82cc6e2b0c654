"""The pictures of a page: each field at a size to zoom into, a thumbnail of it, and each cell at a glance size.

All are WebP in ``data:`` addresses. What a page may weigh is shared out: more cells or fields, smaller pictures.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from cytoserve_client.results import Box, FieldAnalysis
from cytoserve_files import path_of, read_bytes, writable_text
from PIL import Image

from cytoserve_reports.displayed import displayed

ReadField = Callable[[FieldAnalysis], bytes]
"""Returns the file of a field; any `OSError` means that the page goes without its picture."""

FIELDS_BYTES: Final = 4_000_000
"""Bytes that the pictures of all fields take together, before base64 adds a third."""

CELLS_BYTES: Final = 3_500_000
"""The same for the pictures of all cells; 500 cells get 7 kB each."""

MOST_FIELD_BYTES: Final = 400_000
MOST_CELL_BYTES: Final = 16_000
FIELD_SIDES: Final = (1600, 1200, 900, 640, 480, 320, 200)
CELL_SIDES: Final = (224, 176, 128, 96, 64)
"""Longest sides in pixels that are tried, the largest first."""

THUMBNAIL_SIDE: Final = 120
QUALITY: Final = 78

GROWTH: Final = 1.5
"""Exponent by which bytes at least grow with the side."""

CONTEXT: Final = 1.7
"""Side of a cell's picture over the longer side of its box: the neighbours show its size."""

LEAST_CONTEXT_PX: Final = 24


@dataclass(frozen=True)
class FieldPicture:
    """What a page shows of one field."""

    sha256: str | None
    """Hash of the field's file; None where it could not be read."""
    whole: str = ""
    """``data:`` address of the field; empty where there is no picture."""
    thumbnail: str = ""
    cells: dict[int, str] = field(default_factory=dict)
    """``data:`` address of each cell by its index in the field."""
    problem: str = ""
    """Why there is no picture, in words."""


def file_of(analysed: FieldAnalysis) -> bytes:
    """Return the file that a field was read from."""
    return read_bytes(path_of(analysed.source))


def field_picture(analysed: FieldAnalysis, cells: Iterable[int], share: PictureShare, read: ReadField) -> FieldPicture:
    """Return what the page shows of a field and of the cells with these indices.

    A file that cannot be read, or is not the one that was analysed (another size), leaves the page without its picture
    and says why.
    """
    digest = None
    try:
        data = read(analysed)
        digest = hashlib.sha256(data).hexdigest()
        image = displayed(data)
    except (OSError, ValueError) as error:
        return FieldPicture(digest, problem=writable_text(str(error)))
    if image.size != (analysed.width, analysed.height):
        found = f"{image.width} x {image.height} pixels instead of {analysed.width} x {analysed.height}"
        return FieldPicture(None, problem=f"it has {found}: it is not the one that was analysed")
    crops = {index: crop_box(box, image.size) for index in cells if (box := analysed.cells[index].box) is not None}
    return FieldPicture(
        digest,
        _encoded(image, FIELD_SIDES, share.field_bytes),
        _encoded(image, (THUMBNAIL_SIDE,), share.field_bytes),
        {index: _encoded(image.crop(box), CELL_SIDES, share.cell_bytes) for index, box in crops.items()},
    )


@dataclass(frozen=True)
class PictureShare:
    """Bytes that one picture may take."""

    field_bytes: int
    cell_bytes: int

    @classmethod
    def of(cls, fields: int, cells: int) -> PictureShare:
        """Share out what a page with that many fields and cells may weigh."""
        return cls(
            min(MOST_FIELD_BYTES, FIELDS_BYTES // max(1, fields)), min(MOST_CELL_BYTES, CELLS_BYTES // max(1, cells))
        )


def crop_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the square around a box, moved inside the picture where it would leave it.

    Parameters
    ----------
    box : Box
        Pixels of the picture.
    size : tuple of int
        Width and height of the picture.

    Returns
    -------
    tuple of int
        Left, upper, right, lower; smaller than a square only where the picture is.
    """
    wanted = max(LEAST_CONTEXT_PX, round(CONTEXT * max(box[2] - box[0], box[3] - box[1])))
    spans = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        side = min(wanted, length)
        start = min(max(0, round((low + high) / 2 - side / 2)), length - side)
        spans.append((start, start + side))
    (left, right), (upper, lower) = spans
    return left, upper, right, lower


def _encoded(image: Image.Image, sides: Iterable[int], most: int) -> str:
    """Return the largest of these sizes that is within the bytes allowed, else the smallest; nothing is enlarged."""
    longest = max(image.size)
    tried = sorted({min(side, longest) for side in sides}, reverse=True)
    data, side = b"", tried[0]
    for smaller in tried:
        # Bytes grow a little slower than the area: sizes that cannot be small enough are not tried.
        if data and smaller != tried[-1] and len(data) * (smaller / side) ** GROWTH > most:
            continue
        data, side = _webp(image, smaller), smaller
        if len(data) <= most:
            break
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"


def _webp(image: Image.Image, side: int) -> bytes:
    smaller = image.copy()
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
