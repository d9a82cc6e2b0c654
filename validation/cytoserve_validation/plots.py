"""The report's plots, as SVG text that is the same for the same figures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cytoserve_validation.answers import Doubles
from cytoserve_validation.psychometric import Psychometric

INK, SOFT, ACCENT, WARN = "#1f2933", "#c3ccd5", "#1f6f8b", "#b5482a"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "cytoserve",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}
Draw = Callable[[Axes], None]


def svg(draw: Draw, width: float = 5.2, height: float = 4.0) -> str:
    """Return one plot as SVG; no display, no date, no random ids."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode("utf-8")


def all_plots(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the plots of a report by title, in reading order."""
    overall = report["overall"]
    plots = {
        "Confusion": svg(lambda axes: confusion(axes, overall["confusion"]), 6.4, 4.6),
        "Reliability": svg(lambda axes: reliability(axes, overall)),
        "Accuracy against confidence": svg(lambda axes: psychometric(axes, overall["psychometric"])),
        "Risk against coverage": svg(lambda axes: risk_coverage(axes, overall)),
    }
    if overall["sets"]:
        plots["Prediction sets"] = svg(lambda axes: coverage(axes, overall["sets"]))
    if report["anomalies"] and report["anomalies"]["roc"]:
        plots["Strangers"] = svg(lambda axes: anomaly_roc(axes, report["anomalies"]))
    if report["groups"]:
        height = 1.4 + 0.4 * len(report["groups"])
        plots["Accuracy by group"] = svg(lambda axes: groups(axes, report["groups"]), 6.4, height)
        plots["Difference to all others"] = svg(lambda axes: group_differences(axes, report["groups"]), 6.4, height)
    return plots


def _name(text: str, longest: int = 24) -> str:
    """Return a label for an axis: no underscore, no mathematics markup, not too long."""
    plain = text.replace("_", " ").replace("$", r"\$")
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def confusion(axes: Axes, rows: Mapping[str, Mapping[str, int]]) -> None:
    """Draw row shares as colour and numbers of cells as text; zeros are left empty."""
    names, columns = list(rows), list(next(iter(rows.values())))
    counts = np.array([[rows[r][c] for c in columns] for r in names])
    share = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(counts):
        if count:
            axes.text(j, i, str(count), ha="center", va="center", color="white" if share[i, j] > 0.5 else INK)
    axes.set_xticks(range(len(columns)), [_name(c) for c in columns], rotation=40, ha="right")
    axes.set_yticks(range(len(names)), [_name(r) for r in names])
    axes.set(xlabel="label given", ylabel="true class", title="Cells by true class and label")
    axes.spines[:].set_visible(False)


def reliability(axes: Axes, overall: Mapping[str, Any]) -> None:
    """Draw accuracy with exact intervals against mean confidence, and how many cells each bin holds."""
    bins = overall["reliability"]
    _diagonal(axes)
    _bars(axes, bins)
    most = max(b["cells"] for b in bins)
    width = bins[0]["to"] - bins[0]["from"]
    heights = [0.18 * b["cells"] / most for b in bins]
    axes.bar([b["from"] for b in bins], heights, width, align="edge", color=SOFT, zorder=0)
    ece = overall["headline"]["calibration_error"]
    title = "Reliability" if ece["value"] is None else f"Reliability, calibration error {ece['value']:.3f}"
    axes.set(
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        xlabel=f"confidence; grey: cells per bin (most {most})",
        ylabel="share right",
        title=title,
    )


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=SOFT, linestyle="--", zorder=1)


def _bars(axes: Axes, bins: list[dict[str, Any]]) -> None:
    x = [b["confidence"] for b in bins]
    axes.errorbar(x, *_accuracy(bins), fmt="o", color=ACCENT, ecolor=ACCENT, capsize=2, markersize=4, zorder=3)


def _accuracy(bins: list[dict[str, Any]]) -> tuple[Doubles, list[Doubles]]:
    """Return each bin's accuracy, and how far its interval reaches below and above."""
    low, y, high = (np.array([b[key] for b in bins], np.float64) for key in ("low", "accuracy", "high"))
    # The exact interval holds the share; the last digit may not.
    return y, [np.maximum(0, y - low), np.maximum(0, high - y)]


def psychometric(axes: Axes, found: Mapping[str, Any]) -> None:
    """Draw accuracy against uncertainty on a scale that does not squeeze the sure cells, with the fitted curve."""
    bins = found["bins"]
    x: Doubles = np.array([max(1 - b["confidence"], 1e-6) for b in bins], np.float64)
    axes.errorbar(x, *_accuracy(bins), fmt="o", color=ACCENT, capsize=2, markersize=4)
    fit = found["fit"]
    if fit:
        curve = Psychometric(fit["guess"], fit["lapse"], fit["threshold_log_odds"], fit["width_log_odds"])
        grid: Doubles = np.geomspace(max(x.min() / 2, 1e-6), 0.9, 200)
        axes.plot(grid, curve.accuracy(1 - grid), color=INK, linewidth=1.2, label="fitted curve")
        axes.axhline(fit["guess"], color=SOFT, linestyle="--", label="chance")
        axes.legend(frameon=False, loc="upper left")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set(ylim=(0, 1.03), xlabel="1 - confidence (sure to the right)", ylabel="share right",
             title="Accuracy against confidence")  # fmt: skip


def risk_coverage(axes: Axes, overall: Mapping[str, Any]) -> None:
    """Draw the error among accepted cells against the share accepted, its bound, and where the server stands."""
    points = overall["risk_coverage"]["points"]
    share = [p["share"] for p in points]
    axes.plot(
        share, [p["risk"] for p in points], color=ACCENT, label="by threshold on the confidence", drawstyle="steps"
    )
    axes.plot(share, [p["upper"] for p in points], color=SOFT, label="upper bound, point by point")
    taken = overall["headline"]["error_among_accepted"]
    if taken["value"] is not None:
        served = overall["headline"]["accepted"]["value"]
        axes.plot([served], [taken["value"]], "o", color=WARN, label="as the server decided")
    top = max(*(p["risk"] for p in points), taken["value"] or 0.0)
    axes.set(xlim=(0, 1.02), ylim=(-0.02 * max(top, 0.02), max(1.6 * top, 0.05)), xlabel="share accepted",
             ylabel="share wrong among accepted", title="Risk against coverage")  # fmt: skip
    axes.legend(frameon=False, loc="upper left")


def coverage(axes: Axes, sets: Mapping[str, Any]) -> None:
    """Draw, per class, how often the prediction set holds the truth, and the level it is made for."""
    rows = sets["per_class"]
    _forest(axes, {name: row["coverage"] for name, row in rows.items()})
    axes.axvline(1 - sets["error"], color=WARN, linestyle="--")
    for position, row in enumerate(rows.values()):
        axes.text(1.015, position, f"{row['mean_size']:.2f}", va="center", fontsize=8, clip_on=False)
    axes.text(1.015, -0.85, "mean\nsize", fontsize=8, va="center", clip_on=False)
    lowest = min(row["coverage"]["low"] for row in rows.values())
    axes.set(xlim=(min(0.8, lowest - 0.02), 1.005), xlabel="share of sets that hold the true class",
             title=f"Prediction sets at {1 - sets['error']:.0%}")  # fmt: skip


def _forest(axes: Axes, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw one value with its interval per row; a row without a value stays empty."""
    for position, row in enumerate(rows.values()):
        if row["value"] is not None:
            axes.plot([row["low"], row["high"]], [position, position], color=ACCENT, linewidth=1.5)
            axes.plot([row["value"]], [position], "o", color=ACCENT, markersize=5)
    axes.set_yticks(range(len(rows)), [_name(name) for name in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=SOFT, linewidth=0.5)


def anomaly_roc(axes: Axes, found: Mapping[str, Any]) -> None:
    """Draw the ROC curve of every anomaly score."""
    _diagonal(axes)
    shades = {
        "anomaly_score": (ACCENT, 2.0),
        "p_value": (INK, 1.0),
        "zeta": (WARN, 1.2),
        "uncertainty": ("#8a6d3b", 1.0),
    }
    for name, points in found["roc"].items():
        colour, width = shades[name]
        x, y = zip(*points, strict=True)
        label = f"{_name(name)}: {found['auc'][name]['value']:.3f}"
        axes.plot(x, y, color=colour, linewidth=width, label=label, drawstyle="steps-post")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="labelled cells called strange", ylabel="strangers called strange",
             title="Strangers, area under the curve")  # fmt: skip
    axes.legend(frameon=False, loc="lower right")


def groups(axes: Axes, found: Mapping[str, Any]) -> None:
    """Draw accuracy per group with its interval and number of cells."""
    _forest(axes, {f"{name} ({row['cells']})": row["headline"]["accuracy"] for name, row in found.items()})
    axes.set(xlabel="accuracy", title="Accuracy by group (cells)")


def group_differences(axes: Axes, found: Mapping[str, Any]) -> None:
    """Draw the difference of each group's accuracy to that of all other cells."""
    empty = {"value": None}
    _forest(axes, {name: (row["difference_to_others"] or {}).get("accuracy", empty) for name, row in found.items()})
    axes.axvline(0, color=WARN, linestyle="--")
    axes.set(xlabel="accuracy, group minus all other cells", title="Differences by group")
