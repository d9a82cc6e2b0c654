"""The report as one HTML page that needs nothing from outside: the template `page.html.jinja`, and its tables' rows."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from cytoserve_validation.plots import all_plots

Row = tuple[Any, ...]
Part = Mapping[str, Any]
"""A part of the report's document."""

LABELS: Final = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "accepted": "share accepted",
    "error_among_accepted": "error among accepted",
    "calibration_error": "calibration error (ECE)",
    "set_coverage": "coverage of the 95 % sets",
    "set_size": "mean size of the 95 % sets",
    "evaluations": "evaluations per cell",
}
PLAIN_NUMBERS: Final = frozenset({"set_size", "evaluations"})
"""Figures that are no shares."""

PER_CLASS: Final = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")


def render(report: Part) -> str:
    """Return the page of a document of `report.build`."""
    plots = {title: base64.b64encode(svg.encode()).decode() for title, svg in all_plots(report).items()}
    return _environment().get_template("page.html.jinja").render(report=report, plots=plots)


def _environment() -> Environment:
    loader = PackageLoader("cytoserve_validation", "")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters.update(percent=percent, interval=interval, words=words)
    rows = (
        data_rows, headline_rows, per_class_rows, named, set_rows, size_rows, restricted_rows, auc_rows, kind_rows,
        auc_group_rows, group_rows, group_class_rows, failure_rows, familiarity_rows, familiar_class_rows,
        p_value_rows, cause_rows, check_rows, sample_rows,
    )  # fmt: skip
    made.globals.update({function.__name__: function for function in rows}, PER_CLASS=PER_CLASS)
    return made


def words(name: str) -> str:
    """Return a name of the document as words."""
    return name.replace("_", " ")


def percent(value: float | None) -> str:
    """Return a share in per cent."""
    return "-" if value is None else f"{100 * value:.1f} %"


def interval(row: Part, plain: bool = False, signed: bool = False) -> str:
    """Return ``value (low to high)`` in per cent, or as numbers."""
    if row["value"] is None:
        return "-"
    sign = "+" if signed else ""
    scale, unit = (1, "") if plain else (100, " %")
    shown = [format(scale * row[key], f"{sign}.2f" if plain else f"{sign}.1f") for key in ("value", "low", "high")]
    return f"{shown[0]}{unit} ({shown[1]} to {shown[2]})"


