"""What this service counts for Prometheus, and how a Python model counts it.

`FAMILIES` describes every metric of ours once: name, kind, labels, unit. `Meter` turns what happened in one request
into changes of those metrics. It imports no Triton: the model's adapter gives it ``pb_utils`` (or anything with a
``MetricFamily`` like it).

What Triton 2.51 does with them, verified by ``tests/integration/test_metrics_on_triton.py`` on the real server:
COUNTER, GAUGE and HISTOGRAM exist; a family and a metric of the same name and labels are one series of the whole
server, so the changes of all processes (instances of a model, and other models) add up, and the last `set` of a gauge
counts. One change travels from the model's process to the server in 0.1 to 0.3 ms, which is why counters are summed
over a request first; a histogram cannot be summed and costs one change a cell.

Source of the interface: Triton's ``python_backend`` README, "Custom Metrics".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from cytoserve_contract.codes import ErrorCode, code_in
from cytoserve_contract.image_statistics import DOMAIN_COLUMNS
from cytoserve_contract.reasons import Reason
from cytoserve_contract.values import DECISIONS
from numpy.typing import NDArray

from cytoserve_scoring.classifier.running_test import RunningTest
from cytoserve_scoring.classifier.scores import CellScores
from cytoserve_scoring.errors import BadScale, CytoserveError, DeadlineExceeded, InvalidImage
from cytoserve_scoring.serving.site import ReferralBand

Kind = Literal["counter", "gauge", "histogram"]
SHARED_MEMORY: Final = "/dev/shm"  # where Triton and the Python models exchange tensors
ACCEPTED: Final = "accepted"
CANCELLED: Final = "cancelled"
NOT_SCORED: Final = "none"
P_VALUE_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
P_VALUE_OF_KIND, CELLS_OF_KIND = (tuple(DOMAIN_COLUMNS).index(name) for name in ("p_value_of_kind", "cells_of_kind"))
"""Columns of `DOMAIN`."""


@dataclass(frozen=True)
class Family:
    """One metric: its name on the wire, what it is, and the labels its series carry."""

    name: str
    """Prometheus name; a counter ends in ``_total``, a unit stands in the name where there is one."""
    kind: Kind
    help: str
    """Sentence that is exported as ``# HELP``."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram, ascending; ``+Inf`` is Triton's to add."""


CELLS: Final = Family(
    "cytoserve_cells_total",
    "counter",
    "Cells answered by the scorer, by site, class (none: not scored) and decision (accept, review)",
    ("site", "class", "decision"),
)
REASONS: Final = Family(
    "cytoserve_review_reasons_total",
    "counter",
    "Reasons for review given; a cell may have several",
    ("site", "reason"),
)
EVALUATIONS: Final = Family(
    "cytoserve_evaluations_total", "counter", "Passes of the denoiser for one (cell, probe, class)"
)
ROUNDS: Final = Family(
    "cytoserve_rounds_total", "counter", "Batches of rows that the engine asked for one after the other"
)
CONFIDENCE: Final = Family(
    "cytoserve_confidence_ratio",
    "histogram",
    "Posterior of the best class of scored cells, 0 to 1",
    ("site",),
    buckets=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0),
)
P_VALUES: Final = Family(
    "cytoserve_anomaly_p_value",
    "histogram",
    "Conformal anomaly p-value of scored cells, 0 to 1; even over 0 to 1 on cells like those calibrated on",
    ("site",),
    buckets=P_VALUE_BUCKETS,
)
FAMILIARITY: Final = Family(
    "cytoserve_familiarity_p_value",
    "histogram",
    "Conformal p-value of the pictures of scored cells among their kind, 0 to 1; even over 0 to 1 on familiar ones",
    ("site",),
    buckets=P_VALUE_BUCKETS,
)
RUNNING_TEST: Final = Family(
    "cytoserve_running_test_ratio",
    "gauge",
    "Evidence that the cells of a site are unfamiliar, over that of an alarm, on a log scale; 1 and more is an alarm",
    ("site", "scorer"),
)
ALARMS: Final = Family(
    "cytoserve_running_test_alarms_total",
    "counter",
    "Alarms of the running test, which compares the cells of a site as they come with those calibrated on",
    ("site",),
)
EXPECTED_REFERRAL: Final = Family(
    "cytoserve_expected_referral_ratio",
    "gauge",
    "Share of cells referred that the calibration of a site expects, and the band (low, high) around it",
    ("site", "bound"),
)
IMAGES: Final = Family(
    "cytoserve_images_total",
    "counter",
    "Image files looked at by a decoder, by outcome: accepted, or the code of the refusal",
    ("model", "outcome"),
)
REFUSED: Final = Family(
    "cytoserve_requests_refused_total",
    "counter",
    "Requests that a Python model answered with an error, by its code; deadline and cancelled are codes too",
    ("model", "code"),
)
FIELDS: Final = Family(
    "cytoserve_fields_total", "counter", "Fields whose cells were looked for, by source of the scale", ("scale_source",)
)
FOUND: Final = Family("cytoserve_found_cells_total", "counter", "Cells found in fields, by kind", ("kind",))
MEMORY: Final = Family(
    "cytoserve_shared_memory_bytes", "gauge", "Shared memory of the server (/dev/shm), used and size", ("state",)
)

