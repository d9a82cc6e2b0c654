"""Figures between the marks of the reference model's ``MODEL_CARD.md``, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from cytoserve_scoring.classifier.familiarity import FamiliarPictures

from benchmarks.figures import SCORING, read
from benchmarks.measurements import BY_NAME
from benchmarks.previous import COMMIT as PREVIOUS
from benchmarks.results import ROOT
from benchmarks.text import percent, recalls, table

TRAINING: Final = ROOT / "models" / "reference" / "training.json"


def accuracy(name: str) -> str:
    """Return the figures of one accuracy result: the command, the headline, the recall of every class."""
    found = read(name)
    error = found["error_among_accepted_interval"]
    wrong = f"{found['wrong_among_accepted']} wrong among them" + (
        f", 95 % interval {100 * error[0]:.2f} to {100 * error[1]:.2f} %" if error else ""
    )
    taken = f"{found['accepted']} of {found['cells']} ({percent(found['accepted_share'])}), {wrong}"
    rows = [
        ["balanced accuracy", percent(found["balanced_accuracy"], found["balanced_accuracy_interval"])],
        ["accuracy", percent(found["accuracy"], found["accuracy_interval"])],
        ["accepted without review", taken],
    ]
    command = BY_NAME[name].command().split(" --out")[0]
    return (
        f"{found['cells']} cells through the server (`{command}`), {found['evaluations_per_cell']:.0f} evaluations a "
        f"cell; 95 % intervals in brackets.\n\n{table(['figure', 'value'], rows)}\n\n{recalls(found)}"
    )


def denoiser() -> str:
    """Return how the denoiser was trained, run by run."""
    runs = json.loads(TRAINING.read_text(encoding="utf-8"))
    lines = [
        f"Run {number}: {run['steps']} steps of {run['batch']} rows, AdamW {run['learning_rate']} to "
        f"{run['final_learning_rate']} (cosine), EMA {run['ema']}, seed {run['seed']}. Cross-entropy over the errors "
        f"of all classes weighs {run['margin_weight']} beside the diffusion loss of the true class; timesteps are "
        f"drawn as sigmoid(N({run['time_mean']}, {run['time_spread']})). By {run['settling'][1]:.0%} of the steps the "
        f"share of cells with wide stains or faults of scanners has fallen to {run['settled']:.0%} of its full value."
        for number, run in enumerate(runs, 1)
    ]
    first = runs[0]
    common = (
        f"All runs: v-prediction, cosine schedule, bf16 autocast, two shared CPU cores; sites "
        f"{', '.join(first['sites'])}; {first['strangers']:.1%} of each batch are strangers, for which no class may "
        f"lead. The first began with all but the class of the network whose weights have the "
        f"SHA-256 `{first['trunk_sha256'][:12]}`, those of commit "
        f"`{PREVIOUS[:7]}`; each other with the averaged weights of the one before."
    )
    return "\n".join(f"- {line}" for line in (*lines, common))


def scoring() -> str:
    """Return what was fitted on the validation cells, and what that guarantees."""
    found = json.loads(SCORING.read_text(encoding="utf-8"))
    racing, guarantee = found["elimination"], found["promise"]
    familiar = FamiliarPictures.from_json(found["familiar"])
    curve = ", ".join(
        f"{budget}: {seen['balanced_accuracy']:.3f} at {seen['evaluations']:.1f} evaluations a cell"
        for budget, seen in found["by_budget"].items()
    )
    threshold = found["accept_threshold"][found["default_budget"] - 1]
    lines = [
        f"Fitted on {found['fitted_on']}.",
        f"Racing at level {racing['default_alpha']}: with probability {racing['confidence']:.0%}, over cells "
        f"exchangeable with {racing['cells']} of `pbc/val`, at most {100 * racing['default_alpha']:.0f} % of cells get "
        f"another answer than with all {found['probes']} probes.",
        f"Balanced accuracy on the calibrating cells by most probes: {curve}. Default {found['default_budget']}.",
        f"Accept threshold {threshold if threshold is None else round(threshold, 4)}: the error among accepted cells "
        f"is at most {100 * guarantee['tolerated_error']:.0f} % with confidence {100 * guarantee['confidence']:.0f} % "
        f"on cells exchangeable with those {guarantee['n']}.",
        f"Familiar pictures: those of {familiar.cells} cells of `pbc/val`; at or below a p-value of "
        f"{100 * familiar.level:.3g} % a cell is not accepted.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def of(name: str) -> Callable[[], str]:
    """Return the part of one accuracy result."""
    return lambda: accuracy(name)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "card_denoiser": denoiser,
    "card_scoring": scoring,
    **{f"card_{name}": of(name) for name in ("pbc_test", "bccd_cells_scaled", "bccd_cells")},
}