def named(counts: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a mapping from names."""
    return [(words(name), count) for name, count in counts.items()]


def data_rows(report: Part) -> list[Row]:
    """Return what was measured on."""
    data, in_force = report["data"], report["calibration"]
    calibration = "the model's own"
    if isinstance(in_force, Mapping):
        content = str(in_force.get("content_sha256"))[:12]
        calibration = f"{in_force.get('site')}, {in_force.get('created')}, content {content}"
    return [
        *named(data["per_class"]),
        ("images in all", data["images"]),
        ("calibration in force", calibration),
        ("images without an answer or a label", len(data["failed"])),
        ("slides", data["slides"] if data["slides"] is not None else "not given"),
        ("um per pixel", data["um_per_pixel"] if data["um_per_pixel"] is not None else "not given"),
        ("accuracy if images without an answer count as wrong", percent(data["accuracy_if_failures_count_as_wrong"])),
    ]


def headline_rows(overall: Part) -> list[Row]:
    """Return the main figures."""
    return [
        (LABELS[name], interval(row, name in PLAIN_NUMBERS), row["of"], row["method"])
        for name, row in overall["headline"].items()
    ]


def per_class_rows(overall: Part) -> list[Row]:
    """Return each class against the rest."""
    return [
        (words(name), row["cells"], row["called"], *(interval(row[key]) for key in PER_CLASS))
        for name, row in overall["per_class"].items()
    ]


def familiarity_rows(found: Part) -> list[Row]:
    """Return the cells as one sample."""
    rows = [("unfamiliar cells", interval(found["unfamiliar"])), ("cells not compared", found["not_compared"])]
    return [*rows, ("p-value of all cells as one sample", _p_value(found))]


def familiar_class_rows(found: Part) -> list[Row]:
    """Return the share of unfamiliar cells by true class."""
    return [(words(name), row["of"], interval(row)) for name, row in found["per_class"].items()]


def p_value_rows(found: Part) -> list[Row]:
    """Return the distribution of the p-values beside what the site's own cells would show."""
    return [(f"at or below {at}", interval(row), percent(float(at))) for at, row in found["p_values"].items()]


def cause_rows(found: Part) -> list[Row]:
    """Return the most frequent causes in words."""
    return [(row["in_words"], row["cells"]) for row in found["causes"]]


def check_rows(found: Part) -> list[Row]:
    """Return acceptance with the check and without it."""
    return [
        (words(name), row["accepted"], interval(row["share"]), row["wrong"], interval(row["error"]))
        for name, row in found["acceptance"].items()
    ]


def sample_rows(parts: Mapping[str, Part]) -> list[Row]:
    """Return the sample test of each group, or slide."""
    return [
        (name, row["cells"], interval(row["unfamiliar"]), _p_value(row), "rejected" if row["rejected"] else "kept")
        for name, row in parts.items()
    ]


def _p_value(row: Part) -> str:
    return "-" if row["sample_p_value"] is None else f"{row['sample_p_value']:.2g}"


def set_rows(sets: Part) -> list[Row]:
    """Return coverage and size of the prediction sets, by true class."""
    return [
        (words(name), interval(row["coverage"]), f"{row['mean_size']:.2f}") for name, row in sets["per_class"].items()
    ]


def size_rows(sets: Part) -> list[Row]:
    """Return how many sets hold how many classes."""
    return [(size, count) for size, count in sets["sizes"].items() if count]


def restricted_rows(found: Part) -> list[Row]:
    """Return the figures with only the classes present in the race."""
    return [
        ("accuracy", interval(found["accuracy"])),
        ("balanced accuracy", interval(found["balanced_accuracy"])),
        *((f"sensitivity, {words(name)}", interval(row)) for name, row in found["sensitivity"].items()),
    ]


def kind_rows(strangers: Part) -> list[Row]:
    """Return what became of each kind of stranger, and of the labelled cells beside them."""
    rows = [*strangers["by_kind"].items(), ("labelled cells", strangers["ordinary"])]
    return [
        (
            name,
            row["cells"],
            interval(row["referred"]),
            interval(row["referred_whatever_the_picture"]),
            interval(row["unfamiliar_picture"]),
            ", ".join(f"{words(label)} {count}" for label, count in list(row["labels"].items())[:3]),
        )
        for name, row in rows
    ]


def auc_rows(anomalies: Part) -> list[Row]:
    """Return the area under the ROC curve of every score."""
    return [(words(name), interval(row, plain=True), row["method"]) for name, row in anomalies["auc"].items()]


def auc_group_rows(groups: Part) -> list[Row]:
    """Return the area under the ROC curve of each group's cells."""
    return [
        (name, interval(row, plain=True), _difference(row["difference_to_others"], plain=True))
        for name, row in groups.items()
    ]


def group_rows(group: Part) -> list[Row]:
    """Return a group's figures, and their differences to all other cells."""
    other = group["difference_to_others"] or {}
    return [
        (
            LABELS[key],
            interval(value, key in PLAIN_NUMBERS),
            value["of"],
            _difference(other.get(key), key in PLAIN_NUMBERS),
        )
        for key, value in group["headline"].items()
    ]


def group_class_rows(group: Part) -> list[Row]:
    """Return a group's classes, and the differences of their sensitivities."""
    apart = group["class_difference_to_others"] or {}
    return [
        (
            words(key),
            value["cells"],
            *(interval(value[kind]) for kind in ("sensitivity", "specificity")),
            _difference(apart.get(key, {}).get("sensitivity")),
        )
        for key, value in group["per_class"].items()
        if value["cells"]
    ]


def failure_rows(report: Part) -> list[Row]:
    """Return the images without an answer or a label."""
    failed = (*report["data"]["failed"], *report["anomalies_failed"])
    return [(item["file"], item["error"], item["message"]) for item in failed]


def _difference(row: Part | None, plain: bool = False) -> str:
    return "-" if row is None else interval(row, plain, signed=True)
