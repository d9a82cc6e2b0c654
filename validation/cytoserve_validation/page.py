"""The report as one HTML page that needs nothing from outside: plots are inside it, and everything is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from cytoserve_validation.plots import all_plots

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #c3ccd5}h3{font-size:1rem}
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #e4e9ee}
td,th{text-align:right}td:first-child,th:first-child{text-align:left}.scroll{overflow-x:auto}
.notice{background:#fdf1ed;border-left:4px solid #b5482a;padding:.5rem .8rem}
.warn{color:#8a3418}.plots{display:flex;flex-wrap:wrap;gap:1rem}.plots img{max-width:100%}small{color:#52606d}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

LABELS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "accepted": "share accepted",
    "error_among_accepted": "error among accepted",
    "calibration_error": "calibration error (ECE)",
    "set_coverage": "coverage of the 95 % sets",
    "set_size": "mean size of the 95 % sets",
    "evaluations": "evaluations per cell",
}
PLAIN_NUMBERS = frozenset({"set_size", "evaluations"})
"""Figures that are no shares."""


def render(report: Mapping[str, Any]) -> str:
    """Return the page.

    Parameters
    ----------
    report : mapping
        What `report.build` gave.
    """
    parts = [
        _head(report),
        _data(report),
        _headline(report["overall"]),
        _plots(all_plots(report)),
        _per_class(report["overall"]),
        _acceptance(report["overall"]),
        _sets(report["overall"]["sets"]),
        _restricted(report["restricted"]),
        _anomalies(report["anomalies"]),
        _groups(report["groups"]),
        _failures(report),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f"<title>Validation of {escape(report['data']['name'])}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return escape("-" if value is None else str(value))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(items: Sequence[str], kind: str = "") -> str:
    if not items:
        return ""
    return f'<ul class="{kind}">' + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(row: Mapping[str, Any], plain: bool = False, signed: bool = False) -> str:
    """Return ``value (low to high)`` in per cent, or as numbers."""
    if row["value"] is None:
        return "-"
    sign = "+" if signed else ""
    scale, unit = (1, "") if plain else (100, " %")
    shown = [format(scale * row[key], f"{sign}.2f" if plain else f"{sign}.1f") for key in ("value", "low", "high")]
    return f"{shown[0]}{unit} ({shown[1]} to {shown[2]})"


def _head(report: Mapping[str, Any]) -> str:
    model = report["model"]
    weights = str(model["weights_sha256"])
    return (
        f"<h1>Validation of {_text(report['data']['name'])}</h1>"
        f'<p class="notice">{_text(report["notice"])} No leukaemic cells (blasts) were ever seen in training or '
        "tested.</p>"
        f"<p><small>Model {_text(model['name'])} {_text(model['version'])}, weights {_text(weights[:16])}; "
        f"data {_text(report['data']['data_sha256'][:16])}; {_text(report['created'])}</small></p>"
        + _list(report["notes"])
    )


def _calibration(told: Any) -> str:
    """Return whose calibration is in force, in words."""
    if not isinstance(told, Mapping):
        return "the model's own"
    return f"{told.get('site')}, {told.get('created')}, content {str(told.get('content_sha256'))[:12]}"


def _data(report: Mapping[str, Any]) -> str:
    data = report["data"]
    rows = [(name.replace("_", " "), count) for name, count in data["per_class"].items()]
    rows += [
        ("images in all", data["images"]),
        ("calibration in force", _calibration(report["calibration"])),
        ("images without an answer or a label", len(data["failed"])),
        ("slides", data["slides"] if data["slides"] is not None else "not given"),
        ("um per pixel", data["um_per_pixel"] if data["um_per_pixel"] is not None else "not given"),
        ("accuracy if images without an answer count as wrong", _percent(data["accuracy_if_failures_count_as_wrong"])),
    ]
    return "<h2>Cells</h2>" + _table(("true class", "answered cells"), rows)


def _headline(overall: Mapping[str, Any]) -> str:
    rows = [
        (LABELS[name], _interval(row, name in PLAIN_NUMBERS), row["of"], row["method"])
        for name, row in overall["headline"].items()
    ]
    spent = overall["evaluations"]
    chance = overall["calibration_error_by_chance"]
    cost = (
        f"<p>Honest confidences would show a calibration error of {_percent(chance['mean'])} on these cells by chance "
        f"alone, and of {_percent(chance['percentile_95'])} once in twenty times.</p>"
        f"<p>Evaluations per cell: median {spent['median']:.0f}, 95th percentile {spent['percentile_95']:.0f}, "
        f"most {spent['most']:.0f}.</p>"
    )
    return "<h2>Main figures</h2>" + _table(("figure", "value (95 % interval)", "cells", "interval"), rows) + cost


def _plots(plots: Mapping[str, str]) -> str:
    images = [
        f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}">'
        for title, text in plots.items()
    ]
    return '<h2>Plots</h2><div class="plots">' + "\n".join(images) + "</div>"


def _per_class(overall: Mapping[str, Any]) -> str:
    keys = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")
    rows = [
        (name.replace("_", " "), row["cells"], row["called"], *(_interval(row[key]) for key in keys))
        for name, row in overall["per_class"].items()
    ]
    header = ("class", "cells", "called so", *(key.replace("_", " ") for key in keys))
    return (
        "<h2>Each class against the rest</h2>"
        + _table(header, rows)
        + "<p><small>Predictive values are those of this mixture of classes, not of another laboratory's.</small></p>"
    )


def _acceptance(overall: Mapping[str, Any]) -> str:
    found = overall["acceptance"]
    bound = "no bound, nothing was accepted" if found["bound"] is None else f"at most {100 * found['bound']:.2f} %"
    rows = [(name.replace("_", " "), count) for name, count in found["reasons"].items()]
    return (
        "<h2>Accepted or referred</h2>"
        f"<p>{found['accepted']} of {overall['cells']} cells were accepted, {found['wrong']} of them wrong: "
        f"{bound} (exact, one-sided, confidence {found['bound_confidence']:g}). Area under risk against coverage: "
        f"{overall['risk_coverage']['area']:.4f}.</p>" + _table(("reason for review", "cells"), rows)
    )


def _sets(sets: Mapping[str, Any] | None) -> str:
    if sets is None:
        return "<h2>Prediction sets</h2><p>The server computed no conformal p-values.</p>"
    rows = [
        (name.replace("_", " "), _interval(row["coverage"]), f"{row['mean_size']:.2f}")
        for name, row in sets["per_class"].items()
    ]
    sizes = [(size, count) for size, count in sets["sizes"].items() if count]
    return (
        f"<h2>Prediction sets at {1 - sets['error']:.0%}</h2>"
        + _table(("true class", "coverage (95 % interval)", "mean size"), rows)
        + _table(("classes in the set", "cells"), sizes)
    )


def _restricted(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = [
        ("accuracy", _interval(found["accuracy"])),
        ("balanced accuracy", _interval(found["balanced_accuracy"])),
        *((f"sensitivity, {name.replace('_', ' ')}", _interval(row)) for name, row in found["sensitivity"].items()),
    ]
    return (
        "<h2>With only the classes present in the race</h2>"
        f"<p>{_text(', '.join(found['classes']))}. The service does not know which classes are absent.</p>"
        + _table(("figure", "value (95 % interval)"), rows)
    )


def _anomalies(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = [(name.replace("_", " "), _interval(row, plain=True), row["method"]) for name, row in found["auc"].items()]
    ahead = found.get("auc_ahead_of_zeta")
    tail = f"<p>Anomaly score minus zeta: {_text(_interval(ahead, plain=True, signed=True))}.</p>" if ahead else ""
    groups = [
        (name, _interval(row, plain=True),
         "-" if row["difference_to_others"] is None else _interval(row["difference_to_others"], True, True))
        for name, row in found.get("auc_by_group", {}).items()
    ]  # fmt: skip
    return (
        "<h2>Anomalies</h2>"
        f"<p>{found['cells']} cells; accepted all the same: {_text(_interval(found['accepted']))}; flagged as "
        f"anomalous: {_text(_interval(found['flagged_anomalous']))}.</p>"
        + _table(("score", "area under the ROC (95 % interval)", "interval"), rows)
        + tail
        + (_table(("group", "area of its cells against all anomalies", "minus all others"), groups) if groups else "")
    )


def _groups(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else "<h2>Groups</h2>" + "".join(_group(name, row) for name, row in found.items())


def _group(name: str, row: Mapping[str, Any]) -> str:
    other = row["difference_to_others"] or {}
    rows = [
        (
            LABELS[key],
            _interval(value, key in PLAIN_NUMBERS),
            value["of"],
            _interval(other[key], key in PLAIN_NUMBERS, signed=True) if key in other else "-",
        )
        for key, value in row["headline"].items()
    ]
    apart = row["class_difference_to_others"] or {}
    classes = [
        (
            key.replace("_", " "),
            value["cells"],
            *(_interval(value[kind]) for kind in ("sensitivity", "specificity")),
            _interval(apart[key]["sensitivity"], signed=True) if key in apart else "-",
        )
        for key, value in row["per_class"].items()
        if value["cells"]
    ]
    slides = "" if row["slides"] is None else f", {row['slides']} slide(s)"
    return (
        f"<h3>{_text(name)} ({row['cells']} cells{slides})</h3>"
        + _list(row["warnings"], "warn")
        + _table(("figure", "value (95 % interval)", "cells", "minus all others"), rows)
        + _table(("class", "cells", "sensitivity", "specificity", "sensitivity minus all others"), classes)
    )


def _failures(report: Mapping[str, Any]) -> str:
    items = [*report["data"]["failed"], *report["anomalies_failed"]]
    if not items:
        return ""
    rows = [(item["file"], item["error"], item["message"]) for item in items]
    return "<h2>Images without an answer or a label</h2>" + _table(("file", "error", "what to do"), rows)
