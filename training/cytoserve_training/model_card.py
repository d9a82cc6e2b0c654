"""Write ``MODEL_CARD.md`` from the files that hold the figures, so that no number is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cytoserve_files import write_text

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
    curve = ", ".join(
        f"{budget}: {seen['balanced_accuracy']:.3f} at {seen['evaluations']:.1f} evaluations a cell"
        for budget, seen in scoring["by_budget"].items()
    )
    elimination = scoring["elimination"]
    began = (
        "It began with the averaged weights of earlier runs of the same recipe: 5,300 steps without the wide augmentation "
        "(seed 20261123, margin from step 2,100), then 6,800 with it, before the nuclear hue was normalised (seed 20261124)."
        if training.get("start_from")
        else ""
    )
    promise = scoring["promise"]
    threshold = scoring["accept_threshold"][scoring["default_budget"] - 1]
    return f"""
## Training
- Denoiser: {training["steps"]} steps of {training["batch"]} rows, AdamW {training["learning_rate"]} to {training["final_learning_rate"]} (cosine), EMA
  {training["ema"]}, seed {training["seed"]}, bf16 autocast, two shared CPU cores. Diffusion loss (v-prediction, cosine schedule) and, from step
  {training["margin_from"]}, the pairwise margin (weight {training["margin_weight"]}). {began}
- Augmentation: rotation, flip, scale, shift; stain strength and hue in optical density, blur, sharpening, noise, white outside a tight box
  (`cytoserve_training.augment`). Its ranges were chosen with the foreign site `bccd_cells` in view: nothing was trained on those cells, but their
  figure below is that of a development set.
- Scoring: {scoring["fitted_on"]}. The orders and weightings of the probes that were tried stand in `scoring/scoring.json` (`bank_tried`).
- Elimination at level {elimination["default_alpha"]}: with probability {elimination["confidence"]:.0%}, over cells exchangeable with {elimination["cells"]} of `pbc/val`, at most
  {100 * elimination["default_alpha"]:.0f} % of cells get another answer than with all {scoring["probes"]} probes for every class.
- Balanced accuracy on the calibrating cells by most probes a class: {curve}. Default {scoring["default_budget"]}.
- Accept threshold {threshold if threshold is None else round(threshold, 4)}: the error among accepted cells is at most {100 * promise["tolerated_error"]:.0f} % with confidence
  {100 * promise["confidence"]:.0f} % on cells exchangeable with those {promise["n"]}. Temperature and threshold were fitted on the same cells; the test figures below
  are the check.
"""


def write_card(checkpoint: Path, results: Path) -> Path:
    """Write ``checkpoint/MODEL_CARD.md``.

    Raises
    ------
    FileNotFoundError
        A result is missing; run the command named in the section first.
    """
    read = lambda path: json.loads(path.read_text())  # noqa: E731
    scaled = read(results / "bccd_cells_scaled.json")
    text = HEAD + training_section(read(checkpoint / "training.json"), read(checkpoint / "scoring" / "scoring.json"))
    text += accuracy_section(
        "In domain: pbc/test",
        "python -m benchmarks.accuracy ../shared/data/pbc/test --um-per-pixel 0.18",
        read(results / "pbc_test.json"),
    )
    text += accuracy_section(
        "Foreign site: bccd_cells (argmax over all eight classes, five present), at the scale of its fields",
        f"python -m benchmarks.accuracy ../shared/data/bccd_cells --um-per-pixel {scaled['um_per_pixel']}",
        scaled,
    )
    text += accuracy_section(
        "Foreign site: the same without a scale",
        "python -m benchmarks.accuracy ../shared/data/bccd_cells",
        read(results / "bccd_cells.json"),
    )
    path = checkpoint / "MODEL_CARD.md"
    write_text(path, text)
    return path
