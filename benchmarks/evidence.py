"""Write docs/evidence.md wholly from docs/results/*.json; what was not measured says so.

    python -m benchmarks.evidence            # writes docs/evidence.md
    python -m benchmarks.evidence --check    # exit code 1 where the file is not what would be written

No figure stands in this program but the bars. Causes of shortfalls are words, in docs/results/evidence_notes.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cytoserve_files import write_text

from . import evidence_posterior as posterior
from . import evidence_scores as scores
from .evidence_text import Bar, Section, percent, table

RESULTS = Path("docs/results")
PAGE = Path("docs/evidence.md")

Results = dict[str, Any]

HEAD = """# Evidence

For research use; not a medical device. Written by `python -m benchmarks.evidence` from `docs/results/`; do not edit.
95 % intervals in brackets, each by itself; cells are taken as independent (PBC carries no patient or slide ids, so they
are too narrow for new patients). `pbc` is one hospital and one scanner; no blasts (leukaemic cells) were ever seen or
tested."""


def load(folder: Path = RESULTS) -> Results:
    """Return every JSON of the folder by its name without ending; anomalies also under ``anomaly``, by class."""
    found: Results = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    found["anomaly"] = {name: value for name, value in found.items() if name.startswith("anomaly_")}
    return found


def in_domain(results: Results) -> Section:
    """Return the section on ``pbc/test``."""
    served = results.get("pbc_test")
    command = (
        "python -m benchmarks.accuracy ../shared/data/pbc/test --um-per-pixel 0.18 --out docs/results/pbc_test.json"
    )
    if served is None:
        return Section("in_domain", "In domain: pbc/test", [command], [], "")
    low, high = served["balanced_accuracy_interval"]
    bars = [
        Bar(
            "balanced accuracy at least 0.97",
            percent(served["balanced_accuracy"], (low, high)),
            served["balanced_accuracy"] >= 0.97,
        ),
        Bar(
            "expected calibration error at most 0.03",
            f"{served['expected_calibration_error']:.4f}",
            served["expected_calibration_error"] <= 0.03,
        ),
    ]
    rows = [
        [name, str(row["n"]), percent(row["recall"], row["interval"])] for name, row in sorted(served["recall"].items())
    ]
    text = (
        f"{served['cells']} cells through the server, {served['failures']} failures, "
        f"{served['evaluations_per_cell']:.1f} evaluations a cell. Weights `{served['model']['version']}`.\n\n"
        + table(["class", "cells", "recall"], rows)
    )
    return Section("in_domain", "In domain: pbc/test", [command], bars, text)


def referral(results: Results) -> Section:
    """Return the section on accepting and referring in domain."""
    served = results.get("pbc_test")
    title = "Referral: pbc/test, tolerated error 1 %"
    command = (
        "python -m benchmarks.accuracy ../shared/data/pbc/test --um-per-pixel 0.18 --out docs/results/pbc_test.json"
    )
    if served is None:
        return Section("referral", title, [command], [], "")
    accepted, wrong = served["accepted"], served["wrong_among_accepted"]
    error = wrong / accepted if accepted else None
    bars = [
        Bar(
            "observed error among accepted at most 1 %",
            "no cell accepted"
            if error is None
            else f"{wrong} of {accepted}: {percent(error, served['error_among_accepted_interval'], 2)}",
            error is not None and error <= 0.01,
        ),
        Bar("accepted at least 80 %", percent(served["accepted_share"]), served["accepted_share"] >= 0.8),
    ]
    reasons = [[name, str(count)] for name, count in served.get("reasons", {}).items()]
    text = table(["reason for review", "cells"], reasons) if reasons else ""
    return Section("referral", title, [command], bars, text)


def shift_and_referral(results: Results) -> Section:
    """Return the section on the foreign site's calibration."""
    title, command = "Shift and referral together", "python -m benchmarks.referral --out docs/results/referral.json"
    found, served = results.get("referral"), results.get("pbc_test")
    if found is None:
        return Section("shift_and_referral", title, [command], [], "")
    before, after = found["calibration_of_pbc"], found["calibration_of_the_site"]
    promise = found["promise"]
    bars = []
    if served is not None:
        home, away = 1 - served["accepted_share"], 1 - before["accepted"]["value"]
        bars.append(
            Bar("the share referred rises under shift", f"{percent(home)} at home, {percent(away)} away", away > home)
        )
    wrong, accepted = after["acceptance"]["wrong"], after["acceptance"]["accepted"]
    bars.append(
        Bar(
            f"after site calibration at most {promise['tolerated_error']:.0%} wrong among accepted",
            f"{wrong} of {accepted}" if accepted else "no cell accepted: no promise could be made",
            None if not accepted else wrong / accepted <= promise["tolerated_error"],
        )
    )
    rows = [
        [
            name,
            percent(row["accuracy"]["value"], (row["accuracy"]["low"], row["accuracy"]["high"])),
            percent(row["accepted"]["value"], (row["accepted"]["low"], row["accepted"]["high"])),
            f"{row['acceptance']['wrong']} of {row['acceptance']['accepted']}",
        ]
        for name, row in (("of pbc", before), ("of the site", after))
    ]
    text = (
        f"`{found['data']}`: {found['calibrating']} cells calibrated the site for {promise['tolerated_error']:.0%} "
        f"error at {promise['confidence']:.0%} confidence, {before['cells']} others were measured, at "
        f"{found['site_scale']['um_per_pixel']:.4f} um per pixel.\n\n"
        + table(["calibration in force", "accuracy, all eight classes", "accepted", "wrong among accepted"], rows)
    )
    return Section("shift_and_referral", title, [command], bars, text)


