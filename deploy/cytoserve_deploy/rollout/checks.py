"""Checks before a candidate is promoted: the same decisions as the running version, about as fast.

Both classify the same golden set over gRPC (`golden`, or the site's own cells).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from cytoserve_client import TLS, Client, ServiceInfo
from cytoserve_client.errors import CytoserveClientError
from cytoserve_client.images import EncodedImage
from cytoserve_client.results import CellAnswer
from cytoserve_contract.reasons import Reason
from cytoserve_statistics.shares import clopper_pearson

from cytoserve_deploy.errors import ChecksFailed, ObjectRefused
from cytoserve_deploy.rollout.golden import GoldenSet

UNFAMILIAR: Final = frozenset({Reason.UNFAMILIAR_IMAGE.value, Reason.UNFAMILIAR_SAMPLE.value})


@dataclass(frozen=True)
class Limits:
    """What is tolerated.

    ``agreement`` is the least share of cells that are decided alike (label, decision, and whether there is a reason for
    review besides an unfamiliar picture), 0 to 1; ``p99_ratio`` the largest ratio of the 99th percentiles of latency,
    candidate to running version; ``requests`` the single cells timed on each side (a 99th percentile of less than 100
    is their maximum).
    """

    agreement: float = 0.95
    p99_ratio: float = 1.5
    requests: int = 100

    def __post_init__(self) -> None:
        if not (0 <= self.agreement <= 1 and self.p99_ratio > 0 and self.requests >= 1):
            raise ObjectRefused("agreement lies between 0 and 1; p99 ratio and requests are positive")


@dataclass(frozen=True)
class Report:
    """The figures.

    Of ``cells``, ``answered`` got a label from both sides and ``agreed`` the same label and decision: a share of
    ``agreement``, with its exact 95 % interval. The 99th percentiles (seconds, nearest rank) are of requests with one
    cell. ``refusals`` say why the candidate may not be promoted (none: it may); ``differing`` shows up to ten cells.
    """

    cells: int
    answered: int
    agreed: int
    agreement: float
    agreement_low: float
    agreement_high: float
    running_p99_s: float
    candidate_p99_s: float
    p99_ratio: float
    running_weights: str
    candidate_weights: str
    golden_sha256: str
    refusals: tuple[str, ...]
    differing: tuple[str, ...]

    def to_json(self) -> str:
        """Return the figures as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def sentences(self) -> list[str]:
        """Return the figures for people."""
        return [
            f"decisions: {self.agreed} of {self.cells} golden cells agree, {100 * self.agreement:.1f} % "
            f"[{100 * self.agreement_low:.1f}, {100 * self.agreement_high:.1f}]",
            f"latency, 99th percentile: candidate {1000 * self.candidate_p99_s:.0f} ms, running "
            f"{1000 * self.running_p99_s:.0f} ms, ratio {self.p99_ratio:.2f}",
            f"weights: candidate {self.candidate_weights[:12]}, running {self.running_weights[:12]}",
        ]


def of_servers(
    running_url: str | None,
    candidate_url: str | None,
    tls: TLS | None,
    golden: GoldenSet,
    limits: Limits,
    tell: Callable[[str], None],
) -> Report:
    """Compare the servers at two addresses.

    Raises
    ------
    ObjectRefused
        An address is missing, or both are one.
    ChecksFailed
        As `compare`.
    """
    if not (running_url and candidate_url):
        raise ObjectRefused(
            "the checks ask both servers: give --running-url and --candidate-url (docs/rollout.md shows "
            "`kubectl port-forward`), or --skip-checks with --reason"
        )
    if running_url == candidate_url:
        raise ObjectRefused(f"--running-url and --candidate-url are both {running_url}: nothing would be compared")
    with Client(running_url, tls=tls) as running, Client(candidate_url, tls=tls) as candidate:
        return compare(running, candidate, golden, limits, tell)


