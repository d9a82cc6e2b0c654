"""What is counted, away from Triton (tests/integration/test_metrics_on_triton.py counts on the real one)."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cytoserve_scoring.errors import DeadlineExceeded, NotAnImage
from cytoserve_scoring.serving import metrics
from cytoserve_scoring.serving.metrics import FAMILIES, Meter, error_codes, found, images, scored

CLASSES = ("basophil", "monocyte")


def scores() -> Any:
    """Three scored cells and one that was not; one has no p-value."""
    return SimpleNamespace(
        label=np.array([0, 1, 1, -1], np.int32),
        posterior=np.array([[0.9, 0.1], [0.4, 0.6], [0.0, 1.0], [np.nan, np.nan]], np.float32),
        anomaly=np.array([[1, 0.5], [1, np.nan], [1, 0.01], [np.nan, np.nan]], np.float32),
        decision=np.array([0, 1, 1, 1], np.uint8),
        reasons=["", "near_tie,ambiguous", "near_tie", "poor_image"],
        evaluations=np.array([8, 16, 8, 0], np.int32),
    )


def of(family: metrics.Family, changes: list[metrics.Change]) -> list[tuple[metrics.Labels, float]]:
    return [(change.labels, change.value) for change in changes if change.family == family]


def test_scores_are_counted_cell_by_cell() -> None:
    changes = list(scored(scores(), CLASSES))
    assert dict(of(metrics.CELLS, changes)) == {
        ("basophil", "accept"): 1,
        ("monocyte", "review"): 2,
        ("none", "review"): 1,
    }
    assert dict(of(metrics.REASONS, changes)) == {("near_tie",): 2, ("ambiguous",): 1, ("poor_image",): 1}
    assert of(metrics.EVALUATIONS, changes) == [((), 32)]
    assert [v for _, v in of(metrics.CONFIDENCE, changes)] == pytest.approx([0.9, 0.6, 1.0])
    assert [v for _, v in of(metrics.P_VALUES, changes)] == pytest.approx([0.5, 0.01])


def test_no_cells_change_nothing() -> None:
    empty = SimpleNamespace(
        label=np.zeros(0, np.int32),
        posterior=np.zeros((0, 2), np.float32),
        anomaly=np.zeros((0, 2), np.float32),
        decision=np.zeros(0, np.uint8),
        reasons=[],
        evaluations=np.zeros(0, np.int32),
    )
    assert list(scored(empty, CLASSES)) == []


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
    meter.prepare_cells(CLASSES)
    meter.scored(scores(), CLASSES)
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
    Meter("scorer", Ledger(), said.append).scored(None, CLASSES)  # type: ignore[arg-type]
    assert len(said) == 1


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
