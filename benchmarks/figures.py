"""Figures between the marks of README.md and of docs/benchmarks.md, reliability.md and export.md, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from benchmarks.evidence_away import home_and_away
from benchmarks.evidence_models import LEARNED, UNSEEN
from benchmarks.load_figures import load_text
from benchmarks.results import RESULTS, ROOT
from benchmarks.text import interval, percent, table

SCORING: Final = ROOT / "models" / "reference" / "scoring" / "scoring.json"


def read(name: str) -> dict[str, Any]:
    """Return ``docs/results/NAME.json``.

    Raises
    ------
    FileNotFoundError
        It was not measured yet; `benchmarks.measurements` has the command.
    """
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def accepted(found: dict[str, Any]) -> str:
    """Return how many cells were accepted, and how many of them were wrong, with the exact interval."""
    text = (
        f"{percent(found['accepted_share'])}; wrong among them {found['wrong_among_accepted']} of {found['accepted']}"
    )
    if found["error_among_accepted_interval"] is None:
        return text
    low, high = found["error_among_accepted_interval"]
    return f"{text} ({100 * low:.2f} to {100 * high:.2f} %)"


def classification() -> str:
    """Return the README's rows on classification."""
    home, away, unscaled = read("pbc_test"), read("bccd_cells_scaled"), read("bccd_cells")
    sets = home["set_coverage_95"]
    least = min(sets["by_class"], key=lambda name: sets["by_class"][name])

    def both(found: dict[str, Any]) -> str:
        among = percent(found["accuracy_among_present"], found["accuracy_among_present_interval"])
        return (
            f"{among} among its five classes; {percent(found['accuracy'], found['accuracy_interval'])} over all eight"
        )

    def site(found: dict[str, Any], label: str) -> list[str]:
        text = percent(found["balanced_among_present"], found["balanced_among_present_interval"])
        return [
            f"a further site, slides that were not trained on (`{label}`)",
            f"{text} balanced over its five classes",
            f"{found['cells']} cells of them",
        ]

    balanced = percent(home["balanced_accuracy"], home["balanced_accuracy_interval"])
    external = f"`bccd_cells`, {away['cells']} cells, at the scale of its fields ({away['um_per_pixel']} um)"
    rows = [
        [
            "balanced accuracy, eight classes",
            f"**{balanced}** at {home['evaluations_per_cell']:.1f} evaluations a cell",
            f"`pbc/test`, {home['cells']} cells",
        ],
        ["accepted without review (tolerated error 1 %)", accepted(home), "the same"],
        ["calibration error (ECE, 15 bins)", f"{home['expected_calibration_error']:.3f}", "the same"],
        [
            "95 % prediction sets",
            f"least covered class {least.replace('_', ' ')} {percent(sets['by_class'][least])}, "
            f"mean size {sets['mean_size']:.2f}",
            "the same",
        ],
        *(site(read(name), label) for name, (label, _) in LEARNED.items()),
        ["external site: another microscope and stain, no cell of it in training", both(away), external],
        ["the same cells, no scale given", both(unscaled), "the same"],
        *left_sites(),
        *unseen(),
    ]
    return table(["what", "figure", "data"], rows)


def at_home_and_away() -> str:
    """Return the README's first table."""
    return home_and_away(read("away"), read("own_site"))


def left_sites() -> list[list[str]]:
    """Return a row for each site that a training was made without."""
    rows = []
    for one in read("leave_site_out")["runs"]:
        ours, theirs = (interval(one[key]["balanced_accuracy"]) for key in ("denoiser", "classifier"))
        rows.append(
            [
                f"`{one['site']}` left out of a training: balanced accuracy among five classes",
                f"{ours}; a classifier trained on the same cells {theirs}",
                f"`{one['data']}`, {one['cells']} cells; a shorter training of the same design on the other sites",
            ]
        )
    return rows


def unseen() -> list[list[str]]:
    """Return a row for each class that a model was trained without, alone."""
    rows = []
    for name in UNSEEN:
        found = read(name)
        if len(found["hidden"]) > 1:
            continue
        ((kind, one),) = found["hidden"].items()
        auc, served = one["auc"]["anomaly_score"], one["as_served"]
        taken, ordinary = served["unseen_accepted"], served["ordinary_accepted"]
        rows.append(
            [
                f"{kind.replace('_', ' ')}s as a class never seen: AUC of the anomaly score",
                f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]; accepted {taken['count']} of {taken['of']} "
                f"(of the other cells {percent(ordinary['value'])})",
                "`pbc/test`, a shorter training of the same design on PBC alone, without the class",
            ]
        )
    return rows


