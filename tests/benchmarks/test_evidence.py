"""The page of evidence is what its generator prints, and says so where something was not measured or not met."""

from __future__ import annotations

import json

import pytest

from benchmarks import evidence_page
from benchmarks.evidence_models import unseen
from benchmarks.measurements import ARCHIVE, BY_NAME, MEASUREMENTS
from benchmarks.results import RESULTS
from benchmarks.text import Criterion, Section, percent, points, share, table


def test_without_results_nothing_is_claimed():
    page = evidence_page.page({})
    overview = page.split("## Acceptance criteria")[1].split("\n## ")[0]
    rows = [line for line in overview.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(evidence_page.SECTIONS)
    assert all(row.endswith("| not measured |") for row in rows)
    assert page.count("Not measured.") == len(evidence_page.SECTIONS)
    listed = page.split("## Measurements")[1].split("\n## ")[0]
    assert listed.count("| not measured |") == len(MEASUREMENTS)


def test_a_criterion_is_judged_by_the_figure_in_the_file():
    served = json.loads((RESULTS / "pbc_test.json").read_text())
    for value, verdict in ((0.9801, "yes"), (0.9799, "**no**")):
        found = evidence_page.in_domain({"pbc_test": {**served, "balanced_accuracy": value}}).criteria
        assert found[0].verdict == verdict
    worse = {**served, "accepted": 1000, "wrong_among_accepted": 11, "accepted_share": 0.79}
    assert [one.met for one in evidence_page.referral({"pbc_test": worse}).criteria] == [False, False]
    nobody = {**served, "accepted": 0, "wrong_among_accepted": 0, "accepted_share": 0.0}
    assert [one.met for one in evidence_page.referral({"pbc_test": nobody}).criteria] == [False, False]


def test_what_is_short_of_its_criterion_has_a_cause_and_says_whether_it_was_tried_often_enough():
    """On the committed results; a criterion that is missed anew has no words yet, and that is said."""
    results = evidence_page.load()
    short = evidence_page.page(results).split("## What is short of its criterion, and why")[1].split("\n## ")[0]
    missed = [
        part
        for part in (make(results) for make in evidence_page.SECTIONS)
        if any(c.met is False for c in part.criteria)
    ]
    assert short.count(" Not met: ") == len(missed)
    assert short.count("- Cause: ") == len(missed)
    told = results["attempts"]
    assert set(told) == {part.key for part in missed}, "words on what is met by now are out of date"
    few = [key for key, one in told.items() if len(one["tried"]) < evidence_page.LEAST_ATTEMPTS]
    assert short.count("- Not yet tried three times") == len(few)
    assert not any(ch.isdigit() for ch in json.dumps(told)), "figures stand in lessons.md and in results"
    assert "Not yet tried three times" in evidence_page.page({**results, "attempts": {}})


def test_cost_is_judged_by_ratio_and_by_paired_difference():
    found = json.loads((RESULTS / "published.json").read_text())

    def met(**changed: float) -> list[bool | None]:
        return [one.met for one in evidence_page.cost({"published": {**found, **changed}}).criteria]

    assert met(accuracy_difference_points=-0.6)[1] is False
    assert met(accuracy_difference_points=-0.5)[1] is True
    assert met(evaluations_ratio=3.99)[0] is False


def test_an_unseen_class_is_judged_by_the_served_score():
    found = json.loads((RESULTS / "unseen_erythroblast.json").read_text())
    better = json.loads(json.dumps(found))
    better["hidden"]["erythroblast"]["auc"]["anomaly_score"]["value"] = 0.97
    better["hidden"]["erythroblast"]["at_80_percent_accepted"]["unseen_accepted"]["value"] = 0.05
    worse = json.loads(json.dumps(better))
    worse["hidden"]["erythroblast"]["auc"]["anomaly_score"]["value"] = 0.9699
    worse["hidden"]["erythroblast"]["at_80_percent_accepted"]["unseen_accepted"]["value"] = 0.0501
    assert [one.met for one in unseen({"unseen_erythroblast": better}).criteria] == [True, True]
    assert [one.met for one in unseen({"unseen_erythroblast": worse}).criteria] == [False, False]


def test_the_page_says_of_every_result_when_it_was_made_and_whether_it_is_stamped():
    stamped = {"commit": "a" * 40, "date": "2026-12-01T10:00:00+00:00", "clean": True, "seconds": 301}
    missing = {"commit": "b" * 40, "date": "2026-11-01T10:00:00+00:00", "missing": "measured before"}
    one = BY_NAME["pbc_test"]

    def row(stamp: dict[str, object], **body: object) -> list[str]:
        return evidence_page.measurement_row(one, {"pbc_test": {**body, "stamp": stamp}})[3:]

    assert row(stamped) == ["5 min", "aaaaaaa, 2026-12-01"]
    assert row(stamped, kept_errors=["calibrating"])[0] == "5 min, with errors kept from an earlier run"
    assert row({**stamped, "clean": False})[1].endswith("with changes that were not committed")
    assert row(missing)[1] == "bbbbbbb, 2026-11-01, not stamped"


def test_what_needs_a_training_says_which_and_where_its_code_is():
    page = evidence_page.page(evidence_page.load())
    commands = page.split("## A class that was never seen")[1].split("```")[1].splitlines()
    for what in ("erythroblast", "immature_granulocyte", "three"):
        measured = next(i for i, line in enumerate(commands) if f"benchmarks.unseen runs/hidden_{what}" in line)
        trained = commands[measured - 1]
        assert trained.startswith("$ cytoserve train denoiser ")
        assert trained.endswith(f"--out runs/hidden_{what}")
    archived = page.split("## External site: bccd_cells")[1].split("```")[1]
    assert f"# in a checkout of {ARCHIVE[:7]}" in archived


def test_every_note_has_its_section():
    with pytest.raises(KeyError, match="nowhere"):
        evidence_page.page({"notes": {"nowhere": ["text"]}})


def test_notes_hold_words_and_no_figures():
    notes = json.loads(evidence_page.NOTES.read_text())
    assert notes
    assert all(not any(c.isdigit() for c in text) for texts in notes.values() for text in texts)


def test_how_figures_are_written():
    assert percent(0.1234, (0.1, 0.2)) == "12.3 % [10.0, 20.0]"
    assert percent(None) == "-"
    assert share({"of": 0, "count": 0, "value": None, "interval": None}) == "none of none"
    assert share({"of": 40, "count": 3, "value": 0.075, "interval": [0.0157, 0.2039]}) == "3 of 40: 7.5 % [1.6, 20.4]"
    assert points({"points": -1.0, "interval": [-2.5, 0.0]}) == "-1.0 [-2.5, +0.0]"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert Criterion("x", "y", None).verdict == "not measured"
    assert "- because" in Section("k", "T", (), [], "text").markdown(["$ do"], ["because"])
