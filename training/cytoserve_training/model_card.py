"""Write ``MODEL_CARD.md`` from the files that hold the figures, so that no number is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEAD = """# Reference models of CytoServe

For research use; not a medical device. Do not use for diagnosis or treatment.

Class-conditional diffusion classifier of single white cells (with erythroblasts and platelets), after Deltadahl et al. 2025
("CytoDiffusion"); trained from scratch by `training/`, with no weights of others. This card is written by
`cytoserve train card` from the results in `docs/results/`.

## Data
- `pbc`: Acevedo et al. 2020, "A dataset of microscopic peripheral blood cell images", Mendeley Data snkd93bnjr, CC BY 4.0; CellaVision
  DM96, one hospital. Split given: train for training, val for choosing and fitting, test only reported.
- Segmenter: BCCD (MIT) and TXL-PBC (MIT) fields, near-duplicates removed; see `docs/segmenter.md`.
- `bccd_cells`: foreign microscope and stain, never trained on.

## Limits
- One hospital, one scanner, one stain in training. Accuracy on another scanner is not known until it is measured there; the
  foreign-site figures below show how far it falls.
- PBC carries no patient or slide ids: intervals take cells as independent and are too narrow for new patients.
- No leukaemic cells (blasts) in any data set here: never seen, never tested. They will be given one of the eight classes.
- The accept threshold, temperature and anomaly reference are fitted on PBC validation cells and promise nothing elsewhere.
"""


def _percent(value: float, interval: list[float]) -> str:
    return f"{100 * value:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def accuracy_section(title: str, command: str, result: dict[str, Any]) -> str:
    """Return the section of one accuracy result."""
    rows = "\n".join(
        f"| {name} | {row['n']} | {_percent(row['recall'], row['interval'])} |"
        for name, row in result["recall"].items()
    )
    error = result["error_among_accepted_interval"]
    wrong = f"{result['wrong_among_accepted']} wrong among them" + (
        f", 95 % interval {100 * error[0]:.2f} to {100 * error[1]:.2f} %" if error else ""
    )
    return f"""
## {title}
{result["cells"]} cells through the server (`{command}`), {result["evaluations_per_cell"]:.0f} evaluations a cell; 95 % intervals in brackets.

| figure | value |
|---|---|
| balanced accuracy | {_percent(result["balanced_accuracy"], result["balanced_accuracy_interval"])} |
| accuracy | {_percent(result["accuracy"], result["accuracy_interval"])} |
| accepted without review | {result["accepted"]} of {result["cells"]} ({100 * result["accepted_share"]:.1f} %), {wrong} |

| class | cells | recall |
|---|---|---|
{rows}
"""


def training_section(training: dict[str, Any], scoring: dict[str, Any]) -> str:
    """Return the section on how the model was made."""
    tried = ", ".join(f"{name} {value:.3f}" for name, value in scoring["weightings_tried"].items())
    curve = ", ".join(
        f"{b + 1}: {v:.3f}" for b, v in enumerate(scoring["accuracy_by_budget"]) if b + 1 in (1, 2, 4, 8, 16)
    )
    promise = scoring["accept_promise"]
    threshold = scoring["accept_threshold"][scoring["default_budget"] - 1]
    return f"""
## Training
- Denoiser: {training["steps"]} steps of {training["batch"]} rows, AdamW {training["learning_rate"]} to {training["final_learning_rate"]} (cosine), EMA
  {training["ema"]}, seed {training["seed"]}, bf16 autocast, two shared CPU cores. Diffusion loss (v-prediction, cosine schedule) to step
  {training["margin_from"]}, then with the pairwise margin (weight {training["margin_weight"]}). Rotation, flip, scale, shift and stain jitter.
  The run was interrupted and resumed; its planned length was changed once on the way (a resumed step count, not a restart).
- Scoring fitted on {scoring["fitted_on"]}. Weightings of the probes tried, balanced accuracy there: {tried}; kept: {scoring["weighting"]}.
- Balanced accuracy on those validation cells by probes spent: {curve}; default budget {scoring["default_budget"]}.
- Accept threshold {threshold if threshold is None else round(threshold, 4)}: chosen so that the error among accepted cells is at most
  {100 * promise["tolerated_error"]:.0f} % with confidence {100 * promise["confidence"]:.0f} % on cells exchangeable with those {promise["n"]}. Temperature and threshold
  were fitted on the same cells; the test figures below are the check.
"""


def write_card(checkpoint: Path, results: Path) -> Path:
    """Write ``checkpoint/MODEL_CARD.md``.

    Raises
    ------
    FileNotFoundError
        A result is missing; run the command named in the section first.
    """
    read = lambda path: json.loads(path.read_text())  # noqa: E731
    text = HEAD + training_section(read(checkpoint / "training.json"), read(checkpoint / "scoring" / "scoring.json"))
    text += accuracy_section(
        "In domain: pbc/test",
        "python -m benchmarks.accuracy ../shared/data/pbc/test --um-per-pixel 0.18",
        read(results / "pbc_test.json"),
    )
    text += accuracy_section(
        "Foreign site: bccd_cells (argmax over all eight classes, five present)",
        "python -m benchmarks.accuracy ../shared/data/bccd_cells",
        read(results / "bccd_cells.json"),
    )
    path = checkpoint / "MODEL_CARD.md"
    path.write_text(text)
    return path
