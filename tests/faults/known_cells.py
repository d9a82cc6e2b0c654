"""Cells whose answers are known beforehand, so that a wrong or swapped answer is noticed under any fault."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cytoserve_client import CellAnswer, CellsAnalysis, Client, EncodedImage, errors
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
UM_PER_PIXEL = 0.18
ATOL = 2e-4
"""Another batch size may choose another order of summation in the kernels (see test_real_server.py)."""

TYPED = {"unavailable", "deadline"}
"""Codes of failures that a fault of machine or network may lead to: both say that the same call may succeed later."""


@dataclass(frozen=True)
class KnownCells:
    """Image files of cells, each with the answer of an undisturbed server."""

    files: tuple[bytes, ...]
    answers: tuple[CellAnswer, ...]

    @classmethod
    def of(cls, client: Client, paths: Iterable[Path]) -> KnownCells:
        """Ask an undisturbed server for the answers, and see that no two cells could be mistaken for each other."""
        files = tuple(path.read_bytes() for path in paths)
        answers = client.classify(list(files), UM_PER_PIXEL, one_sample=False).cells
        assert len(answers) == len(files)
        found = [np.array(list((answer.scores or {}).values())) for answer in answers]
        for index, one in enumerate(found):
            assert all(np.abs(one - other).max() > 20 * ATOL for other in found[:index]), "two cells are alike"
        return cls(files, answers)

    def images(self, numbers: Iterable[int]) -> list[EncodedImage]:
        """Return images whose names tell which cell each is."""
        return [EncodedImage(f"cell {number}", self.files[number]) for number in numbers]

    def check(
        self, result: CellsAnalysis, sent: Sequence[EncodedImage], allowed: Iterable[str] = frozenset(TYPED)
    ) -> int:
        """See that nothing is lost or wrong; return how many were answered.

        Every image is answered or named as failed with an allowed code, and every answer is that of its own cell.
        """
        named = [cell.source for cell in result.cells] + [failure.source for failure in result.failures]
        assert sorted(named) == sorted(image.name for image in sent), "an image was lost without being named"
        assert {failure.error for failure in result.failures} <= set(allowed), result.failures
        for cell in result.cells:
            self.check_cell(cell)
        return len(result.cells)

    def check_cell(self, cell: CellAnswer) -> None:
        """See that an answer is that of the cell it is given for."""
        known = self.answers[int(cell.source.split()[1])]
        assert (cell.label, cell.decision, cell.reasons) == (known.label, known.decision, known.reasons), cell.source
        for name in ("probability", "scores"):
            got, expected = getattr(cell, name), getattr(known, name)
            assert got.keys() == expected.keys()
            assert np.allclose(list(got.values()), list(expected.values()), atol=ATOL, rtol=0), (cell.source, name)


def asked(client: Client, known: KnownCells, numbers: Sequence[int], timeout: float, **settings: object) -> str:
    """Ask for one request's cells; return ``"ok"`` after checking them, or the code of the typed error."""
    images = known.images(numbers)
    try:
        result = client.classify(images, UM_PER_PIXEL, timeout=timeout, one_sample=False, **settings)  # type: ignore[arg-type]
    except errors.CytoserveClientError as error:
        return error.code
    answered = known.check(result, images)
    return "ok" if answered == len(images) else result.failures[0].error


def first_cells(folder: Path, each: int) -> list[Path]:
    """Return the first files of every class's folder."""
    return [path for home in sorted(folder.iterdir()) if home.is_dir() for path in sorted(home.iterdir())[:each]]


def plain_png(shade: int = 120, side: int = 64) -> bytes:
    """Return a small valid picture that shows no cell."""
    pixels = np.full((side, side, 3), (shade, 200, 90), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
