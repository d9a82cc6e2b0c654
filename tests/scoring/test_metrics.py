"""What is counted, away from Triton (tests/integration/test_metrics_on_triton.py counts on the real one)."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cytoserve_scoring.classifier.running_test import RunningTest
from cytoserve_scoring.errors import DeadlineExceeded, NotAnImage
from cytoserve_scoring.serving import metrics
from cytoserve_scoring.serving.metrics import FAMILIES, Meter, error_codes, expected, found, images, scored, watched
from cytoserve_scoring.serving.site import ReferralBand

CLASSES = ("basophil", "monocyte")
SITE = "ward 7"
BAND = ReferralBand(0.2, 0.1, 0.35, 400)


def scores() -> Any:
    """Three scored cells and one that was not; one has no p-value."""
    return SimpleNamespace(
        label=np.array([0, 1, 1, -1], np.int32),
        posterior=np.array([[0.9, 0.1], [0.4, 0.6], [0.0, 1.0], [np.nan, np.nan]], np.float32),
        anomaly=np.array([[1, 0.5, 9], [1, np.nan, np.nan], [1, 0.01, 99], [np.nan, np.nan, np.nan]], np.float32),
        domain=np.array([[1, 0.5, 0.6, 200], [9, 0.001, 0.005, 200], [np.nan] * 4, [9, 0.001, 0.005, 200]], np.float32),
        decision=np.array([0, 1, 1, 1], np.uint8),
        reasons=["", "near_tie,ambiguous", "near_tie", "poor_image"],
        evaluations=np.array([8, 16, 8, 0], np.int32),
    )


def of(family: metrics.Family, changes: list[metrics.Change]) -> list[tuple[metrics.Labels, float]]:
    return [(change.labels, change.value) for change in changes if change.family == family]


def test_scores_are_counted_cell_by_cell() -> None:
    changes = list(scored(scores(), CLASSES, SITE))
    assert dict(of(metrics.CELLS, changes)) == {
        (SITE, "basophil", "accept"): 1,
        (SITE, "monocyte", "review"): 2,
        (SITE, "none", "review"): 1,
    }
    assert dict(of(metrics.REASONS, changes)) == {
        (SITE, "near_tie"): 2,
        (SITE, "ambiguous"): 1,
        (SITE, "poor_image"): 1,
    }
    assert of(metrics.EVALUATIONS, changes) == [((), 32)]
    assert [v for _, v in of(metrics.CONFIDENCE, changes)] == pytest.approx([0.9, 0.6, 1.0])
    assert [v for _, v in of(metrics.P_VALUES, changes)] == pytest.approx([0.5, 0.01])
    # Of scored cells that have one; a black crop says nothing about a site's pictures.
    assert [v for _, v in of(metrics.FAMILIARITY, changes)] == pytest.approx([0.6, 0.005])
    for family in (metrics.CONFIDENCE, metrics.P_VALUES, metrics.FAMILIARITY):
        assert {labels for labels, _ in of(family, changes)} == {(SITE,)}


def test_the_running_test_sees_the_pictures_of_scored_cells() -> None:
    test, alone = RunningTest(), RunningTest()
    alone.update(np.array([0.6, 0.005], np.float32), np.array([200, 200]))
    changes = list(watched(test, scores(), SITE, "scorer_1"))
    assert of(metrics.RUNNING_TEST, changes) == [((SITE, "scorer_1"), alone.evidence)]
    assert alone.evidence > 0
    assert of(metrics.ALARMS, changes) == []
    raised = [of(metrics.ALARMS, list(watched(test, scores(), SITE, "scorer_1"))) for _ in range(60)]
    assert sum(value for found in raised for _, value in found) == 1
    assert [found for found in raised if found] == [[((SITE,), 1)]]


def test_what_a_calibration_expects_is_told_once_it_is_known() -> None:
    assert list(expected(None, SITE)) == []
    assert dict(of(metrics.EXPECTED_REFERRAL, list(expected(BAND, SITE)))) == {
        (SITE, "value"): 0.2,
        (SITE, "low"): 0.1,
        (SITE, "high"): 0.35,
    }


def test_no_cells_change_nothing() -> None:
    empty = SimpleNamespace(
        label=np.zeros(0, np.int32),
        posterior=np.zeros((0, 3), np.float32),
        anomaly=np.zeros((0, 2), np.float32),
        domain=np.zeros((0, 4), np.float32),
        decision=np.zeros(0, np.uint8),
        reasons=[],
        evaluations=np.zeros(0, np.int32),
    )
    assert list(scored(empty, CLASSES, SITE)) == []
    test = RunningTest()
    assert of(metrics.RUNNING_TEST, list(watched(test, empty, SITE, "scorer_0"))) == [((SITE, "scorer_0"), 0.0)]


def test_field_and_images() -> None:
    changes = list(found(np.array([1, 1, 0], np.uint8), ("white_cell", "red_cell"), "caller"))
    assert dict(of(metrics.FIELDS, changes)) == {("caller",): 1}
    assert dict(of(metrics.FOUND, changes)) == {("red_cell",): 2, ("white_cell",): 1}
    changes = list(images("cell_decoder", ["", NotAnImage("send a PNG").wire(), ""]))
    assert dict(of(metrics.IMAGES, changes)) == {("cell_decoder", "accepted"): 2, ("cell_decoder", "not_an_image"): 1}


def test_names_follow_prometheus_conventions() -> None:
    """https://prometheus.io/docs/practices/naming/: prefix, base unit or thing counted, counters end in _total."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert re.fullmatch(r"cytoserve_[a-z][a-z_]*", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert bool(family.buckets) == (family.kind == "histogram")
        assert list(family.buckets) == sorted(set(family.buckets))