def cost() -> str:
    """Return the table of probes against accuracy on the calibrating cells."""
    scoring = json.loads(SCORING.read_text())
    home = read("pbc_test")
    rows = [
        [budget, f"{seen['evaluations']:.1f}", f"{seen['balanced_accuracy']:.3f}", percent(seen["accepted"])]
        for budget, seen in scoring["by_budget"].items()
    ]
    return (
        f"{home['cells']} cells, {home['evaluations_per_cell']:.1f} evaluations a cell. By most probes, on the "
        f"{scoring['promise']['n']} calibrating cells of `pbc/val` (through the engine, with racing; from "
        "`scoring.json`):\n\n"
        + table(["most probes", "evaluations a cell", "balanced accuracy", "above the accept threshold"], rows)
    )


def speed() -> str:
    """Return the table of the server beside ONNX Runtime in process."""
    found = read("server_speed")
    low, middle, high = found["ratio_min_median_max"]
    through, alone = (
        float(np.median(found[f"evaluations_per_second_{side}"])) for side in ("through_server", "in_process")
    )
    rows = [
        ["evaluations a second through the server, median", f"{through:.0f}"],
        [f"the same number in process, batches of {found['baseline_batch']}, median", f"{alone:.0f}"],
        ["ratio, median of the pairs", f"{middle:.2f} (from {low:.2f} to {high:.2f})"],
        ["cells a second through the server", f"{found['cells_per_second_through_server']}"],
    ]
    return (
        f"{found['cells']} cells of `{found['data']}`, the first of each class by name; "
        f"{found['evaluations_per_cell']} evaluations a cell, as Triton counts them at the denoiser.\n\n"
        + table(["figure", "value"], rows)
    )


def soak() -> str:
    """Return the table of the soak and of its control."""
    found = read("soak")
    served, control = found["served"], found["control"]

    def trend(seen: dict[str, Any]) -> str:
        low, high = seen["bytes_per_request_interval"]
        return f"{seen['bytes_per_request']} ({low} to {high})"

    def held(name: str) -> list[str]:
        return [f"{seen['before'][name]}, {seen['after'][name]}" for seen in (served, control)]

    def both(what: str, value: Callable[[dict[str, Any]], object]) -> list[str]:
        return [what, str(value(served)), str(value(control))]

    rows = [
        both("seconds", lambda seen: f"{seen['seconds']:.0f}"),
        both("requests", lambda seen: seen["requests"]),
        both("cells answered", lambda seen: seen["outcomes"]["answered"]),
        both("wrong, swapped or lost without a word", lambda seen: seen["wrong_or_lost"]),
        both("requests whose deadline of 1 to 50 ms passed", lambda seen: seen["outcomes"].get("deadline", 0)),
        ["leak planted, bytes a request", "none", str(control["leaked_bytes_per_request"])],
        both("growth of memory (PSS without files), bytes a request", trend),
        both("called a leak", lambda seen: "yes" if seen["is_leak"] else "no"),
        ["open files before, after", *held("files")],
        ["threads before, after", *held("threads")],
        ["files in `/dev/shm` before, after", *held("shared_files")],
    ]
    rule = f"A leak is a slope whose 95 % interval lies above {found['tolerated_bytes_per_request']} bytes."
    return f"{rule}\n\n{table(['', 'served models', 'control'], rows)}"


def fuzz() -> str:
    """Return the table of what came of spoilt files and requests."""
    decoder, server = read("fuzz_decoder"), read("fuzz_server")

    def share(seen: dict[str, int]) -> str:
        return ", ".join(f"`{name}` {count}" for name, count in seen.items())

    rows = [
        ["cases", str(decoder["cases"]), str(server["requests"])],
        ["crashes, models that died", str(decoder["crashes"]), str(server["model_processes_died"])],
        ["unexpected exceptions, `internal`", str(decoder["unexpected_exceptions"]), str(server["internal"])],
        ["slowest, seconds", str(decoder["slowest_s"]), str(server["slowest_s"])],
        ["outcomes", share(decoder["outcomes"]), share(server["outcomes"])],
        ["begun with", f"{decoder['seed_files']} files", "the tensors of the contract"],
        ["reached", f"{decoder['branches_covered']} places in the code, {decoder['files_kept']} files kept", ""],
        ["by model", "", share(server["models"])],
    ]
    return table(["", "decoder, in process", "requests, through the server"], rows)


def intake() -> str:
    """Return the table of what is accepted of faulty pictures."""
    found = read("intake")
    rows = []
    for name, seen in found["ways"].items():
        low, high = seen["accepted_and_wrong_interval"]
        why = max(seen["reasons"], key=seen["reasons"].get, default="")
        refused = ", ".join(f"{count} `{code}`" for code, count in seen["refused"].items()) or "0"
        share = f"{seen['wrong_among_accepted']} ({100 * low:.1f} to {100 * high:.1f} % of all)"
        most = f"`{why}` {seen['reasons'][why]}" if why else ""
        rows.append([name, str(seen["cells"]), refused, str(seen["accepted"]), share, most])
    return table(["picture", "cells", "refused", "accepted", "accepted and wrong", "most frequent reason"], rows)