def compare(
    running: Client,
    candidate: Client,
    golden: GoldenSet,
    limits: Limits,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compare two servers.

    Raises
    ------
    ChecksFailed
        If one of them does not answer (the message says which), or they have different classes.
    """
    answers = []
    for name, client in (("running version", running), ("candidate", candidate)):
        tell(f"asking the {name} about {len(golden.cells)} cells")
        try:
            found = client.classify(list(golden.cells), golden.um_per_pixel, one_sample=False)
            answers.append((client.info(), found))
        except CytoserveClientError as error:
            raise ChecksFailed(f"the {name} cannot be checked: {error} [{error.code}]") from error
    (running_info, before), (candidate_info, after) = answers
    if running_info.classes != candidate_info.classes:
        raise ChecksFailed(
            f"the candidate has other classes ({', '.join(candidate_info.classes)}) than the running version "
            f"({', '.join(running_info.classes)}): clients would read its answers wrongly"
        )
    tell(f"timing {limits.requests} requests on each side, in turns")
    slow = time_in_turns(running, candidate, golden, limits.requests)
    agreed, answered, differing = agreement(before.cells, after.cells, golden.cells)
    total = len(golden.cells)
    low, high = clopper_pearson(agreed, total)
    p99 = [percentile_99(seconds) for seconds in slow]
    ratio = p99[1] / p99[0]
    failures = [f"candidate: {item.source}: {item.message}" for item in after.failures]
    refusals = [f"{len(failures)} cell(s) got no answer, first {failures[0]}"] if failures else []
    if lost := sorted(_sites(running_info) - _sites(candidate_info)):
        refusals.append(
            f"the candidate has no calibration of {', '.join(lost)}, which the running version has: requests that name "
            "one would be refused"
        )
    if agreed / total < limits.agreement:
        refusals.append(
            f"{agreed} of {total} decisions agree ({agreed / total:.3f}); {limits.agreement:g} is asked for"
        )
    if ratio > limits.p99_ratio:
        refusals.append(
            f"p99 latency is {p99[1]:.3f} s, {ratio:.2f} times the running version's {p99[0]:.3f} s; "
            f"at most {limits.p99_ratio:g} times is allowed"
        )
    return Report(
        total, answered, agreed, agreed / total, low, high, p99[0], p99[1], ratio,
        _weights(running_info), _weights(candidate_info), golden.sha256, tuple(refusals), tuple(differing[:10]),
    )  # fmt: skip


def require(report: Report) -> None:
    """Refuse a candidate that failed.

    Raises
    ------
    ChecksFailed
        With the figures.
    """
    if report.refusals:
        shown = [f"  differs: {text}" for text in report.differing]
        raise ChecksFailed("\n".join(["not promoted: " + "; ".join(report.refusals), *report.sentences(), *shown]))


def agreement(
    before: Sequence[CellAnswer], after: Sequence[CellAnswer], asked: Sequence[EncodedImage]
) -> tuple[int, int, list[str]]:
    """Return (cells that agree, cells with a label on both sides, descriptions of those that differ)."""
    old, new = ({cell.source: cell for cell in cells} for cells in (before, after))
    agreed, answered, differing = 0, 0, []
    for image in asked:
        one, other = old.get(image.name), new.get(image.name)
        answered += bool(one and other and one.label and other.label)
        if one and other and one.label and _decided(one) == _decided(other):
            agreed += 1
        else:
            differing.append(f"{image.name}: running {_shown(one)}, candidate {_shown(other)}")
    return agreed, answered, differing


def time_in_turns(
    running: Client, candidate: Client, golden: GoldenSet, requests: int
) -> tuple[list[float], list[float]]:
    """Return seconds of single cells on both servers, timed in turns so that other load on the machines hits both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(requests):
        cell = golden.cells[number % len(golden.cells)]
        order = ((0, running), (1, candidate))
        for side, client in order if number % 2 else reversed(order):
            started = time.perf_counter()
            try:
                # A single image, not a list of one: its failure is raised.
                client.classify(cell, golden.um_per_pixel, one_sample=False)
            except CytoserveClientError as error:
                name = "candidate" if side else "running version"
                raise ChecksFailed(f"the {name} failed while it was timed: {error} [{error.code}]") from error
            seconds[side].append(time.perf_counter() - started)
    return seconds


def percentile_99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile by nearest rank."""
    return sorted(seconds)[ceil(0.99 * len(seconds)) - 1]


def _decided(cell: CellAnswer) -> tuple[str | None, str | None, bool]:
    """Return what must agree: label, decision, and whether the cell would be referred if its picture were familiar.

    The pictures of the golden set were drawn by a model, so every one is referred as unfamiliar: without the third
    part, thresholds that accept anything would agree with any others.
    """
    return cell.label, cell.decision, bool(set(cell.reasons) - UNFAMILIAR)


def _shown(cell: CellAnswer | None) -> str:
    return "no answer" if cell is None else f"{cell.label or 'no label'} ({cell.decision}: {', '.join(cell.reasons)})"


def _sites(info: ServiceInfo) -> set[str]:
    """Return the sites that a server declares; none of a release before there were any."""
    return {site["site"] for site in info.model_dump(mode="json").get("sites") or ()}


def _weights(info: Any) -> str:
    held = info.weights_sha256
    return held if isinstance(held, str) else json.dumps(held, sort_keys=True) if held else "untold"
