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

from fake_server import CLASSES, FakeServer, cells


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

    pixels = [np.asarray(Image.open(io.BytesIO(data)))[0, 0] for data in call.files]
    answer = cells([int(pixel[0]) // 20 for pixel in pixels])
    for row, pixel in enumerate(pixels):
        own = 1 + int(pixel[1]) / 1000
        answer["SCORES"][row] = own + 0.05 + int(pixel[2]) / 1e4
        answer["SCORES"][row, answer["LABEL"][row]] = own
        answer["ANOMALY"][row] = own, 0.5
    return answer


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a labelled folder: class name to number of cells."""

    def make(counts: dict[str, int], name: str = "cells", shown_as: dict[str, str] | None = None) -> Path:
        for label, count in counts.items():
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            shown = CLASSES.index((shown_as or {}).get(label, label)) if label in CLASSES else 0
            for i in range(count):
                pixels = np.full((40, 40, 3), (20 * shown, i % 256, (7 * i + i // 256) % 256), np.uint8)
                pixels[-1, -1] = len(label)  # so that no file is a copy of another class's
                Image.fromarray(pixels).save(folder / f"{label}_{i:03d}.png")
        return tmp_path / name

    return make
