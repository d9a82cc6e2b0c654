"""Alerts, recording rules and dashboard: that they fire, that their metrics exist, that each alert has its runbook."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cytoserve_deploy.launch import local_server
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import cell_png
from cytoserve_scoring.classifier.familiarity import LEAST_CELLS, LEVEL
from cytoserve_scoring.serving import site
from cytoserve_scoring.serving.metrics import FAMILIES
from cytoserve_statistics.referral_band import WINDOW_CELLS
from scipy.stats import binom
from tritonclient import grpc

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "helm/cytoserve/files/rules").glob("*.yaml"))
CASES = sorted(Path(__file__).parent.glob("*.test.yaml"))
DASHBOARD = json.loads((ROOT / "helm/cytoserve/files/dashboards/cytoserve.json").read_text())
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")

NOT_HERE = {
    "nv_gpu_memory_used_bytes": "Triton, where there is a GPU",
    "nv_gpu_memory_total_bytes": "Triton, where there is a GPU",
    "nv_gpu_utilization": "Triton, where there is a GPU",
    "up": "Prometheus itself",
    "ALERTS": "Prometheus itself",
}
"""Metrics the rules may use that the local server cannot export, and who does."""

SUMMARY_FLAGS = ["--metrics-config=summary_latencies=true", "--metrics-config=summary_quantiles=0.5:0.05,0.99:0.001"]
"""What the container's entry gives Triton, by docs/runbook.md, so that it exports percentiles."""


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def bands() -> dict[str, float]:
    """Return the limit of each band, from its expression ``vector(LIMIT)``."""
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    return {name: float(expr[7:-1]) for name, expr in recorded.items() if name.startswith("cytoserve:band:")}


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not here; on Debian: apt-get install prometheus")
    return found


def expressions() -> Iterator[str]:
    """Yield every PromQL expression of rules and dashboard."""
    yield from (str(rule["expr"]) for rule in rules())
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    yield from (note["expr"] for note in DASHBOARD["annotations"]["list"])


def metric_names(expression: str) -> set[str]:
    """Return the metrics an expression reads: identifiers that are no function, keyword or label."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]", " ", expression)
    bare = re.sub(r"\b(by|on|ignoring|group_left|group_right|without)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])", bare)
    return (
        set(words)
        - {"or", "and", "unless", "offset", "sum", "max", "by", "on", "bool"}
        - set(re.findall(r"\d+[smhdw]", bare))
        - {"d"}
    )


def test_the_reader_of_expressions_reads_them() -> None:
    text = 'sum by (a) (rate(x_total{b="y_total"}[5m] offset 1d)) / on () group_left () (c:d:e > 0) or vector(0)'
    assert metric_names(text) == {"x_total", "c:d:e"}


def test_rules_and_their_unit_tests_hold() -> None:
    tool = promtool()
    for command in (["check", "rules", *map(str, RULES)], ["test", "rules", *map(str, CASES)]):
        done = subprocess.run([tool, *command], capture_output=True, text=True, cwd=CASES[0].parent, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_alert_is_caught(tmp_path: Path) -> None:
    """Positive control: with every limit doubled the unit tests must fail."""
    tool = promtool()
    for path in RULES:
        text = re.sub(r"vector\((0?\.?\d+)\)", lambda m: f"vector({float(m[1]) * 2})", path.read_text())
        (tmp_path / path.name).write_text(text)
    case = tmp_path / CASES[-1].name
    case.write_text(CASES[-1].read_text().replace("../../helm/cytoserve/files/rules/", ""))
    done = subprocess.run([tool, "test", "rules", str(case)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "CytoServeSlow" in done.stdout + done.stderr


def test_every_alert_is_tested_to_fire() -> None:
    fired = set(re.findall(r'labels: .*alertname="(\w+)"', "".join(path.read_text() for path in CASES)))
    assert fired == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_runbook_section_that_says_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    page, anchor = alert["annotations"]["runbook_url"].split("#")
    assert (page, anchor) == ("docs/runbook.md", name.lower())
    sections = {title.lower(): body for title, body in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)}
    assert all(f"**{part}**" in sections[anchor] for part in ("Means", "Look at", "Do"))
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"]["summary"]


def test_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^## (CytoServe\w+)", RUNBOOK, re.M)) == set(ALERTS)


def test_runbook_lists_our_metrics_and_bands_as_they_are() -> None:
    rows = dict(re.findall(r"^\| `(cytoserve_\w+)` \| (\w+) \|", RUNBOOK, re.M))
    assert rows == {family.name: family.kind for family in FAMILIES}
    for family in FAMILIES:
        row = next(line for line in RUNBOOK.splitlines() if line.startswith(f"| `{family.name}` "))
        assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == set(family.labels)
    for name, value in bands().items():
        stem = name.removesuffix("_min") if name.endswith("ratio_min") else name
        line = next(line for line in RUNBOOK.splitlines() if f"| `{stem}" in line)
        assert value in [float(number) for number in line.split("|")[2].split(",")], name


def test_bands_on_answers_follow_from_the_committed_results() -> None:
    """The arithmetic of docs/runbook.md, "Bands": binomial quantiles for a quarter of the window's cells."""
    scoring = json.loads((ROOT / "models/reference/scoring/scoring.json").read_text())
    level = scoring.get("anomaly_level", 0.05)
    # The highest level of any site: that of the fewest calibration cells that make a reference.
    unfamiliar = max(LEVEL, 1 / (LEAST_CELLS + 1))
    band = bands()
    cells = band["cytoserve:band:cells_min"] / 4

    def upper(probability: float, expected: float) -> float:
        return float(binom.isf(probability, cells, expected) / cells)

    assert band["cytoserve:band:unfamiliar_ratio_max"] == math.ceil(100 * upper(0.001, unfamiliar)) / 100
    assert band["cytoserve:band:anomaly_ratio_max"] == math.ceil(100 * upper(0.001, level)) / 100
    assert (
        band["cytoserve:band:p_value_distance_max"]
        == math.ceil(100 * max(upper(0.0005, at) - at for at in (0.1, 0.5))) / 100
    )
    assert f"1 / {LEAST_CELLS + 1} = {unfamiliar:.3f}" in RUNBOOK


