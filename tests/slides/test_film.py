"""A slide as a sequence of fields: which are sent, what counts where, and what is said of the rest."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from cytoserve_client import Cell, Client, FieldAnalysis
from cytoserve_client.images import is_synthetic
from cytoserve_slides import Film, Slide
from fake_server import FakeServer, smear
from PIL import Image
from slide_files import cells_on_glass, write_svs

SCALE = 0.25


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Four fields across and three down: glass on the left, a thick part on the right, a monolayer between."""
    height, width = round(3 * 240 / SCALE), round(320 / SCALE)
    glass = np.full((height, width, 3), 235, np.uint8)
    thick = cells_on_glass(height, width, SCALE, share=4.0, apart=False)
    return np.concatenate([glass, cells_on_glass(height, 2 * width, SCALE, 0.3), thick], axis=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    return write_svs(tmp_path_factory.mktemp("slides") / "film.svs", pixels, SCALE)


def a_field(source: str, *centres: tuple[float, float]) -> FieldAnalysis:
    cells = tuple(
        Cell(
            box=(x - 5, y - 5, x + 5, y + 5),
            kind="white_cell",
            label="neutrophil",
            probability=None,
            uncertainty=None,
            anomaly=None,
            decision="accept",
            reasons=(),
            evaluations=1,
        )
        for x, y in centres
    )
    return FieldAnalysis(
        source=source,
        width=1424,
        height=1104,
        um_per_pixel=SCALE,
        scale_source="caller",
        median_red_cell_um=7.2,
        cells=cells,
    )


def test_only_the_monolayer_is_sent_and_the_rest_is_accounted_for(file: Path, pixels: np.ndarray) -> None:
    with Slide(file) as slide:
        film = Film(slide)
        sent = list(film.fields())
        tally = film.tally
        assert (tally.regions, tally.empty, tally.not_single, tally.read, tally.left) == (12, 3, 3, 6, 0)
        for image in sent:
            x, y = (int(part.split("=")[1]) for part in image.name.rsplit("#", 1)[1].split(","))
            seen = np.asarray(Image.open(io.BytesIO(image.data)))
            assert np.array_equal(seen, pixels[y : y + seen.shape[0], x : x + seen.shape[1]]), "pixel for pixel"
        (skipped,) = film.skipped()
        assert skipped.reason == "not_monolayer"
        assert "3 of 12 regions" in skipped.message


def test_what_was_not_looked_at_is_said(file: Path) -> None:
    with Slide(file) as slide:
        film = Film(slide)
        fields = film.fields()
        next(fields)
        assert film.tally.left >= 5
        assert film.skipped()[-1].reason == "enough_cells"
        assert film.skipped(interrupted=True)[-1].reason == "interrupted"


def test_a_cell_in_two_fields_counts_in_the_one_whose_core_has_it(file: Path) -> None:
    with Slide(file) as slide:
        film = Film(slide)
        names = [image.name for image in film.fields()]
        place = {name: film.placed(a_field(name)).region for name in names}
        left = min(names, key=lambda name: (place[name].y, place[name].x))  # type: ignore[union-attr]
        beside = next(n for n in names if place[n].y == place[left].y and place[n].x > place[left].x)  # type: ignore[union-attr]
        one, other = place[left], place[beside]
        assert one is not None
        assert other is not None
        border = one.x + one.core[2]
        assert border == other.x + other.core[0]
        for x in (border - 3.0, border + 0.0, border + 3.0):
            found = [
                cell
                for name, region in ((left, one), (beside, other))
                for cell in film.placed(a_field(name, (x - region.x, 400.0))).cells
            ]
            assert len(found) == 1, x


def test_a_picture_can_be_had_again_and_one_of_elsewhere_is_not_ours(file: Path) -> None:
    with Slide(file) as slide:
        film = Film(slide)
        first = next(film.fields())
        assert film.picture(a_field(first.name)) == first.data
        assert film.picture(a_field("other.png")) is None
        assert film.placed(a_field("other.png")) == a_field("other.png")


def test_the_scale_is_the_callers_else_the_files(file: Path, tmp_path: Path, pixels: np.ndarray) -> None:
    with Slide(file) as slide:
        assert Film(slide).um_per_pixel == pytest.approx(SCALE)
        assert Film(slide, 0.5).um_per_pixel == 0.5
        assert Film(slide, 0.5).tally.regions == 4 * Film(slide).tally.regions
    with Slide(write_svs(tmp_path / "a.svs", pixels[:600, :800], None)) as slide:
        assert Film(slide).um_per_pixel is None


def test_a_generated_slide_sends_generated_fields(tmp_path: Path, pixels: np.ndarray) -> None:
    with Slide(write_svs(tmp_path / "a.svs", pixels, SCALE, note="|cytoserve:synthetic")) as slide:
        assert is_synthetic(next(Film(slide).fields()).data)


def test_a_film_through_the_client(server: FakeServer, file: Path) -> None:
    server.fake.on_smear = lambda call: smear([6, 4])
    with Slide(file) as slide, Client(server.url) as client:
        film = Film(slide)
        with client.analyze_stream(film.fields(), film.um_per_pixel) as stream:
            assert len(list(stream)) == 6
        result = stream.result("s-1", film.placed)
    assert {call.um_per_pixel[0] for call in server.fake.calls} == {np.float32(SCALE)}
    assert all(one.region is not None and one.region.slide == str(file) for one in result.fields)
