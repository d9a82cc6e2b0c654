"""docs/evidence.md: acceptance criteria, measurements, and a section on each claim, wholly from ``docs/results``.

Only the acceptance criteria are written here; every figure comes from a result. What was not measured says so. Remarks
on the results are words, in ``benchmarks/evidence_notes.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import evidence_models as models
from benchmarks.evidence_away import away, mixture, own_sites
from benchmarks.evidence_familiarity import familiarity
from benchmarks.measurements import ARCHIVE, BY_NAME, MEASUREMENTS, Measurement
from benchmarks.results import RESULTS
from benchmarks.text import Criterion, Section, percent, recalls, table

Results = dict[str, Any]

NOTES: Final = Path(__file__).with_name("evidence_notes.json")
ATTEMPTS: Final = Path(__file__).with_name("evidence_attempts.json")
"""By section: what was tried to meet its criteria, and why that was not enough. Words only; figures are results'."""
LEAST_ATTEMPTS: Final = 3
"""Attempts of different kind before a criterion may be called out of reach."""

HEAD: Final = """# Evidence

For research use; not a medical device. Written by `make evidence` from `docs/results/`; do not edit.
95 % intervals are in brackets, each valid by itself. They take cells as independent; PBC carries no patient or slide
ids, so they are too narrow for new patients. `pbc` is one hospital and one scanner. No blasts (leukaemic cells) were
ever seen or tested. What was tried and given up is in [lessons.md](lessons.md)."""

MEASURED: Final = """`make evidence DATA=../shared/data` runs the rows that need no more than two CPU cores and writes
this page; a result that is up to date is skipped. A result's stamp names weights, data, commit, command, environment
and seeds. "Not stamped" means measured before there were stamps; the commit is then the one that added the result.
A stamped result's time is what it took, whatever else the machine did; "about" marks an estimate for two idle cores."""

HISTORY: Final = f"""Rows marked "archived" need a training that was done once and whose weights are not in the
repository. Their code is in commit `{ARCHIVE[:7]}`: run `git worktree add ../archive {ARCHIVE[:7]}`, then the
commands of the section, there."""


def load(folder: Path = RESULTS) -> Results:
    """Return every result by its name, the notes under ``notes`` and the attempts under ``attempts``."""
    found: Results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    words = {"notes": NOTES, "attempts": ATTEMPTS}
    return {**found, **{name: json.loads(file.read_text(encoding="utf-8")) for name, file in words.items()}}


def in_domain(results: Results) -> Section:
    """Return the section on ``pbc/test``."""
    title, names, served = "In domain: pbc/test", ("pbc_test",), results.get("pbc_test")
    if served is None:
        return Section("in_domain", title, names, [], "")
    balanced, error = served["balanced_accuracy"], served["expected_calibration_error"]
    criteria = [
        Criterion(
            "balanced accuracy at least 0.98", percent(balanced, served["balanced_accuracy_interval"]), balanced >= 0.98
        ),
        Criterion("expected calibration error at most 0.01", f"{error:.4f}", error <= 0.01),
    ]
    text = (
        f"{served['cells']} cells through the server, {served['failures']} failures, "
        f"{served['evaluations_per_cell']:.1f} evaluations a cell. Weights `{served['model']['version']}`.\n\n"
        + recalls(served)
    )
    return Section("in_domain", title, names, criteria, text)


def referral(results: Results) -> Section:
    """Return the section on accepting and referring in domain."""
    title, names, served = "Referral: pbc/test, tolerated error 1 %", ("pbc_test",), results.get("pbc_test")
    if served is None:
        return Section("referral", title, names, [], "")
    accepted, wrong = served["accepted"], served["wrong_among_accepted"]
    error = wrong / accepted if accepted else None
    criteria = [
        Criterion(
            "observed error among accepted cells at most 1 %",
            "no cell accepted"
            if error is None
            else f"{wrong} of {accepted}: {percent(error, served['error_among_accepted_interval'], 2)}",
            error is not None and error <= 0.01,
        ),
        Criterion("at least 85 % accepted", percent(served["accepted_share"]), served["accepted_share"] >= 0.85),
    ]
    reasons = [[name, str(count)] for name, count in served.get("reasons", {}).items()]
    text = table(["reason for review", "cells"], reasons) if reasons else ""
    return Section("referral", title, names, criteria, text)