def test_error_codes_are_those_of_the_contract() -> None:
    """All of them and no other: a code without its series from the start is missed by an alert's ``rate()``."""
    told = "bad_parameter bad_scale bad_shape deadline empty internal not_an_image too_many_bytes too_many_pixels"
    assert error_codes() == (*told.split(), "too_small", "truncated", "unavailable", "unsupported_mode")


class Ledger:
    """What Triton's ``pb_utils`` offers, writing down what is asked of it; `fail` makes a call raise."""

    def __init__(self, fail: str = "") -> None:
        self.totals: Counter[str] = Counter()
        ledger = self

        class MetricFamily:
            COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

            def __init__(self, name: str, description: str, kind: str) -> None:
                if fail == "family":
                    raise RuntimeError("metrics are not enabled")
                self.name, self.kind = name, kind

            def Metric(self, labels: dict[str, str], **options: Any) -> Any:
                assert ("buckets" in options) == (self.kind == "histogram")

                def change(value: float) -> None:
                    if fail == "change":
                        raise ValueError("the server has gone")
                    ledger.totals[self.name] += value

                return SimpleNamespace(increment=change, set=change, observe=change)

        self.MetricFamily = MetricFamily


def use(meter: Meter) -> None:
    meter.prepare_cells(CLASSES, SITE, BAND)
    meter.scored(scores(), CLASSES, SITE)
    test = RunningTest(bound=1.5)  # the second cell raises an alarm
    meter.watched(test, scores(), SITE, "scorer_0")
    meter.round()
    meter.found(np.array([0], np.uint8), ("white_cell",), "caller")
    meter.images([""])
    meter.refused(DeadlineExceeded("late"), cancelled=True)
    meter.memory()


def test_meter_changes_every_family() -> None:
    ledger, said = Ledger(), []
    use(Meter("scorer", ledger, said.append))
    assert set(ledger.totals) == {family.name for family in FAMILIES}
    assert said == []


@pytest.mark.parametrize("fail", ["family", "change"])
def test_failing_metrics_are_told_once_and_fail_nothing(fail: str) -> None:
    said: list[str] = []
    meter = Meter("scorer", Ledger(fail), said.append)
    use(meter)
    use(meter)
    meter.close()
    assert len(said) == 1
    assert "requests go on" in said[0]


def test_answers_that_cannot_be_counted_fail_nothing() -> None:
    said: list[str] = []
    Meter("scorer", Ledger(), said.append).scored(None, CLASSES, SITE)  # type: ignore[arg-type]
    assert len(said) == 1
    Meter("scorer", Ledger(), said.append).watched(RunningTest(), None, SITE, "scorer_0")  # type: ignore[arg-type]
    assert len(said) == 2


def test_image_block_counts_its_outcome_and_hands_the_error_on() -> None:
    ledger = Ledger()
    meter = Meter("field_decoder", ledger, lambda text: pytest.fail(text))
    with meter.image():
        pass
    with pytest.raises(NotAnImage), meter.image():
        raise NotAnImage("text")
    with pytest.raises(DeadlineExceeded), meter.image():
        raise DeadlineExceeded("says nothing about the image")
    assert ledger.totals["cytoserve_images_total"] == 2
