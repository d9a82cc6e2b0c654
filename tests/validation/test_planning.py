"""What n cells can promise, against the exact bound, against simulation of the fit, and as the command shows it."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cytoserve_cli.main import app
from cytoserve_scoring.classifier.familiarity import LEAST_CELLS
from cytoserve_scoring.classifier.fitting import RiskGuarantee
from cytoserve_statistics.shares import upper_bound
from cytoserve_validation import planning
from cytoserve_validation.errors import TooFewCells
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
ASKED = RiskGuarantee(0.05, 0.9)


def test_errors_allowed_are_those_of_the_exact_bound() -> None:
    for guarantee in (ASKED, RiskGuarantee(0.01, 0.95), RiskGuarantee(0.3, 0.5)):
        counts = np.arange(1, 700)
        for n, allowed in zip(counts.tolist(), planning.errors_allowed(counts, guarantee).tolist(), strict=True):
            if allowed >= 0:
                assert upper_bound(allowed, n, guarantee.confidence) <= guarantee.tolerated_error + 1e-12
            assert upper_bound(allowed + 1, n, guarantee.confidence) > guarantee.tolerated_error - 1e-12


def test_expected_acceptance_is_what_simulated_walks_accept() -> None:
    rng, wrong_in_all = np.random.default_rng(0), 0.04
    allowed = planning.errors_allowed(np.arange(301), ASKED)
    for n in (60, 300):
        rate = planning.error_rates(n, wrong_in_all)
        taken = []
        for _ in range(4000):
            errors, accepted = np.cumsum(rng.random(n) < rate), 0
            for m in range(1, n + 1):
                if allowed[m] < 0:
                    continue
                if errors[m - 1] > allowed[m]:
                    break
                accepted = m
            taken.append(accepted / n)
        expected = planning.expected_acceptance(allowed, wrong_in_all, n)
        assert expected == pytest.approx(np.mean(taken), abs=4 * np.std(taken) / 4000**0.5)


def test_error_rates_add_up_and_rise() -> None:
    rates = planning.error_rates(500, 0.1)
    assert rates.mean() == pytest.approx(0.1)
    assert (np.diff(rates) >= 0).all()
    assert planning.error_rates(500, 0.0).max() == 0
    assert planning.error_rates(3, 0.9).max() <= 1


def test_more_cells_promise_more() -> None:
    rows = planning.plan(ASKED, 77).rows
    assert [row.cells for row in rows] == sorted({*planning.ROUND_NUMBERS, 77, planning.plan(ASKED).needed})
    for less, more in itertools.pairwise(rows):
        assert all(more.least_error[c] < less.least_error[c] for c in less.least_error)
    for column in range(len(planning.WRONG_IN_ALL)):
        acceptance = [row.expected_acceptance[column] for row in rows]
        assert acceptance[0] == 0 or rows[0].cells >= planning.plan(ASKED).needed
        assert acceptance[-1] >= acceptance[len(acceptance) // 2] - 1e-9
    assert rows[-1].expected_acceptance[0] >= rows[-1].expected_acceptance[-1]


@pytest.mark.parametrize(("count", "enough"), [(LEAST_CELLS - 1, False), (LEAST_CELLS, True)])
def test_cells_that_are_too_few_for_a_reference_are_refused(count: int, enough: bool) -> None:
    if enough:
        planning.check_enough(count)
    else:
        with pytest.raises(TooFewCells, match="39 labelled cells; 40 are needed"):
            planning.check_enough(count)


def plan(*words: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["calibrate", "--plan", *map(str, words)])
    return result.exit_code, " ".join(result.output.split())


def test_the_plan_needs_no_server_and_says_what_the_folder_cannot(make_folder: Callable[..., Path]) -> None:
    code, text = plan()
    assert code == 0
    assert "299 (least)" in text
    code, text = plan(make_folder({"monocyte": 60, "neutrophil": 40}))
    assert code == 0
    assert "100 (yours)" in text
    assert "These 100 cells cannot promise that: every cell of the site would go to review" in text
    assert "--tolerated-error 0.03 or more" in text
    assert upper_bound(0, 100, 0.95) <= 0.03
    assert "40 are needed at least" in plan(make_folder({"monocyte": 5}, "few"))[1]


def test_the_table_of_the_documents_is_the_commands_output(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"monocyte": 145})
    shown = CliRunner(env={"COLUMNS": "132"}).invoke(app, ["calibrate", "--plan", str(folder)]).output
    table = [line.rstrip() for line in shown.split("Asked:")[0].rstrip().splitlines()]
    assert len(table) > 12
    assert "\n".join(table) in (ROOT / "docs" / "calibration.md").read_text()


@pytest.mark.parametrize("error", [0, 1])
def test_a_tolerated_error_of_none_or_all_is_refused(error: int) -> None:
    code, text = plan("--tolerated-error", error)
    assert code == 2
    assert "[BadSetting]" in text


def test_the_command_says_what_it_lacks() -> None:
    result = CliRunner().invoke(app, ["calibrate"])
    assert result.exit_code == 2
    assert "--site NAME and --to FILE" in " ".join(result.output.split())


def test_doctests() -> None:
    assert doctest.testmod(planning).attempted > 0
    assert doctest.testmod(planning).failed == 0
