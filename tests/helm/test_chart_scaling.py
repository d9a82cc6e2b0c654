"""The simulated autoscaling rule is the chart's, the simulated queue obeys theory, docs/scale.md has its figures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from chart import Helm

from benchmarks import figures
from benchmarks.scale import FIELDS, Day, Laboratory, Rule, Scenario, scenarios

SAME_ALL_DAY = (1.0,) * 24


def rendered(helm: Helm, *files: str, **values: Any) -> Rule:
    """Return the rule of a rendered ScaledObject."""
    spec = helm.one("ScaledObject", *files, **values)["spec"]
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    (policy,) = down["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert "scaleUp" not in spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"], "the HPA's defaults"
    (trigger,) = spec["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["query"].startswith("sum(sum by (pod) (nv_inference_pending_request_count{")
    return Rule(
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
        float(trigger["metadata"]["threshold"]),
        spec["pollingInterval"],
        down["stabilizationWindowSeconds"],
        policy["periodSeconds"],
    )


def test_the_simulated_rule_is_the_one_that_the_chart_renders(helm: Helm) -> None:
    assert rendered(helm, "values-a10.yaml") == Rule()
    assert rendered(helm, "values-a10.yaml", autoscaling__maxReplicas=24) == Rule(max_replicas=24)
    assert {scenario.rule for scenario in scenarios()} == {Rule(), Rule(max_replicas=24)}


@pytest.mark.parametrize(
    ("waiting", "replicas", "wanted"),
    [(0, 4, 2), (16, 4, 4), (17.5, 4, 4), (17.7, 4, 5), (14.4, 4, 4), (14.3, 4, 4), (9, 4, 3), (500, 2, 6), (23, 1, 5)],
)
def test_the_rule_answers_as_the_hpa_does(waiting: float, replicas: int, wanted: int) -> None:
    """Average value of an external metric, tolerance 0.1, at most four pods or twice as many at once."""
    assert Rule().desired(waiting, replicas) == wanted


def test_waiting_follows_pollaczek_and_khinchine() -> None:
    """One replica, one field a slide, random arrivals: mean waiting is known for any distribution of service times."""
    fields = {
        "seconds_per_field_median": 0.335,
        "seconds_per_field_p95": 0.66,
        "fields": 1,
        "cells_found": {"white_cell": 1},
    }
    sigma = math.log(0.66 / 0.335) / 1.6449
    mean, square = 0.335 * math.exp(sigma**2 / 2), 0.335**2 * math.exp(2 * sigma**2)
    load = 0.7
    slides = round(86400 * load / mean)
    laboratory = Laboratory(slides=slides, cells=1, in_flight=1, stat_share=0, hours=SAME_ALL_DAY)
    day = Day(laboratory, Scenario("theory", Rule(1, 1)), fields, seed=7)
    day.run()
    expected = slides / 86400 * square / (2 * (1 - load))
    assert np.mean(day.waits) == pytest.approx(expected, rel=0.05)


def test_stat_goes_first_and_a_limit_that_is_too_low_leaves_routine_waiting() -> None:
    measured = json.loads(FIELDS.read_text(encoding="utf-8"))
    fields = {**measured, "seconds_per_field_median": 0.335, "seconds_per_field_p95": 0.66}
    small = Laboratory(slides=400, in_flight=4, stat_share=0.1)
    tight = Day(small, Scenario("tight", Rule(1, 1), speed=0.5), fields).run()
    wide = Day(small, Scenario("wide", Rule(1, 12), speed=0.5), fields).run()
    assert tight["slides_answered"] == wide["slides_answered"] == 400
    assert tight["stat_slide_p95_s"] < tight["slide_p50_s"]
    assert wide["slide_p95_s"] < tight["slide_p95_s"]
    assert max(wide["replicas_by_hour"]) > max(tight["replicas_by_hour"]) == 1


def test_the_page_holds_the_figures_of_the_result() -> None:
    found = figures.read("scale")
    assert figures.scale() in (figures.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    kept = [{key: item[key] for key in asdict(scenarios()[0])} for item in found["scenarios"]]
    assert kept == [asdict(scenario) for scenario in scenarios()]
    assert found["laboratory"] == json.loads(json.dumps(asdict(Laboratory())))
