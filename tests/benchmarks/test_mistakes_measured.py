"""Mistakes that a rejected sample's pictures look like are named on real cells, and never where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from cytoserve_client import Cell
from cytoserve_client.mistakes import likely_mistake
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.imaging import decode_picture
from numpy.typing import NDArray

from benchmarks.familiarity import SCALES, measured, site_files
from benchmarks.intake import SPOILT

NAMED = {
    "channels swapped (BGR)": "red_and_blue_swapped",
    "inverted": "inverted",
    "YCbCr read as RGB": "ycbcr",
}
SIZE = 20
"""Cells of a sample."""
Pictures = Sequence[NDArray[np.uint8]]


def with_statistics(row: NDArray[np.float32]) -> Cell:
    return Cell(
        box=None,
        kind="white_cell",
        label="neutrophil",
        probability={"neutrophil": 1.0},
        uncertainty=0.0,
        anomaly=None,
        image_statistics=tuple(map(float, row)),
        decision="review",
        reasons=("unfamiliar_image",),
        evaluations=1,
    )


def statistics_of(
    pictures: Pictures, scale: float | None, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> list[Cell]:
    return [with_statistics(measured(np.ascontiguousarray(change(one)), scale)) for one in pictures]


@pytest.fixture(scope="module")
def home(data_dir: Path) -> dict[str, Pictures]:
    """Pictures of test cells by class."""
    folders = sorted((data_dir / "pbc" / "test").iterdir())
    return {
        folder.name: [decode_picture(file.read_bytes()).pixels for file in sorted(folder.iterdir())[:SIZE]]
        for folder in folders
    }


@pytest.mark.parametrize("way", NAMED)
def test_samples_of_spoilt_home_cells_are_named_right(home: dict[str, Pictures], way: str) -> None:
    spoilt = {name: statistics_of(own, PBC_UM_PER_PIXEL, SPOILT[way][1]) for name, own in home.items()}
    of_one_class = [likely_mistake(own) for own in spoilt.values()]
    assert of_one_class == [NAMED[way]] * len(home)
    every = [one for own in spoilt.values() for one in own]
    rng = np.random.default_rng(0)
    mixed = [likely_mistake([every[i] for i in rng.choice(len(every), SIZE, replace=False)]) for _ in range(200)]
    assert mixed.count(NAMED[way]) >= 0.95 * len(mixed)


@pytest.mark.parametrize("way", [name for name in SPOILT if name not in NAMED and name != "greyscale in RGB"])
def test_no_mistake_is_named_where_another_thing_is_wrong_or_none(home: dict[str, Pictures], way: str) -> None:
    scale, change = SPOILT[way]
    assert {likely_mistake(statistics_of(own[:8], scale, change)) for own in home.values()} == {None}


@pytest.mark.parametrize("site", SCALES)
def test_no_mistake_is_named_for_another_site(data_dir: Path, site: str) -> None:
    files = site_files(data_dir, site).files
    taken = files[:: max(1, len(files) // 100)]  # the files lie in order of class or slide
    found = statistics_of([decode_picture(file.read_bytes()).pixels for file in taken], SCALES[site], lambda one: one)
    samples = [found[start : start + SIZE] for start in range(0, len(found) - SIZE + 1, 5)]
    assert len(samples) > 10
    assert {likely_mistake(sample) for sample in samples} == {None}
