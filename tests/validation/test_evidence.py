"""The page of evidence is what its generator prints, and says so where something was not measured or not met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import evidence
from benchmarks.evidence_text import Bar, Section, percent, points, share, table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


def test_the_page_is_what_the_results_say():
    page = (ROOT / "docs" / "evidence.md").read_text()
    assert page == evidence.render(evidence.load(RESULTS)), "stale: run python -m benchmarks.evidence"


def test_without_results_nothing_is_claimed():
    page = evidence.render({"anomaly": {}})
    overview = page.split("## All bars")[1].split("\n## ")[0]
    rows = [line for line in overview.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(evidence.SECTIONS)
    assert all(row.endswith("| not measured |") for row in rows)
    assert page.count("Not measured.") == len(evidence.SECTIONS)


def test_a_bar_is_judged_by_the_figure_in_the_file():
    served = json.loads((RESULTS / "pbc_test.json").read_text())
    for value, verdict in ((0.9701, "yes"), (0.9699, "**no**")):
        bars = evidence.in_domain({"pbc_test": {**served, "balanced_accuracy": value}}).bars
        assert bars[0].verdict == verdict
    worse = {**served, "accepted": 1000, "wrong_among_accepted": 11, "accepted_share": 0.79}
    assert [bar.met for bar in evidence.referral({"pbc_test": worse}).bars] == [False, False]
    nobody = {**served, "accepted": 0, "wrong_among_accepted": 0, "accepted_share": 0.0}
    assert [bar.met for bar in evidence.referral({"pbc_test": nobody}).bars] == [False, False]


def test_cost_is_judged_by_ratio_and_by_paired_difference():
    found = json.loads((RESULTS / "published.json").read_text())
    assert [b.met for b in evidence.cost({"published": {**found, "accuracy_difference_points": -0.6}}).bars][1] is False
    assert [b.met for b in evidence.cost({"published": {**found, "accuracy_difference_points": -0.5}}).bars][1] is True
    assert evidence.cost({"published": {**found, "evaluations_ratio": 3.99}}).bars[0].met is False


def test_a_trial_on_a_model_that_saw_the_class_is_no_evidence():
    from benchmarks.evidence_scores import unseen

    trial = {"anomaly_erythroblast": {"is_evidence": False}}
    section = unseen({"anomaly": trial})
    assert section.bars == []
    assert section.text == ""


def test_every_note_has_its_section():
    with pytest.raises(KeyError, match="nowhere"):
        evidence.render({"anomaly": {}, "evidence_notes": {"nowhere": ["text"]}})


def test_notes_hold_words_and_no_figures():
    notes = json.loads((RESULTS / "evidence_notes.json").read_text())
    assert all(not any(c.isdigit() for c in text) for texts in notes.values() for text in texts)


def test_how_figures_are_written():
    assert percent(0.1234, (0.1, 0.2)) == "12.3 % [10.0, 20.0]"
    assert percent(None) == "-"
    assert share({"of": 0, "count": 0, "value": None, "interval": None}) == "none of none"
    assert share({"of": 40, "count": 3, "value": 0.075, "interval": [0.0157, 0.2039]}) == "3 of 40: 7.5 % [1.6, 20.4]"
    assert points({"points": -1.0, "interval": [-2.5, 0.0]}) == "-1.0 [-2.5, +0.0]"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert Bar("x", "y", None).verdict == "not measured"
    assert "- because" in Section("k", "T", ["do"], [], "text").markdown(["because"])
