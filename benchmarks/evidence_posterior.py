"""Sections of the page of evidence on the posterior: its calibration, and what the number of probes leaves open."""

from __future__ import annotations

from typing import Any

from .evidence_text import Bar, Section, percent, table

Results = dict[str, Any]


def calibrators(results: Results) -> Section:
    """Return the section on calibrators beside the temperature."""
    title, found = "Posterior: calibrators compared", results.get("calibrators")
    command = "python -m benchmarks.calibrators --out docs/results/calibrators.json"
    if found is None:
        return Section("calibrators", title, [command], [], "")
    bar = Bar(
        f"nothing compared is better than what is served ({found['served']})",
        f"{found['taken']} is taken",
        found["taken"] == found["served"],
    )
    text = (
        f"{found['cells']['val']} cells of the calibrating half of `pbc/val`, ten-fold cross-fitted: these choose. "
        f"{found['cells']['test']} cells of `pbc/test`, fitted on that half: reported. Scores through the server; "
        "differences of the log-loss are paired, to the temperature; the wider interval holds for all candidates "
        "at once."
    )
    return Section("calibrators", title, [command], [bar], "\n\n".join([text, *_tables(found)]))


def _tables(found: dict[str, Any]) -> list[str]:
    out = []
    for part, name in (("val_cross_fitted", "val, cross-fitted"), ("test", "test")):
        rows = []
        for calibrator, row in found["rows"].items():
            seen, apart = row[part], row[part]["log_loss_minus_served"]
            served = calibrator == found["served"]
            rows.append(
                [
                    f"**{calibrator}**" if served else calibrator,
                    f"{seen['log_loss']:.4f}",
                    "-" if served else _apart(apart, "interval"),
                    "-" if served else _apart(apart, "interval_for_all_candidates"),
                    f"{seen['brier']:.4f}",
                    f"{seen['expected_calibration_error']:.4f}",
                    percent(seen["accuracy"]),
                ]
            )
        heads = [name, "log-loss", "to served", "for all candidates at once", "Brier", "ECE", "accuracy"]
        out.append(table(heads, rows))
    return out


def _apart(found: dict[str, Any], interval: str) -> str:
    low, high = found[interval]
    return f"{found['value']:+.4f} [{low:+.4f}, {high:+.4f}]"


def probe_interval(results: Results) -> Section:
    """Return the section on the interval of the posterior over the draw of the probes."""
    title, found = "Posterior: how far other probes would move it", results.get("probe_interval")
    command = "python -m benchmarks.probe_interval models/reference --out docs/results/probe_interval.json"
    if found is None:
        return Section("probe_interval", title, [command], [], "")
    expected, cells = found["expected_coverage"], found["cells"]
    looks = {f"first look, {budget} probes": row for budget, row in found["first_look"].items()}
    looks["second look"] = found["second_look"]
    bars, rows = [], []
    for look, row in looks.items():
        whole = row["all"]
        measured = percent(whole["covered"], whole["interval"])
        met = whole["interval"][1] >= expected
        bars.append(
            Bar(f"{look}: holds what other noise says as often as it claims ({percent(expected)})", measured, met)
        )
        for band, part in row.items():
            if isinstance(part, dict):
                held = percent(part["covered"], part["interval"])
                rows.append([look, band, str(part["answers"]), held, f"{part['median_width']:.3f}"])
    text = (
        f"{found['fresh_banks']} fresh banks (same timesteps and weights, other noises), each held against the others "
        f"together. The {cells['least_sure']} least sure cells of the calibrating half of `pbc/val` and "
        f"{cells['others']} others; {cells['looked_at_again']} tie and are looked at again. An exact "
        f"{found['level']:.0%} interval holds a mean of so many banks in {percent(expected)}. What a bank's noise adds "
        f"to the lag of a tied pair correlates by {found['turns_correlation']:.2f} between turns.\n\n"
        + table(["look", "probability told", "answers", "held", "median width"], rows)
    )
    return Section("probe_interval", title, [command], bars, text)
