"""The report of one load: a page with plots that needs no network, and the figures beside it as JSON.

The page holds its plots as SVG inside the HTML. Plots are made by matplotlib; without it the page has the tables only.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from load_samples import ANSWERED, OUTCOMES, Sample, by_stream, recovery
from load_shapes import SHAPES

BINS: Final = 30
"""Parts of the duration in the plots."""

STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def write_report(
    folder: Path,
    settings: dict[str, Any],
    capacity: dict[str, float],
    samples: Sequence[Sample],
    readings: Sequence[dict[str, Any]],
) -> Path:
    """Write ``report.html`` and ``report.json`` into a folder; return the page's path.

    Parameters
    ----------
    folder : Path
    settings : dict
        Of the run: shape, seconds, deadline, seed, callers.
    capacity : dict
        Requests a second by stream, as measured or given.
    samples : sequence of Sample
    readings : sequence of dict
        Of `load_watch.Watch`; may be empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {**settings, "capacity": capacity, "streams": by_stream(samples), "readings": list(readings)}
    part = SHAPES[str(settings["shape"])].overload
    if part:
        found["recovery_s"] = recovery(samples, *(edge * settings["seconds"] for edge in part))
    document = {**found, "samples": [one.json() for one in samples]}
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(_page(found, samples), encoding="utf-8")
    return page


def _page(found: dict[str, Any], samples: Sequence[Sample]) -> str:
    name = str(found["shape"])
    plots = _plots(found, samples) if find_spec("matplotlib") else "<p>No plots: matplotlib is not installed.</p>"
    errors = found["streams"]["all"]["errors"]
    listed = "".join(f"<li>{count} x {html.escape(text)}</li>" for text, count in errors.items())
    capacity = "; ".join(f"{html.escape(stream)} {rate:.3g}/s" for stream, rate in found["capacity"].items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Load: {name}</title><style>{STYLE}</style>'
        f"<h1>Load: {name}</h1><p>{html.escape(SHAPES[name].meaning)}; {found['seconds']:g} s, deadline "
        f"{found['deadline']:g} s, seed {found['seed']}, {found['callers']} callers. Capacity of each stream alone: "
        f"{capacity}.</p><p>Seconds count from the moment of arrival. Percentiles are of answered requests.</p>"
        f"{_table(found['streams'])}{plots}{f'<h2>Errors</h2><ul>{listed}</ul>' if listed else ''}</html>\n"
    )


def _table(streams: dict[str, dict[str, Any]]) -> str:
    heads = ["stream", "sent", *OUTCOMES, "p50", "p95", "p99", "longest"]
    lines = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for name, one in streams.items():
        times = ["-" if value is None else f"{value:.3f} s" for value in one["seconds"].values()]
        cells = [html.escape(name), str(one["sent"]), *(str(one[outcome]) for outcome in OUTCOMES), *times]
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _plots(found: dict[str, Any], samples: Sequence[Sample]) -> str:
    """Return arrivals, latencies, and memory with waiting requests over time, as one SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True)
    edges = np.linspace(0, found["seconds"], BINS + 1)
    _arrivals(above, samples, edges)
    _latencies(middle, samples, edges)
    _server(below, found["readings"])
    below.set_xlabel("seconds")
    below.set_xlim(0, max([found["seconds"], *(one["at"] for one in found["readings"])]))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _arrivals(axes: Any, samples: Sequence[Sample], edges: Any) -> None:
    width = edges[1] - edges[0]
    bottom = np.zeros(len(edges) - 1)
    for outcome, colour in zip(OUTCOMES, ("#4c9f70", "#e0a030", "#c0504d", "#7f1d1d"), strict=True):
        counts, _ = np.histogram([one.at for one in samples if one.outcome == outcome], edges)
        axes.bar(edges[:-1], counts / width, width, bottom, align="edge", color=colour, label=outcome)
        bottom = bottom + counts / width
    axes.set_ylabel("arrivals a second")
    axes.legend(loc="upper right", fontsize="small")


def _latencies(axes: Any, samples: Sequence[Sample], edges: Any) -> None:
    middle = (edges[:-1] + edges[1:]) / 2
    for rank, style in ((50, "-"), (95, "--"), (99, ":")):
        for stream in dict.fromkeys(one.stream for one in samples):
            chosen = [one for one in samples if one.stream == stream and one.outcome == ANSWERED]
            place = np.digitize([one.at for one in chosen], edges) - 1
            times = [[one.seconds for one, at in zip(chosen, place, strict=True) if at == bin_] for bin_ in range(BINS)]
            axes.plot(
                middle,
                [np.percentile(part, rank) if part else np.nan for part in times],
                style,
                color=f"C{list(dict.fromkeys(one.stream for one in samples)).index(stream)}",
                label=f"{stream}, p{rank}",
            )
    axes.set_ylabel("latency, s")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right", fontsize="x-small", ncols=3)


def _server(axes: Any, readings: Sequence[dict[str, Any]]) -> None:
    at = [one["at"] for one in readings]
    models = sorted({model for one in readings for model, count in one["waiting"].items() if count})
    for model in models:
        axes.plot(at, [one["waiting"].get(model, 0) for one in readings], label=f"waiting: {model}")
    axes.set_ylabel("requests that wait")
    axes.set_ylim(bottom=0)
    if any(one["mib"] for one in readings):
        memory = axes.twinx()
        memory.plot(at, [one["mib"] or np.nan for one in readings], color="#555", label="memory")
        memory.set_ylabel("server's memory, MiB")
        memory.set_ylim(bottom=0)
    if models:
        axes.legend(loc="upper left", fontsize="small")