FAMILIES: Final = (
    *(CELLS, REASONS, EVALUATIONS, ROUNDS, CONFIDENCE, P_VALUES, FAMILIARITY),
    *(RUNNING_TEST, ALARMS, EXPECTED_REFERRAL),
    *(IMAGES, REFUSED, FIELDS, FOUND, MEMORY),
)
"""Every metric of ours; docs/runbook.md lists them and a test compares."""


def error_codes() -> tuple[str, ...]:
    """Return every code that a server may answer, sorted; the codes of refusals are of these."""
    return tuple(sorted(code.value for code in ErrorCode if code.is_servers))


Labels = tuple[str, ...]
"""Values of a family's labels, in its order."""


@dataclass(frozen=True)
class Change:
    """One change of one series: add to a counter, set a gauge, observe in a histogram."""

    family: Family
    labels: Labels
    value: float


def scored(scores: CellScores, classes: Sequence[str], site: str) -> Iterator[Change]:
    """Yield the changes that the scores of one request make; counters are summed over its cells."""
    names = [NOT_SCORED if label < 0 else classes[label] for label in scores.label]
    decisions = [DECISIONS[int(decision)] for decision in scores.decision]
    yield from _summed(CELLS, Counter((site, *pair) for pair in zip(names, decisions, strict=True)))
    reasons = (reason for text in scores.reasons for reason in text.split(",") if reason)
    yield from _summed(REASONS, Counter((site, reason) for reason in reasons))
    spent = int(scores.evaluations.sum())
    if spent:
        yield Change(EVALUATIONS, (), spent)
    rows = np.flatnonzero(np.asarray(scores.label) >= 0)
    for family, values in (
        (CONFIDENCE, scores.posterior[rows].max(axis=1, initial=0.0)),
        (P_VALUES, scores.anomaly[rows, 1]),
        (FAMILIARITY, scores.domain[rows, P_VALUE_OF_KIND]),
    ):
        # classes that were not offered, or p-values without a reference, are NaN and not counted
        yield from (Change(family, (site,), float(value)) for value in values[np.isfinite(values)])


def watched(test: RunningTest, scores: CellScores, site: str, scorer: str) -> Iterator[Change]:
    """Hand the cells of one request to the running test of their site, and yield what it says then."""
    rows = np.flatnonzero(np.asarray(scores.label) >= 0)  # where there is no picture, nothing is known of it
    raised = test.update(scores.domain[rows, P_VALUE_OF_KIND], scores.domain[rows, CELLS_OF_KIND])
    if raised:
        yield Change(ALARMS, (site,), raised)
    yield Change(RUNNING_TEST, (site, scorer), test.evidence)


def expected(band: ReferralBand | None, site: str) -> Iterator[Change]:
    """Yield the share of referrals that a site's calibration expects, with its band."""
    if band is not None:
        yield from (
            Change(EXPECTED_REFERRAL, (site, bound), value)
            for bound, value in (("value", band.value), ("low", band.low), ("high", band.high))
        )


def found(kinds: NDArray[np.uint8], kind_names: Sequence[str], scale_source: str) -> Iterator[Change]:
    """Yield the changes that one field makes: (N,) uint8 kinds of its cells, their names, ``SCALE_SOURCE``."""
    yield Change(FIELDS, (scale_source,), 1)
    yield from _summed(FOUND, Counter((kind_names[kind],) for kind in kinds))


def images(model: str, errors: Sequence[str]) -> Iterator[Change]:
    """Yield the changes that the images of one request make; an error is empty or ``[cytoserve:<code>] text``."""
    outcomes = ((model, code_in(text) if text else ACCEPTED) for text in errors)
    yield from _summed(IMAGES, Counter(outcomes))


def shared_memory() -> Iterator[Change]:
    """Yield the fill of the shared memory, in bytes."""
    state = os.statvfs(SHARED_MEMORY)
    yield Change(MEMORY, ("used",), (state.f_blocks - state.f_bfree) * state.f_frsize)
    yield Change(MEMORY, ("size",), state.f_blocks * state.f_frsize)


def _summed(family: Family, counts: Counter[Any]) -> Iterator[Change]:
    return (Change(family, tuple(labels), count) for labels, count in counts.items())


