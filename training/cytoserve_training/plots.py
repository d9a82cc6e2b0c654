"""Plots of a run's metrics."""

from __future__ import annotations

import json
from pathlib import Path

from cytoserve_files import output_file


def plot_metrics(metrics: Path, out: Path, keys: tuple[str, ...]) -> None:
    """Draw columns of a JSON-lines file against ``step``, one panel each, with their ``val_KEY_*`` columns."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure, axes = plt.subplots(1, len(keys), figsize=(5 * len(keys), 3.5), squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        validation = sorted({name for row in rows for name in row if name.startswith(f"val_{key}_")})
        for name in (key, *validation):
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), marker="." if len(points) < 60 else None, label=name)
        if validation:
            axis.legend(fontsize=7)
        axis.set_title(key)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with output_file(out) as file:
        figure.savefig(file, dpi=110, format="png")
    plt.close(figure)
