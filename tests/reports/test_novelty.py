"""The alarm of a sample that holds more strange cells than chance explains: when it comes, and where it is said."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from cytoserve_client.results import Anomaly, Cell, CellAnswer, CellsAnalysis, SmearAnalysis
from cytoserve_reports import summarise, tables
from cytoserve_reports.formats import Findings, Origin
from cytoserve_reports.novelty import judge_novelty
from cytoserve_reports.page import PageSettings, review_page
from cytoserve_reports.sample import SampleReport
from format_samples import MODEL, field, known, many
from rich.console import Console


def cells(strange: int, ordinary: int = 190, **changes: Any) -> list[Cell]:
    """Return cells of one class: ordinary ones, 5 % of them among the strangest, and strange ones.

    Every one is as strange as any among the cells of all classes, as those of an unclear class are: that is no alarm.
    """
    usual = [1 / 800 + i / ordinary * 799 / 800 for i in range(ordinary)]
    made = many("neutrophil", strange + ordinary, **{"familiarity": known(), **changes})
    return [
        cell.model_copy(update={"anomaly": Anomaly(score=1.0, p_value=0.02, p_value_of_kind=p, cells_of_kind=799)})
        for cell, p in zip(made, [0.01] * strange + usual, strict=True)
    ]


def report(strange: int, **changes: Any) -> SampleReport:
    return summarise(SmearAnalysis(model=MODEL, fields=(field(cells(strange, **changes)),)))


def test_ten_strange_cells_among_two_hundred_raise_one_alarm() -> None:
    novelty = report(12).novelty
    assert novelty is not None
    assert novelty.alarm
    assert novelty.strange >= 20
    assert novelty.expected == pytest.approx(202 * 40 / 800)


def test_an_ordinary_sample_raises_none() -> None:
    novelty = report(0).novelty
    assert novelty is not None
    assert not novelty.alarm
    assert novelty.p_value > 0.3


def test_an_unfamiliar_sample_is_not_judged_twice() -> None:
    """Its cells are strange because of their pictures."""
    assert report(12, familiarity=known(0.0001)).novelty is None


def test_cells_that_are_not_one_sample_or_not_compared_are_not_judged() -> None:
    assert judge_novelty(cells(12), None) is None
    whole = report(12)
    bare = [cell.model_copy(update={"anomaly": None}) for cell in whole.fields[0].cells]
    assert judge_novelty(bare, whole.familiarity) is None


def printed(print_: Any, what: Any) -> str:
    out = io.StringIO()
    print_(what, Console(file=out, width=400))
    return out.getvalue()


def test_the_alarm_is_in_every_report_and_an_ordinary_sample_has_none() -> None:
    alarmed, calm = report(12), report(0)
    origin = Origin(patient=None, calibration_sha256=None)
    for told, quiet in (
        (printed(tables.print_sample, alarmed), printed(tables.print_sample, calm)),
        (" ".join(Findings.of(alarmed, origin).notices), " ".join(Findings.of(calm, origin).notices)),
    ):
        assert "STRANGE CELLS: " in told
        assert "STRANGE CELLS" not in quiet
    assert json.loads(alarmed.model_dump_json())["novelty"]["alarm"] is True


@pytest.mark.parametrize(
    ("language", "told"), [("en", "Strange cells: "), ("de", "Fremdartige Zellen: "), ("fr", "Cellules étranges : ")]
)
def test_the_page_says_it_in_its_language_and_a_blinded_one_does_not(language: str, told: str) -> None:
    assert told in review_page(report(12), PageSettings(language)).html
    assert told not in review_page(report(0), PageSettings(language)).html
    assert told not in review_page(report(12), PageSettings(language, blinded=True)).html


def test_single_cells_of_one_sample_are_judged_too() -> None:
    whole = report(12)
    answers = tuple(
        CellAnswer(source=f"{i}.png", um_per_pixel=0.18, **cell.model_dump(exclude={"detection_score"}))
        for i, cell in enumerate(whole.fields[0].cells)
    )
    analysis = CellsAnalysis(model=MODEL, cells=answers, familiarity=whole.familiarity)
    assert "STRANGE CELLS: " in printed(tables.print_cells, analysis)