def cost(results: Results) -> Section:
    """Return the section on the published procedure."""
    title = "Cost: against the published procedure"
    command = "python -m benchmarks.published ../shared/data/pbc/test --cells 300 --out docs/results/published.json"
    found = results.get("published")
    if found is None:
        return Section("cost", title, [command], [], "")
    low, high = found["accuracy_difference_interval"]
    bars = [
        Bar(
            "evaluations a cell at most a quarter of theirs",
            f"{found['ours']['evaluations']} against {found['published']['evaluations']}: "
            f"1 / {found['evaluations_ratio']}",
            found["evaluations_ratio"] >= 4,
        ),
        Bar(
            "accuracy not lower by more than half a point (paired)",
            f"{found['accuracy_difference_points']:+} points [{low:+}, {high:+}]",
            found["accuracy_difference_points"] >= -0.5,
        ),
        Bar(
            "cells per second through the server at least 8 times its own",
            f"{found['cells_per_second_ratio']} times",
            found["cells_per_second_ratio"] >= 8,
        ),
    ]
    rows = [
        [side, cap, percent(row["accuracy"]), str(row["evaluations"])]
        for side, curve in (("served", "curve_ours_by_most_probes"), ("published", "curve_published_by_most_trials"))
        for cap, row in found[curve].items()
    ]
    text = f"{found['cells']} cells of `pbc/test`, same weights, same machine, same run.\n\n" + table(
        ["side", "most probes or trials", "accuracy", "evaluations a cell"], rows
    )
    return Section("cost", title, [command], bars, text)


SECTIONS: tuple[Callable[[Results], Section], ...] = (
    in_domain,
    posterior.calibrators,
    posterior.probe_interval,
    scores.foreign,
    referral,
    shift_and_referral,
    scores.unseen,
    cost,
    scores.anytime,
    scores.probe_bank,
)


def render(results: Results) -> str:
    """Return the whole page."""
    notes: dict[str, list[str]] = results.get("evidence_notes", {})
    sections = [make(results) for make in SECTIONS]
    unknown = sorted(set(notes) - {section.key for section in sections})
    if unknown:
        raise KeyError(f"evidence_notes.json speaks of {unknown}; sections are {[s.key for s in sections]}")
    overview = [
        [section.title, bar.text, bar.measured, bar.verdict]
        for section in sections
        for bar in (section.bars or [Bar("-", "not measured", None)])
    ]
    parts = [HEAD, "## All bars", table(["evidence", "bar", "measured", "met"], overview)]
    parts += [section.markdown(notes.get(section.key, [])) for section in sections]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = render(load())
    if args.check:
        sys.exit(0 if PAGE.exists() and PAGE.read_text() == text else f"{PAGE} is stale: run this without --check")
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
