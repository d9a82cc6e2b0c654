"""The reference of familiar pictures that a calibration makes, and the cells of which none can be made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_scoring.classifier.familiarity import FamiliarPictures
from cytoserve_statistics.combined import combined_p_value
from cytoserve_validation.answers import Answered
from cytoserve_validation.errors import MixedPictures, NoReference, TooFewCells
from cytoserve_validation.labelled import Groups
from cytoserve_validation.pictures import file_kinds, site_pictures
from PIL import Image
from real_statistics import statistics_of
from synthetic_answers import answers

SIZE = len(IMAGE_STATISTIC_NAMES)


def with_statistics(cells: Answered, values: Any) -> Answered:
    return replace(cells, statistics=np.asarray(values, np.float64))


def test_the_reference_knows_the_sites_cells_and_counts_those_it_does_not() -> None:
    cells = answers(400)
    found = site_pictures(cells)
    assert found.familiar.cells == 400
    again = FamiliarPictures.from_json(found.familiar.to_json())
    assert again.assess(cells.statistics + 3.0).unfamiliar.all()
    unfamiliar = found.summary["unfamiliar"]
    assert unfamiliar["count"] == found.unfamiliar.sum()
    assert unfamiliar["low"] <= unfamiliar["value"] <= unfamiliar["high"]
    assert 0 < unfamiliar["count"] < 20
    rows = found.summary["per_class"]
    assert sum(row["count"] for row in rows.values()) == unfamiliar["count"]
    assert sum(row["of"] for row in rows.values()) == 400
    assert sum(found.summary["causes"].values()) <= unfamiliar["count"]
    assert found.warnings == ()


def test_what_makes_no_reference() -> None:
    cells = answers(60)
    with pytest.raises(TooFewCells, match="39 of 39 scored cells were measured; 40 are needed"):
        site_pictures(cells.take(np.arange(39)))
    uniform = cells.statistics.copy()
    uniform[:25] = np.nan
    with pytest.raises(TooFewCells, match="35 of 60"):
        site_pictures(with_statistics(cells, uniform))
    with pytest.raises(NoReference, match="one and the same picture"):
        site_pictures(with_statistics(cells, np.ones((60, SIZE))))
    one_each = replace(cells, truth=np.arange(60) % 20, classes=tuple(f"class {i}" for i in range(20)))
    with pytest.raises(NoReference, match="no class has 5 cells"):
        site_pictures(one_each)


def test_cells_that_were_not_measured_are_told_and_counted_as_unfamiliar() -> None:
    cells = answers(100)
    values = cells.statistics.copy()
    values[7] = np.nan
    found = site_pictures(with_statistics(cells, values))
    assert found.familiar.cells == 99
    assert found.unfamiliar[7]
    assert found.summary["not_measured"] == 1
    (told,) = found.warnings
    assert cells.names[7] in told


@pytest.mark.parametrize("present", [1, 2])
def test_one_class_alone_or_a_class_of_one_cell_makes_a_reference(present: int) -> None:
    cells = answers(100)
    truth = np.zeros(100, np.int64)
    truth[0] = present - 1
    found = site_pictures(replace(cells, truth=truth))
    assert found.familiar.names == (cells.classes[0],)
    assert set(found.summary["per_class"]) == set(cells.classes[:present])


def test_two_scanners_are_refused_with_names_and_only_an_option_that_is_written_lets_them_pass() -> None:
    cells = answers(300)
    values = cells.statistics.copy()
    values[200:, IMAGE_STATISTIC_NAMES.index("noise")] += 6.0
    mixed = with_statistics(cells, values)
    with pytest.raises(MixedPictures, match="the picture is noisier") as refused:
        site_pictures(mixed)
    assert "--mixed-scanners" in str(refused.value)
    assert cells.names[200] in str(refused.value)
    found = site_pictures(mixed, allow_mixed=True)
    assert found.summary["parts"]["mixed"]
    assert found.summary["parts"]["mixed_allowed"]
    assert any("made of mixed scanners" in text for text in found.warnings)
    assert not site_pictures(cells, allow_mixed=True).summary["parts"]["mixed"]


def test_groups_and_kinds_of_files_find_a_second_scanner_of_few_cells() -> None:
    cells = answers(300)
    values = cells.statistics.copy()
    values[290:, IMAGE_STATISTIC_NAMES.index("noise")] += 6.0
    mixed = with_statistics(cells, values)
    assert not site_pictures(mixed, allow_mixed=True).summary["parts"]["mixed"]
    scanner = tuple("new" if i >= 290 else "old" for i in range(300))
    with pytest.raises(MixedPictures, match="told apart by group"):
        site_pictures(mixed, Groups(scanner, None))
    with pytest.raises(MixedPictures, match="told apart by files of the kind"):
        site_pictures(mixed, kinds=["JPEG" if name == "new" else "PNG" for name in scanner])


def test_slides_stay_whole_when_cells_are_judged_and_few_of_them_are_told() -> None:
    cells = answers(400)
    slide = np.arange(400) % 8
    moved = cells.statistics + np.random.default_rng(0).normal(0, 0.5, (8, SIZE))[slide]
    one = with_statistics(cells, moved)
    slides = Groups(("all",) * 400, tuple(f"slide {i}" for i in slide))
    by_cell, by_slide = site_pictures(one), site_pictures(one, slides)
    assert by_slide.summary["compared_with"] == "other slides"
    assert by_slide.summary["unfamiliar"]["count"] > 3 * by_cell.summary["unfamiliar"]["count"]
    assert any("of 8 slide(s), fewer than 20" in text for text in by_slide.warnings)
    many = Groups(("all",) * 400, tuple(f"slide {i % 40}" for i in range(400)))
    assert not any("slide(s)" in text for text in site_pictures(cells, many).warnings)


def test_the_kind_of_a_file_is_its_format_and_its_camera(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[271], exif[272] = "Maker", "Model 7"
    picture.save(tmp_path / "b.jpg", exif=exif)
    (tmp_path / "c.png").write_bytes(b"no image")
    kinds = file_kinds([tmp_path / name for name in ("a.png", "b.jpg", "c.png", "gone.png")])
    assert kinds == ["PNG", "JPEG of Maker Model 7", "unreadable", "unreadable"]


@pytest.mark.parametrize(
    ("folder", "scale", "part"), [("bcisc/cells", 0.134, (1, "-")), ("chula_wbc/cells", 0.10, (0, "_"))]
)
def test_real_samples_of_new_slides_are_rejected_far_more_often_than_promised(
    data_dir: Path, folder: str, scale: float, part: tuple[int, str]
) -> None:
    """What docs/calibration.md says of few slides: false alarms of the sample test come far above one in a thousand."""
    values, files = statistics_of(data_dir / folder, scale)
    labels = np.array([file.parent.name for file in files])
    slides = np.array([file.stem.split("_")[part[0]].split(part[1])[0] for file in files])
    rng, rejected = np.random.default_rng(0), {"new slides": [], "known slides": []}
    for _ in range(10):
        known = np.isin(slides, rng.permutation(np.unique(slides))[::2])
        for kind, inside in (("new slides", known), ("known slides", rng.random(len(files)) < 0.5)):
            found = FamiliarPictures.fit(values[inside], labels[inside].tolist()).assess(values[~inside])
            sample = slides[~inside] if kind == "new slides" else rng.integers(0, 5, int((~inside).sum()))
            for name in np.unique(sample):
                rows = np.flatnonzero(sample == name)[:20]
                if len(rows) == 20:
                    own = found.p_value_of_kind[rows].tolist(), found.cells_of_kind[rows].tolist()
                    rejected[kind].append(combined_p_value(*own) < 0.001)
    assert len(rejected["new slides"]) > 30
    assert np.mean(rejected["new slides"]) > 0.05
    assert np.mean(rejected["known slides"]) < 0.05