class Meter:
    """Counts for one Python model. A failure in here never fails the request.

    Parameters
    ----------
    model : str
        Name of the model that counts.
    triton : module
        Triton's ``pb_utils``.
    report : callable
        Given one sentence when counting fails for the first time; after that this meter stops counting.
    """

    def __init__(self, model: str, triton: Any, report: Callable[[str], None]) -> None:
        self.model = model
        self._triton = triton
        self._report = report
        self._broken = False
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, Labels], Any] = {}

    def add(self, make: Callable[[], Iterator[Change]]) -> None:
        """Apply the changes that `make` yields; it is called in here so that its errors stay in here too."""
        if self._broken:
            return
        try:
            for change in make():
                series = self._of(change.family, change.labels)
                if change.family.kind == "counter":
                    series.increment(change.value)
                elif change.family.kind == "gauge":
                    series.set(change.value)
                else:
                    series.observe(change.value)
        except Exception as error:
            self._broken = True
            self._report(f"{self.model}: metrics stop here, requests go on ({type(error).__name__}: {error})")

    def scored(self, scores: CellScores, classes: Sequence[str], site: str) -> None:
        """Count the cells of one answer of the engine of a site."""
        self.add(lambda: scored(scores, classes, site))

    def watched(self, test: RunningTest, scores: CellScores, site: str, scorer: str) -> None:
        """Let the running test of a site, in one instance of the scorer, see the cells of one answer."""
        self.add(lambda: watched(test, scores, site, scorer))

    def round(self) -> None:
        """Count one batch of rows that the engine evaluated."""
        self.add(lambda: iter((Change(ROUNDS, (), 1),)))

    def found(self, kinds: NDArray[np.uint8], kind_names: Sequence[str], scale_source: str) -> None:
        """Count the cells of one field."""
        self.add(lambda: found(kinds, kind_names, scale_source))

    def images(self, errors: Sequence[str]) -> None:
        """Count the images of one request by outcome; see `images`."""
        self.add(lambda: images(self.model, errors))

    @contextmanager
    def image(self) -> Iterator[None]:
        """Count the one image that is decoded in the block: accepted if the block ends well, else by its error."""
        try:
            yield
        except (InvalidImage, BadScale) as error:
            self.images([error.wire()])
            raise
        self.images([""])

    def refused(self, error: BaseException, cancelled: bool = False) -> None:
        """Count a request by the code of its error, ``internal`` for one that is not ours.

        Where the caller had gone, a `DeadlineExceeded` counts as ``cancelled``.
        """
        code = error.code if isinstance(error, CytoserveError) else CytoserveError.code
        if cancelled and isinstance(error, DeadlineExceeded):
            code = CANCELLED
        self.add(lambda: iter((Change(REFUSED, (self.model, code), 1),)))

    def memory(self) -> None:
        """Record how full the shared memory is."""
        self.add(shared_memory)

    def prepare(self, family: Family, label_values: Sequence[Labels]) -> None:
        """Make series at zero before anything is counted, so that a first event is seen as a rise."""

        def make() -> Iterator[Change]:
            for labels in label_values:
                self._of(family, labels)
            return iter(())

        self.add(make)

    def prepare_cells(self, classes: Sequence[str], site: str, band: ReferralBand | None) -> None:
        """Make the series that count cells of these classes of a site, at zero, and tell what its calibration expects.

        A reason gets its series with its first cell: there are many, and most never come up at a site.
        """
        names = (*classes, NOT_SCORED)
        self.prepare(CELLS, [(site, name, decision) for name in names for decision in DECISIONS])
        self.prepare(REASONS, [(site, Reason.UNFAMILIAR_IMAGE.value)])  # an alert watches it
        for family in (CONFIDENCE, P_VALUES, FAMILIARITY, ALARMS):
            self.prepare(family, [(site,)])
        for family in (EVALUATIONS, ROUNDS):
            self.prepare(family, [()])
        self.add(lambda: expected(band, site))

    def close(self) -> None:
        """Release the series, then the families: the order that Triton requires."""
        self._series.clear()
        self._families.clear()

    def _of(self, family: Family, labels: Labels) -> Any:
        """Return the series, made on first use."""
        key = (family.name, labels)
        if key not in self._series:
            if family.name not in self._families:
                kinds = self._triton.MetricFamily
                self._families[family.name] = kinds(
                    name=family.name, description=family.help, kind=getattr(kinds, family.kind.upper())
                )
            options = {"buckets": list(family.buckets)} if family.kind == "histogram" else {}
            self._series[key] = self._families[family.name].Metric(
                labels=dict(zip(family.labels, labels, strict=True)), **options
            )
        return self._series[key]