def cost(results: Results) -> Section:
    """Return the section on the published procedure."""
    title, names, found = "Cost: against the published procedure", ("published",), results.get("published")
    if found is None:
        return Section("cost", title, names, [], "")
    low, high = found["accuracy_difference_interval"]
    criteria = [
        Criterion(
            "at most a quarter of its evaluations a cell",
            f"{found['ours']['evaluations']} against {found['published']['evaluations']}: "
            f"1 / {found['evaluations_ratio']}",
            found["evaluations_ratio"] >= 4,
        ),
        Criterion(
            "accuracy at most half a point lower (paired)",
            f"{found['accuracy_difference_points']:+} points [{low:+}, {high:+}]",
            found["accuracy_difference_points"] >= -0.5,
        ),
        Criterion(
            "at least 8 times its cells per second, through the server",
            f"{found['cells_per_second_ratio']} times",
            found["cells_per_second_ratio"] >= 8,
        ),
    ]
    rows = [
        [side, cap, percent(row["accuracy"]), str(row["evaluations"])]
        for side, curve in (("served", "curve_ours_by_most_probes"), ("published", "curve_published_by_most_trials"))
        for cap, row in found[curve].items()
    ]
    text = f"{found['cells']} cells of `pbc/test`; same weights, same machine, same run.\n\n" + table(
        ["procedure", "most probes or trials", "accuracy", "evaluations a cell"], rows
    )
    return Section("cost", title, names, criteria, text)


SECTIONS: tuple[Callable[[Results], Section], ...] = (
    in_domain,
    referral,
    models.probe_interval,
    models.previous,
    models.learned_sites,
    models.external_site,
    own_sites,
    mixture,
    models.left_site,
    models.unseen,
    away,
    familiarity,
    cost,
)


def measurement_row(one: Measurement, results: Results) -> list[str]:
    """Return a measurement's row: result, what it needs, how long it takes, where and when it was made."""
    stamp = results.get(one.name, {}).get("stamp")
    made = "not measured" if stamp is None else f"{stamp['commit'][:7]}, {stamp['date'][:10]}"
    if stamp is not None and "missing" in stamp:
        made += ", not stamped"
    elif stamp is not None and not stamp["clean"]:
        made += ", with changes that were not committed"
    if stamp is not None and "seconds" in stamp:
        time = f"{max(1, round(stamp['seconds'] / 60))} min"
        if results[one.name].get("kept_errors"):
            time += ", with errors kept from an earlier run"
    else:
        time = "-" if one.minutes is None else f"about {one.minutes} min"
    command = "archived; see below" if one.archived else f"`{one.command()}`"
    return [f"`{one.name}`", command, one.needs, time, made]


def short_of(sections: list[Section], attempts: dict[str, dict[str, Any]]) -> str:
    """Return what was tried for the criteria that are not met, and why it was not enough."""
    parts = []
    for section in sections:
        missed = [one.text for one in section.criteria if one.met is False]
        if not missed:
            continue
        told = attempts.get(section.key, {"tried": [], "cause": ""})
        lines = [f"- Tried: {one}." for one in told["tried"]]
        if len(lines) < LEAST_ATTEMPTS:
            lines.append("- Not yet tried three times in different ways.")
        if told["cause"]:
            lines.append(f"- Cause: {told['cause']}")
        parts.append(f"**{section.title}.** Not met: {'; '.join(missed)}.\n\n" + "\n".join(lines))
    return "\n\n".join(parts) or "Every criterion is met."


def page(results: Results) -> str:
    """Return the whole page.

    Raises
    ------
    KeyError
        A note belongs to no section.
    """
    notes: dict[str, list[str]] = results.get("notes", {})
    attempts: dict[str, dict[str, Any]] = results.get("attempts", {})
    sections = [make(results) for make in SECTIONS]
    keys = [section.key for section in sections]
    for file, words in ((NOTES, notes), (ATTEMPTS, attempts)):
        if unknown := sorted(set(words) - set(keys)):
            raise KeyError(f"{file.name} has words on {unknown}; sections are {keys}")
    overview = [
        [section.title, one.text, one.measured, one.verdict]
        for section in sections
        for one in (section.criteria or [Criterion("-", "not measured", None)])
    ]
    heads = ["result", "command", "needs", "time", "measured"]
    parts = [
        HEAD,
        "## Acceptance criteria",
        table(["evidence", "acceptance criterion", "measured", "met"], overview),
        "## What is short of its criterion, and why",
        "Figures of each attempt are in [lessons.md](lessons.md).",
        short_of(sections, attempts),
        "## Measurements",
        MEASURED,
        table(heads, [measurement_row(one, results) for one in MEASUREMENTS]),
        HISTORY,
    ]
    parts += [
        section.markdown(models.commands(section, results, BY_NAME), notes.get(section.key, [])) for section in sections
    ]
    return "\n\n".join(parts) + "\n"
