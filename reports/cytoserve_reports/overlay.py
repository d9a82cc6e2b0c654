"""The annotated picture: whether it is familiar, boxes by kind, label and probability, reasons, legend, notice."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cytoserve_client.errors import InvalidImage
from cytoserve_client.images import SYNTHETIC_KEY
from cytoserve_client.results import Cell, FieldAnalysis, SampleFamiliarity
from cytoserve_contract.parameters import HOME_SITE
from cytoserve_files.pictures import OVERLAY_KEY
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from cytoserve_reports.familiar import BLIND_SPOT, first_line, reasons_of
from cytoserve_reports.text import NOTICE, SYNTHETIC, plain

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

ACCEPTED: Colour = (0, 158, 115)
REVIEW: Colour = (213, 94, 0)
RED_CELL: Colour = (130, 130, 130)
PLATELET: Colour = (0, 114, 178)
"""Colours of Okabe and Ito, told apart with any colour vision; review cells carry a double frame and text besides."""

ALARM: Colour = (178, 24, 24)
CALM: Colour = (70, 70, 70)
"""Behind the first line: the sample is unfamiliar, or it is not."""

LEGEND: tuple[tuple[str, Colour], ...] = (
    ("white cell, accepted", ACCEPTED),
    ("white cell, to review", REVIEW),
    ("red cell", RED_CELL),
    ("platelet", PLATELET),
)

TARGET_SIDE = 960
"""Small fields are enlarged by a whole number until the shorter side is about this long, so that labels fit."""

MAX_ENLARGEMENT = 3


@dataclass(frozen=True)
class _Pen:
    draw: ImageDraw.ImageDraw
    font: Font
    scale: int
    width: int
    height: int


class Banner(NamedTuple):
    """A line above the picture."""

    text: str
    colour: Colour


def draw_overlay(
    picture: Image.Image,
    field: FieldAnalysis,
    familiarity: SampleFamiliarity | None = None,
    site: str = HOME_SITE,
) -> bytes:
    """Return the annotated picture of a field as a PNG file.

    Parameters
    ----------
    picture : PIL.Image.Image
        The field as displayed, RGB.
    field : FieldAnalysis
        Its answer.
    familiarity : SampleFamiliarity, optional
        How familiar the sample is that the field belongs to; the field's own where it was judged alone.
    site : str
        Site whose calibration decided.

    Raises
    ------
    InvalidImage
        If the picture is not the one that was analysed (another size).
    """
    if picture.size != (field.width, field.height):
        raise InvalidImage(
            f"is {picture.width} x {picture.height} pixels, the analysed one {field.width} x {field.height}",
            source=field.source,
        )
    scale = max(1, min(MAX_ENLARGEMENT, round(TARGET_SIDE / min(picture.size))))
    size = max(13, round(min(picture.size) * scale / 60))
    font = ImageFont.load_default(size)
    body = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    pen = _Pen(ImageDraw.Draw(body), font, scale, body.width, body.height)
    # The most important cells are drawn last, on top of the others.
    for cell in sorted(field.cells, key=_layer):
        _draw_cell(pen, cell, max(2, size // 7))
    head = first_line(field.familiarity or familiarity, field.cells, site)
    banners = [Banner(SYNTHETIC, (0, 0, 0))] if field.synthetic else []
    banners.append(Banner(head.text, ALARM if head.alarming else CALM))
    return _png(_framed(body, banners, font, size), field)


def _layer(cell: Cell) -> int:
    if cell.kind == "white_cell":
        return 3 if _to_review(cell) else 2
    return 1 if cell.kind == "platelet" else 0


def _to_review(cell: Cell) -> bool:
    return cell.decision == "review" or cell.label is None


def _draw_cell(pen: _Pen, cell: Cell, width: int) -> None:
    if cell.box is None:
        return
    x0, y0, x1, y1 = (round(side * pen.scale) for side in cell.box)
    if cell.kind != "white_cell":
        pen.draw.rectangle((x0, y0, x1, y1), outline=PLATELET if cell.kind == "platelet" else RED_CELL, width=1)
        return
    review = _to_review(cell)
    colour = REVIEW if review else ACCEPTED
    pen.draw.rectangle((x0, y0, x1, y1), outline=colour, width=width)
    if review:
        gap = 2 * width
        pen.draw.rectangle((x0 - gap, y0 - gap, x1 + gap, y1 + gap), outline=colour, width=max(1, width // 2))
        x0, y0, x1, y1 = x0 - gap, y0 - gap, x1 + gap, y1 + gap
    best = cell.probability[cell.label] if cell.probability and cell.label else None
    lines = [(cell.label or "not scored").replace("_", " ") + ("" if best is None else f" {best:.2f}")]
    if review:
        lines += _wrapped(f"review: {reasons_of(cell) or 'no reason given'}", pen)
    _draw_label(pen, "\n".join(lines), x0, y0, y1, colour)


def _draw_label(pen: _Pen, text: str, x: int, top: int, bottom: int, colour: Colour) -> None:
    """Write above the box, or below it where there is no room, always inside the picture."""
    left, upper, right, lower = pen.draw.multiline_textbbox((0, 0), text, font=pen.font)
    wide, high = int(right - left) + 6, int(lower - upper) + 6
    y = top - high if top - high >= 0 else bottom
    x, y = max(0, min(x, pen.width - wide)), max(0, min(y, pen.height - high))
    pen.draw.rectangle((x, y, x + wide, y + high), fill=colour)
    pen.draw.multiline_text((x + 3 - left, y + 3 - upper), text, font=pen.font, fill=(255, 255, 255))


def _wrapped(text: str, page: _Pen) -> list[str]:
    """Return the lines of a text that fit the width of a page, by the width of its usual letter."""
    letter = page.font.getlength("abcdefghijklmnopqrstuvwxyz ") / 27
    return textwrap.wrap(plain(text).plain, max(12, int((page.width - 16) / letter)))


def _framed(body: Image.Image, banners: Sequence[Banner], font: Font, size: int) -> Image.Image:
    """Put the banners above the picture, and legend and notices under it."""
    line = size + 8
    pen = _Pen(ImageDraw.Draw(body), font, 1, body.width, body.height)
    above = [(text, banner.colour) for banner in banners for text in _wrapped(banner.text, pen)]
    below = [*_wrapped(BLIND_SPOT, pen), *_wrapped(NOTICE, pen)]
    rows = _legend_rows(font, size, body.width)
    head = line * len(above)
    page = Image.new("RGB", (body.width, head + body.height + line * (len(rows) + len(below)) + 8), (255, 255, 255))
    page.paste(body, (0, head))
    draw = ImageDraw.Draw(page)
    for number, (text, colour) in enumerate(above):
        draw.rectangle((0, number * line, page.width, (number + 1) * line), fill=colour)
        draw.text((8, number * line + 3), text, font=font, fill=(255, 255, 255))
    y = head + body.height + 6
    for row in rows:
        for x, text, colour in row:
            draw.rectangle((x, y + 2, x + size, y + size), outline=colour, width=3)
            draw.text((x + size + 6, y), text, font=font, fill=(0, 0, 0))
        y += line
    for text in below:
        draw.text((8, y), text, font=font, fill=(90, 90, 90))
        y += line
    return page


def _legend_rows(font: Font, size: int, width: int) -> list[list[tuple[int, str, Colour]]]:
    rows: list[list[tuple[int, str, Colour]]] = [[]]
    x = 8
    for text, colour in LEGEND:
        needed = size + 6 + int(font.getlength(text)) + 24
        if rows[-1] and x + needed > width:
            rows.append([])
            x = 8
        rows[-1].append((x, text, colour))
        x += needed
    return rows


def _png(page: Image.Image, field: FieldAnalysis) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "cytoserve")
    text.add_text(OVERLAY_KEY, "1")
    text.add_text("Disclaimer", NOTICE)
    if field.synthetic:
        text.add_text(SYNTHETIC_KEY, "true")
    buffer = io.BytesIO()
    page.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()