def service() -> str:
    """Return the README's rows on whole fields."""
    found = read("fields")
    rows = [
        [
            "seconds per field, median and 95th percentile",
            f"{found['seconds_per_field_median']:.2f} and {found['seconds_per_field_p95']:.2f}; with one white cell "
            f"{found['seconds_per_field_with_one_white_cell_median']:.2f}",
            f"{found['fields']} real fields, {len(found['failures'])} failures",
        ],
        ["server ready", f"after {found['ready_after_seconds']:.1f} s, first inference included", ""],
    ]
    return table(["what", "figure", "data"], rows)


def fields() -> str:
    """Return the table of real fields through the server."""
    found, cells = read("fields"), read("fields")["cells_found"]
    memory = [value for _, value in found["memory_mib"]]
    rows = [
        ["fields", f"{found['fields']} ({len(found['failures'])} failures)"],
        [
            "cells found",
            f"{cells['white_cell']} white-cell candidates, {cells['red_cell']} red cells, "
            f"{cells['platelet']} platelets",
        ],
        [
            "seconds per field, median / 95th percentile",
            f"{found['seconds_per_field_median']} / {found['seconds_per_field_p95']}",
        ],
        [
            "seconds per field with exactly one white cell, median",
            f"{found['seconds_per_field_with_one_white_cell_median']}",
        ],
        ["fields per second, one after another", f"{found['fields_per_second']}"],
        ["server ready after (warm inference included)", f"{found['ready_after_seconds']} s"],
        ["server's memory, first to last reading (PSS, all processes)", f"{memory[0]:.0f} to {memory[-1]:.0f} MiB"],
        ["slope after field 50", f"{found['memory_slope_mib_per_field']} MiB per field"],
    ]
    return table(["figure", "value"], rows)


def test_time_augmentation() -> str:
    """Return the table of variants of the test-time augmentation."""
    found = read("test_time_augmentation")
    rows = [
        [
            name,
            f"{row['evaluations']:.1f}",
            str(row["wrong"]),
            f"{row['log_loss']:.3f}",
            percent(row["above_threshold"]),
        ]
        for name, row in found["variants"].items()
    ]
    heads = ["turned evaluation", "evaluations a cell", "wrong", "log-loss", "above the accept threshold"]
    return f"{found['cells']} cells, {found['near_ties']} near ties, all probes.\n\n" + table(heads, rows)


def precision() -> str:
    """Return the table of precisions of the denoiser's graph."""
    rows = []
    for entry in read("export_precision")["rows"]:
        low, high = entry["interval"]
        rows.append(
            [
                entry["precision"],
                entry["run_by"].split(";")[0],
                str(entry["cells"]),
                f"{entry['max_score_error']:.2g}",
                f"{entry['mean_score_error']:.2g}",
                str(entry["labels_changed"]),
                f"{entry['decisions_changed']} ({low:.1%} to {high:.1%})",
                f"{1e3 * entry['cpu_s_per_evaluation']:.1f}",
                f"{entry['bytes'] / 1e6:.1f}",
                "offered" if entry["precision"] == "fp32" or entry["offered"] else "no",
            ]
        )
    heads = ["precision", "run by", "cells", "largest error of a score", "mean", "labels changed"]
    heads += ["decisions changed (95 %)", "ms of processor an evaluation", "MB", "default"]
    return table(heads, rows)


def full() -> str:
    """Return the table of the full-size export."""
    rows = [
        [name, str(stage["wall_s"]), str(stage["cpu_s"]), str(stage["peak_gib"])]
        for name, stage in read("export_full")["stages"].items()
        if "wall_s" in stage
    ]
    return table(["stage", "wall, s", "processor, s", "peak memory so far, GiB"], rows)


def scale() -> str:
    """Return the table of the simulated days."""
    rows = [
        [
            item["name"],
            f"{item['slide_p50_s']:g} / {item['slide_p95_s']:g} s",
            f"{item['stat_slide_p95_s']:g} s",
            f"{item['wait_per_field_p95_s']:g} s",
            f"{item['replicas_by_hour'][3]:g} / {max(item['replicas_by_hour']):g}",
            f"{item['replica_hours_per_1000_slides']:g}",
        ]
        for item in read("scale")["scenarios"]
    ]
    heads = ["scenario", "slide, median / 95 %", "stat slide, 95 %", "wait of a field, 95 %"]
    return table([*heads, "replicas, night / busiest hour", "replica hours per 1,000 slides"], rows)


def load() -> str:
    """Return the table of the server under load."""
    return load_text(read("load"))


PARTS: Final[dict[str, Callable[[], str]]] = {
    "at_home_and_away": at_home_and_away,
    "classification": classification,
    "cost": cost,
    "speed": speed,
    "intake": intake,
    "soak": soak,
    "fuzz": fuzz,
    "service": service,
    "fields": fields,
    "test_time_augmentation": test_time_augmentation,
    "precision": precision,
    "full": full,
    "scale": scale,
    "load": load,
}
