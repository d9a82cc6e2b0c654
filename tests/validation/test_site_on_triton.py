"""Calibrate on the real Triton, restart it with the file, and see the file's own numbers in force.

Nothing here depends on how good the served weights are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cytoserve_cli.main import app
from cytoserve_client import CellsAnalysis, Client
from cytoserve_deploy.errors import DeployError
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.classifier.settings import ScoringConfig
from cytoserve_scoring.serving import site
from scipy import special
from typer.testing import CliRunner

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
UM_PER_PIXEL = 0.18
BUDGET = 2
OTHER_BUDGET = 3
SITE = "test"


@pytest.fixture(scope="module")
def few_cells(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real cells of every class: 48, of which a reference of familiar pictures can be made."""
    folder = tmp_path_factory.mktemp("labelled") / "cells"
    for source in sorted((data_dir / "pbc" / "val").iterdir()):
        (folder / source.name).mkdir(parents=True)
        for path in sorted(source.iterdir())[:6]:
            shutil.copy(path, folder / source.name)
    return folder


@pytest.fixture(scope="module")
def made(triton_url: str, few_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration with the laxest promise, so that some threshold is in it, in a folder of its own."""
    to = tmp_path_factory.mktemp("calibration") / "site.json"
    words = ["calibrate", few_cells, "--site", SITE, "--to", to, "--url", triton_url, "--budget", BUDGET]
    words += ["--um-per-pixel", UM_PER_PIXEL, "--tolerated-error", 0.9, "--confidence", 0.5]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return to


def asked(url: str, folder: Path, budget: int | None = None) -> CellsAnalysis:
    with Client(url, timeout=240) as client:
        return client.classify(sorted(folder.rglob("*.webp")), UM_PER_PIXEL, budget=budget, site=SITE, one_sample=False)


def test_the_server_started_with_the_file_uses_its_numbers(
    made: Path, few_cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(made.read_text())
    temperature, threshold = document["temperature"][BUDGET - 1], document["accept_threshold"][BUDGET - 1]
    assert threshold is not None
    monkeypatch.setenv(site.CALIBRATION_ENV, str(made.parent))
    with LocalServer(model_repository=REPOSITORY) as server:
        usual, other = asked(server.grpc_url, few_cells), asked(server.grpc_url, few_cells, OTHER_BUDGET)
    classes = usual.model.classes
    for cell in usual.cells:
        assert cell.scores is not None
        assert cell.probability is not None
        assert cell.evaluations is not None
        # The budget of the file is the default now.
        assert cell.evaluations <= BUDGET * len(classes)
        scores = np.array([cell.scores[name] for name in classes])
        expected = special.softmax(-scores / temperature)
        assert np.allclose([cell.probability[name] for name in classes], expected, atol=2e-3)
        top = max(cell.probability.values())
        if abs(top - threshold) > 1e-5:
            assert ("low_confidence" in cell.reasons) == (top < threshold)
        assert "not_calibrated" not in cell.reasons
    assert any("low_confidence" not in cell.reasons for cell in usual.cells)
    # A budget that the file did not measure accepts nothing and says why.
    assert all({"not_calibrated", "low_confidence"} <= set(cell.reasons) for cell in other.cells)


def test_the_file_differs_from_what_the_model_brings(made: Path) -> None:
    """Without this the test above could pass on the model's own numbers."""
    own = ScoringConfig.from_json(json.loads((REPOSITORY / "scorer" / "1" / "scoring.json").read_text()))
    document = json.loads(made.read_text())
    assert document["temperature"][BUDGET - 1] != pytest.approx(own.at(BUDGET).temperature, rel=1e-3)
    assert document["default_budget"] != own.default_budget


@pytest.mark.parametrize(
    ("change", "complaint"), [("model", "was made for the weights"), ("hand", "was changed after")]
)
def test_a_file_of_another_model_or_edited_by_hand_stops_the_start(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, complaint: str
) -> None:
    document = json.loads(made.read_text())
    if change == "model":
        document["weights_sha256"] = "0" * 64
        document["content_sha256"] = site.content_sha256(document)
    else:
        document["accept_threshold"][BUDGET - 1] = 0.0
    (tmp_path / "site.json").write_text(json.dumps(document))
    monkeypatch.setenv(site.CALIBRATION_ENV, str(tmp_path))
    with pytest.raises(DeployError, match=complaint), LocalServer(model_repository=REPOSITORY, warm_up=False):
        pass
