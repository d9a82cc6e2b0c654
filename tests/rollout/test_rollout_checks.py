"""The checks before a promotion, against servers that speak the contract, and once against the real Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cytoserve_client.images import is_synthetic
from cytoserve_deploy import errors
from cytoserve_deploy.rollout import checks
from cytoserve_deploy.rollout.golden import golden_set
from fake_api import FakeApi
from fake_server import FakeServer, cells
from installed import LINE
from typer.testing import Result

Deploy = Callable[..., Result]
FEW = ("--golden-cells", "10", "--latency-requests", "12", "--max-p99-ratio", "1000")


@pytest.fixture
def pair() -> Iterator[tuple[FakeServer, FakeServer]]:
    with FakeServer() as running, FakeServer() as candidate:
        yield running, candidate


@pytest.fixture
def candidate(standard: None, deploy: Deploy) -> None:
    assert deploy("apply", "--version", "v2", "--model-uri", "pvc://models/0.2.0").exit_code == 0


def promote(deploy: Deploy, pair: tuple[FakeServer, FakeServer], *more: str) -> Result:
    urls = ("--running-url", pair[0].url, "--candidate-url", pair[1].url)
    return deploy("promote", "--version", "v2", *urls, *(more or FEW))


def live(api: FakeApi) -> str:
    return str(api.read("services", f"{LINE}-live")["spec"]["selector"]["app"])


@pytest.mark.usefixtures("candidate")
def test_a_candidate_that_decides_alike_is_promoted_and_the_figures_are_kept(
    deploy: Deploy, api: FakeApi, pair: tuple[FakeServer, FakeServer], tmp_path: Path
) -> None:
    result = promote(deploy, pair, *FEW, "--report", str(tmp_path / "r.json"))
    assert result.exit_code == 0, result.output
    assert live(api) == f"isvc.{LINE}-v2-predictor"
    kept = json.loads(api.read("services", f"{LINE}-live")["metadata"]["annotations"]["rollout.cytoserve/checks"])
    assert (kept["version"], kept["agreed"], kept["cells"]) == ("v2", 10, 10)
    assert kept["agreement_low"] == pytest.approx(0.025 ** (1 / 10))
    assert json.loads((tmp_path / "r.json").read_text())["refusals"] == []


@pytest.mark.usefixtures("candidate")
def test_a_report_that_cannot_be_written_is_told_before_anything_is_asked(
    deploy: Deploy, api: FakeApi, pair: tuple[FakeServer, FakeServer], tmp_path: Path
) -> None:
    result = promote(deploy, pair, *FEW, "--report", str(tmp_path))
    assert result.exit_code == 2
    assert "is a folder" in result.output
    assert live(api) == f"isvc.{LINE}-predictor"
    assert not pair[0].fake.calls


@pytest.mark.usefixtures("candidate")
@pytest.mark.parametrize("reviews", [{}, {row: "low_confidence" for row in range(99)}])
def test_other_labels_or_other_decisions_are_refused_with_the_figures(
    deploy: Deploy, api: FakeApi, pair: tuple[FakeServer, FakeServer], reviews: dict[int, str]
) -> None:
    label = 6 if reviews else 5
    pair[1].fake.on_cells = lambda call: cells(
        [label] * len(call.files), {row: text for row, text in reviews.items() if row < len(call.files)}
    )
    result = promote(deploy, pair)
    assert result.exit_code == 3
    assert "0 of 10 decisions agree" in result.output
    assert "differs:" in result.output
    assert live(api) == f"isvc.{LINE}-predictor"


@pytest.mark.usefixtures("candidate")
def test_a_slow_candidate_is_refused_with_the_figures(
    deploy: Deploy, api: FakeApi, pair: tuple[FakeServer, FakeServer]
) -> None:
    def slowly(call: Any) -> dict[str, Any]:
        time.sleep(1.5)
        return cells([6] * len(call.files))

    pair[1].fake.on_cells = slowly
    result = promote(deploy, pair, "--golden-cells", "2", "--latency-requests", "2", "--max-p99-ratio", "1.01")
    assert result.exit_code == 3
    assert "times the running version's" in result.output
    assert live(api) == f"isvc.{LINE}-predictor"


@pytest.mark.usefixtures("candidate")
def test_other_classes_are_refused(deploy: Deploy, pair: tuple[FakeServer, FakeServer]) -> None:
    pair[1].fake.info["classes"] = list(reversed(pair[1].fake.info["classes"]))
    result = promote(deploy, pair)
    assert result.exit_code == 3
    assert "other classes" in result.output


@pytest.mark.usefixtures("candidate")
def test_a_candidate_without_a_site_that_is_served_is_refused(
    deploy: Deploy, pair: tuple[FakeServer, FakeServer]
) -> None:
    sites = [{"site": name} for name in ("home", "north", "ward 7")]
    pair[0].fake.info["sites"], pair[1].fake.info["sites"] = sites, sites[:2]
    result = promote(deploy, pair)
    assert result.exit_code == 3
    assert "no calibration of ward 7, which the running version has" in result.output
    pair[0].fake.info["sites"], pair[1].fake.info["sites"] = sites[:2], sites
    assert promote(deploy, pair).exit_code == 0, "a new site is no loss"


@pytest.mark.usefixtures("candidate")
def test_other_reasons_count_although_every_drawn_cell_is_unfamiliar(
    deploy: Deploy, pair: tuple[FakeServer, FakeServer]
) -> None:
    """Every golden cell is referred, so the decision alone would agree with any threshold."""

    def referred(call: Any, reasons: str) -> dict[str, Any]:
        return cells([6] * len(call.files), dict.fromkeys(range(len(call.files)), reasons))

    pair[0].fake.on_cells = lambda call: referred(call, "unfamiliar_image")
    pair[1].fake.on_cells = lambda call: referred(call, "unfamiliar_image,low_confidence")
    result = promote(deploy, pair)
    assert result.exit_code == 3
    assert "0 of 10 decisions agree" in result.output
    pair[1].fake.on_cells = pair[0].fake.on_cells
    assert promote(deploy, pair).exit_code == 0


@pytest.mark.usefixtures("candidate")
def test_a_candidate_that_is_away_is_named(deploy: Deploy, pair: tuple[FakeServer, FakeServer]) -> None:
    pair[1].stop()
    result = promote(deploy, pair)
    assert result.exit_code == 3
    assert "the candidate cannot be checked" in result.output


@pytest.mark.usefixtures("candidate")
def test_comparing_a_server_with_itself_is_refused(deploy: Deploy, pair: tuple[FakeServer, FakeServer]) -> None:
    assert promote(deploy, (pair[0], pair[0])).exit_code == 2


def test_the_golden_set_is_marked_as_synthetic_and_covers_every_class() -> None:
    golden = golden_set()
    assert len(golden.cells) == 8 * (6 + 3)
    assert len({cell.name.split("-")[0] for cell in golden.cells}) == 8
    assert len({cell.data for cell in golden.cells}) == len(golden.cells)
    assert all(is_synthetic(cell.data) for cell in golden.cells)
    assert golden.first(16).sha256 != golden.sha256


def test_nearest_rank() -> None:
    assert checks.percentile_99([float(n) for n in range(1, 101)]) == 99
    assert checks.percentile_99([3.0, 1.0]) == 3


@pytest.mark.integration
def test_the_real_triton_agrees_with_itself_and_not_with_a_fake(triton_url: str) -> None:
    from cytoserve_client import Client

    few, limits = golden_set().first(8), checks.Limits(requests=2, p99_ratio=1000)
    with Client(triton_url) as running, Client(triton_url) as again, FakeServer() as other, Client(other.url) as fake:
        same = checks.compare(running, again, few, limits)
        checks.require(same)
        assert (same.agreed, same.answered) == (8, 8)
        labels = {cell.label for cell in running.classify(list(few.cells), few.um_per_pixel).cells}
        assert len(labels) > 2
        with pytest.raises(errors.ChecksFailed, match="decisions agree"):
            checks.require(checks.compare(running, fake, few, limits))