def test_no_constant_limits_the_share_referred() -> None:
    """Each site's own calibration does: a constant was wrong for every site but one."""
    assert not [name for name in bands() if "referral" in name]
    assert bands()["cytoserve:band:cells_min"] == WINDOW_CELLS, "the window that a calibration's band is made for"
    assert re.findall(r"\d\.\d+", ALERTS["CytoServeReferralRateOutsideBand"]["expr"]) == []
    assert "cytoserve_expected_referral_ratio" in "".join(
        str(rule["expr"]) for rule in rules() if rule.get("record") == "cytoserve:expected_referral:ratio"
    )


ANSWERS = next(
    group["rules"]
    for path in RULES
    for group in yaml.safe_load(path.read_text())["groups"]
    if group["name"] == "cytoserve-alerts-answers"
)


@pytest.mark.parametrize("rule", ANSWERS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_on_answers_names_its_site(rule: dict[str, Any]) -> None:
    assert "{{ $labels.site }}" in rule["annotations"]["summary"]


def test_panels_do_not_lie_on_each_other() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(places)


def a_site() -> str:
    """Return a calibration: the model's own under another name. Only a site's tells a band to export."""
    scoring = json.loads((ROOT / "model_repository/scorer/1/scoring.json").read_text())
    service = json.loads((ROOT / "model_repository/service_info/1/service.json").read_text())
    document = {
        **{key: scoring[key] for key in site.FITTED if key in scoring},
        "schema": site.SCHEMA,
        "site": "north",
        "weights_sha256": service["weights_sha256"],
        "procedure_sha256": site.procedure_sha256(scoring),
        "expected_referral": {"value": 0.2, "low": 0.1, "high": 0.3, "cells": 400},
    }
    return json.dumps({**document, "content_sha256": site.content_sha256(document)})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names that the real local Triton exports, with percentiles switched on, after a first cell and a first field."""
    original = local_server.triton_arguments
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "north.json").write_text(a_site())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(site.CALIBRATION_ENV, str(folder))
        patch.setattr(local_server, "triton_arguments", lambda *args: [*original(*args), *SUMMARY_FLAGS])
        with LocalServer(model_repository=ROOT / "model_repository") as server:
            field = (ROOT / "examples/synthetic_field.png").read_bytes()
            with grpc.InferenceServerClient(server.grpc_url) as client:
                for model, picture, um_per_pixel in (("cell_analysis", cell_png(), 0.18), ("smear_analysis", field, 0)):
                    image = grpc.InferInput("IMAGE", [1], "BYTES")
                    image.set_data_from_numpy(np.array([picture], dtype=np.object_))
                    scale = grpc.InferInput("UM_PER_PIXEL", [1], "FP32")
                    scale.set_data_from_numpy(np.array([um_per_pixel], np.float32))
                    client.infer(model, [image, scale], parameters={"budget": 1})
            with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
                text = answer.read().decode()
    return set(re.findall(r"^(\w+)[{ ]", text, re.M))


@pytest.mark.integration
def test_every_metric_used_is_exported_recorded_or_listed(exported: set[str]) -> None:
    used = set().union(*map(metric_names, expressions()))
    assert len(used) > 30, "the expressions were not read"
    assert used - exported - RECORDED - set(NOT_HERE) == set()
    for name in set(NOT_HERE) - {"ALERTS"}:
        assert f"`{name}`" in RUNBOOK, "what is not here is documented"


@pytest.mark.integration
def test_list_of_absent_metrics_is_not_an_excuse(exported: set[str]) -> None:
    assert not exported & set(NOT_HERE)
