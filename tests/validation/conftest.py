"""Fixtures of the validation tests: labelled folders, and the client tests' fake server with scores that separate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))

from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from fake_server import CLASSES, FakeServer, cells

LAMP = np.eye(len(IMAGE_STATISTIC_NAMES))[:3].sum(axis=0)
"""The statistics that another scanner's lamp moves."""


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYTOSERVE_URL", raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A gRPC server that knows every cell by its colour: a pixel of red level ``20 * class`` is of that class."""
    with FakeServer() as running:
        running.fake.on_cells = by_colour
        yield running


def by_colour(call: Any) -> dict[str, Any]:
    """Answer with the class, and a little noise in the scores, that the picture's first pixel carries."""
    import io

    pictures = [np.asarray(Image.open(io.BytesIO(data))) for data in call.files]
    pixels = [picture[0, 0] for picture in pictures]
    answer = cells([int(pixel[0]) // 20 for pixel in pixels])
    for row, pixel in enumerate(pixels):
        own = 1 + int(pixel[1]) / 1000
        answer["SCORES"][row] = own + 0.05 + int(pixel[2]) / 1e4
        answer["SCORES"][row, answer["LABEL"][row]] = own
        answer["ANOMALY"][row] = own, 0.5, 0.5, 1
        answer["IMAGE_STATISTICS"][row] = statistics(pictures[row])
        answer["DOMAIN"][row] = 1, 0.5, 0.5, 200
        answer["DOMAIN_CAUSE"][row] = b"noise+"
    return answer


def statistics(picture: Any) -> Any:
    """Return image statistics that scatter from cell to cell, around a place that pixel (0, 1) moves: its scanner."""
    seed = [int(value) for value in (*picture[0, 0], *picture[-1, -1])]
    usual = np.random.default_rng(seed).normal(0, 0.3, len(IMAGE_STATISTIC_NAMES))
    return usual + int(picture[0, 0, 0]) / 200 + int(picture[0, 1, 0] - picture[0, 0, 0]) * LAMP


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a labelled folder: class name to number of cells.

    ``lamp`` other than 0 is another scanner; a folder that is there takes its cells in addition.
    """

    def make(
        counts: dict[str, int], name: str = "cells", shown_as: dict[str, str] | None = None, lamp: int = 0
    ) -> Path:
        for label, count in counts.items():
            folder = tmp_path / name / label
            folder.mkdir(parents=True, exist_ok=True)
            named = (shown_as or {}).get(label, label)
            shown = CLASSES.index(named) if named in CLASSES else 0
            for i in range(count):
                pixels = np.full((40, 40, 3), (20 * shown, i % 256, (7 * i + i // 256) % 256), np.uint8)
                pixels[-1, -1] = len(label) + lamp  # so that no file is a copy of another class's, or scanner's
                pixels[0, 1, 0] += lamp
                Image.fromarray(pixels).save(folder / f"{label}_{lamp or ''}{i:03d}.png")
        return tmp_path / name

    return make
