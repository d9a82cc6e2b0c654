"""Sections of docs/evidence.md on the model: interval of a probability, external site, classes never seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.measurements import ARCHIVE, Measurement
from benchmarks.text import Criterion, Section, interval, percent, points, recalls, share, table

Results = dict[str, Any]

PUBLISHED_ON_THESE: Final = "Tsutsui et al. 2023, arXiv 2303.01777"
UNSEEN: Final = ("unseen_erythroblast", "unseen_immature_granulocyte", "unseen_three")
SCORES: Final = {
    "anomaly_score": "**anomaly score**",
    "p_value": "anomaly p-value",
    "zeta": "zeta, as published",
    "uncertainty": "one minus the probability",
}
"""How the page calls the scores; the bold one is what the service answers with."""

ROWS: Final = {"denoiser": "denoiser", "peer": "baseline"}


def commands(section: Section, results: Results, known: Mapping[str, Measurement]) -> list[str]:
    """Return the commands that make a section's figures; those of the archive after the checkout that holds them."""
    listed = [known[name] for name in section.results if not known[name].archived]
    plain = [f"$ {line}" for one in listed for line in (one.first, one.command()) if line]
    archived = [line for name in section.results if known[name].archived for line in _archived(results.get(name))]
    if archived:
        archived = [f"# in a checkout of {ARCHIVE[:7]}", *archived]
    return plain + archived


def _archived(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        "$ python -m benchmarks.peer train --out runs/peer",
        "$ python -m benchmarks.foreign models/reference --peer runs/peer --out docs/results/foreign.json",
    ]


def probe_interval(results: Results) -> Section:
    """Return the section on the interval of a probability over the draw of the noise."""
    title, names = "Interval of a probability: its coverage under other noise", ("probe_interval",)
    found = results.get("probe_interval")
    if found is None:
        return Section("probe_interval", title, names, [], "")
    expected, cells = found["expected_coverage"], found["cells"]
    passes = {f"{budget} probes": row for budget, row in found["first_look"].items()}
    passes["after test-time augmentation"] = found["second_look"]
    criteria, rows = [], []
    for name, row in passes.items():
        whole = row["all"]
        criteria.append(
            Criterion(
                f"{name}: empirical coverage at least {percent(expected)}",
                percent(whole["covered"], whole["interval"]),
                whole["interval"][1] >= expected,
            )
        )
        for band, part in row.items():
            if isinstance(part, dict):
                covered = percent(part["covered"], part["interval"])
                rows.append([name, band, str(part["answers"]), covered, f"{part['median_width']:.3f}"])
    text = (
        f"{found['fresh_banks']} banks of fresh noise (same timesteps and weights), each compared with all others "
        f"together. The {cells['least_sure']} least certain cells of the calibrating half of `pbc/val` and "
        f"{cells['others']} others; {cells['looked_at_again']} of them tie and are augmented. An exact "
        f"{found['level']:.0%} interval covers the mean of so many banks in {percent(expected)}. What a bank's noise "
        f"adds to the difference of a tied pair correlates by {found['turns_correlation']:.2f} between quarter turns. "
        "A criterion counts as met where the interval of the coverage reaches it.\n\n"
        + table(["probes", "probability", "answers", "covered", "median width"], rows)
    )
    return Section("probe_interval", title, names, criteria, text)


LEARNED: Final = {"bcisc_test": ("bcisc", 0.93), "chula_held_out": ("chula_wbc", 0.75)}
"""Results on sites of which other slides or subjects were trained on: the site, and the balanced accuracy to reach."""


def learned_sites(results: Results) -> Section:
    """Return the section on new slides of the small sites that were trained on."""
    parts, criteria = [], []
    for name, (site, goal) in LEARNED.items():
        found = results.get(name)
        if found is None:
            continue
        balanced = percent(found["balanced_among_present"], found["balanced_among_present_interval"])
        criteria.append(
            Criterion(
                f"{site}: balanced accuracy at least {goal} over its five classes",
                balanced,
                found["balanced_among_present"] >= goal,
            )
        )
        parts.append(
            f"`{site}`: {found['cells']} cells through the server, {found['evaluations_per_cell']:.1f} evaluations a "
            f"cell; {percent(found['accuracy_among_present'], found['accuracy_among_present_interval'])} among the "
            f"five classes present, {percent(found['accuracy'], found['accuracy_interval'])} over all eight. Recall "
            f"over all eight:\n\n{recalls(found)}"
        )
    title = "Sites of which other slides were trained on: bcisc, chula_wbc"
    return Section("learned_sites", title, tuple(LEARNED), criteria, "\n\n".join(parts))


def previous(results: Results) -> Section:
    """Return the section on the weights that were served before."""
    title, names, found = "Against the weights before", ("previous",), results.get("previous")
    if found is None:
        return Section("previous", title, names, [], "")
    low, middle, high = found["speed_ratio_min_median_max"]
    present, before = found["present"], found["previous"]
    criteria = [
        Criterion(
            "at most four evaluations a cell",
            f"{present['evaluations_per_cell']}",
            present["evaluations_per_cell"] <= 4,
        ),
        Criterion(
            "at least 6 times their cells per second",
            f"{middle} times (from {low} to {high} in {found['rounds']} rounds)",
            middle >= 6,
        ),
    ]
    rows = [
        [
            side,
            f"`{row['weights_sha256'][:12]}`",
            f"{row['evaluations_per_cell']}",
            f"{row['cells_per_second']}",
            f"{row['right']} of {found['cells']}",
        ]
        for side, row in (("served", present), ("before", before))
    ]
    text = (
        f"{found['cells']} cells of `{found['data']}`, two servers side by side that take turns; the weights before "
        f"are those of commit `{found['previous_commit'][:7]}`, whose denoiser was told one class an evaluation.\n\n"
        + table(["weights", "hash", "evaluations a cell", "cells a second", "right"], rows)
    )
    return Section("previous", title, names, criteria, text)


def external_site(results: Results) -> Section:
    """Return the section on ``bccd_cells``."""
    served, scaled, found = results.get("bccd_cells"), results.get("bccd_cells_scaled"), results.get("external_site")
    parts, criteria = [], []
    if served is not None:
        among = percent(served["accuracy_among_present"], served["accuracy_among_present_interval"])
        text = "accuracy at least 0.80 over the five classes present (server, no scale given)"
        criteria.append(Criterion(text, among, served["accuracy_among_present"] >= 0.8))
        parts.append(
            f"{served['cells']} cells through the server without a scale: {among} among the classes present, "
            f"{percent(served['accuracy'], served['accuracy_interval'])} over all eight. Recall over all eight:\n\n"
            + recalls(served)
        )
    if scaled is not None:
        among = percent(scaled["accuracy_among_present"], scaled["accuracy_among_present_interval"])
        text = f"accuracy at least 0.854, the same through the server, {scaled['um_per_pixel']} um per pixel given"
        criteria.append(Criterion(text, among, scaled["accuracy_among_present"] >= 0.854))
        parts.append(
            f"With the scale given: {among} among the classes present, "
            f"{percent(scaled['accuracy'], scaled['accuracy_interval'])} over all eight; "
            f"{scaled['accepted']} accepted with the calibration of PBC, "
            f"{scaled['wrong_among_accepted']} of them wrong. Recall over all eight:\n\n" + recalls(scaled)
        )
    if found is not None:
        criteria += _in_process_criteria(found)
        parts.append(_in_process(found))
        parts.append(
            f"Networks trained on Raabin-WBC reach 0.12 to 0.53 on these cells ({PUBLISHED_ON_THESE}; five classes, "
            "other training data). These cells were used in development, so these are development figures."
        )
    names = ("bccd_cells", "bccd_cells_scaled", "external_site")
    return Section("external_site", "External site: bccd_cells", names, criteria, "\n\n".join(parts))


def _in_process_criteria(found: dict[str, Any]) -> list[Criterion]:
    base = found["base"]
    ours, ahead = found["rows"]["denoiser"][base]["among_present"], found["denoiser_minus_peer"][base]
    text = "at least 10 points ahead of a baseline trained on the same cells"
    measured = percent(ours["value"], ours["interval"])
    return [
        Criterion(f"the weights before, in process, {base} known", measured, ours["value"] >= 0.8),
        Criterion(f"the weights before: {text}", points(ahead), ahead["points"] >= 10.0),
    ]


def _in_process(found: dict[str, Any]) -> str:
    rows = []
    for model, ways in found["rows"].items():
        for way, row in ways.items():
            against = found["against_base"].get(model, {}).get(way)
            ahead = found["denoiser_minus_peer"].get(way) if model == "denoiser" else None
            rows.append(
                [
                    ROWS[model],
                    way,
                    percent(row["among_present"]["value"], row["among_present"]["interval"]),
                    percent(row["over_all"]["value"], row["over_all"]["interval"]),
                    percent(row["balanced_among_present"]["value"], row["balanced_among_present"]["interval"]),
                    points(against) if against else "reference",
                    points(ahead) if ahead else "-",
                ]
            )
    head = ["model", "preparation", "among five", "over eight", "balanced, five"]
    head += [f"points to {found['base']}", "points to baseline"]
    recall = found["rows"]["denoiser"][found["base"]]["recall_over_all"]
    often = found["always_the_commonest"]
    every = [[name, str(row["of"]), percent(row["value"], row["interval"])] for name, row in recall.items()]
    return (
        f"The weights before these, in process, {found['cells']} cells, {found['probes']} probes a class, "
        f"{found['site_scale']['um_per_pixel']:.4f} um per pixel. Always answering {often['class']} scores "
        f"{percent(often['value'])}. The baseline is a small convolutional classifier trained on the same crops.\n\n"
        f"{table(head, rows)}\n\nRecall of the denoiser over all eight classes, {found['base']}:\n\n"
        f"{table(['class', 'cells', 'recall'], every)}"
    )


def unseen(results: Results) -> Section:
    """Return the section on classes that the model never saw."""
    parts, criteria = [], []
    for found in (results[name] for name in UNSEEN if name in results):
        with_others = "" if len(found["hidden"]) == 1 else f" (one of {len(found['hidden'])} left out)"
        for name, one in found["hidden"].items():
            at_80 = one["at_80_percent_accepted"]["unseen_accepted"]
            criteria += [
                Criterion(
                    f"{name}{with_others}: AUC at least 0.97 (as served)",
                    _auc(one["auc"]["anomaly_score"]),
                    one["auc"]["anomaly_score"]["value"] >= 0.97,
                ),
                Criterion(
                    f"{name}{with_others}: at most 5 % accepted where 80 % of the ordinary cells are",
                    share(at_80),
                    at_80["value"] <= 0.05,
                ),
            ]
        parts.append(_unseen_run(found))
    return Section("unseen", "A class that was never seen", UNSEEN, criteria, "\n\n".join(parts))


def left_site(results: Results) -> Section:
    """Return the section on sites that a training never saw, against a classifier of the same cells."""
    title = "A site that was never seen, against a classifier"
    found = results.get("leave_site_out")
    if found is None:
        return Section("left_site", title, ("leave_site_out",), [], "")
    criteria = [
        Criterion(
            "mean over the sites left out, denoiser ahead of the classifier by at least 10 points of balanced accuracy",
            f"{100 * found['mean_ahead']:+.1f} points ({percent(found['mean']['denoiser'])} and "
            f"{percent(found['mean']['classifier'])})",
            found["mean_ahead"] >= 0.1,
        ),
        *(
            Criterion(
                "bcisc left out: balanced accuracy at least 0.80",
                interval(one["denoiser"]["balanced_accuracy"]),
                one["denoiser"]["balanced_accuracy"]["value"] >= 0.8,
            )
            for one in found["runs"]
            if one["site"] == "bcisc"
        ),
    ]
    rows = [
        [
            f"`{one['data']}`, {one['cells']} cells"
            + (f" of {one['slides']} subjects or slides" if one["slides"] else ""),
            ", ".join(f"{name} {cells}" for name, cells in one["trained_on"].items()),
            interval(one["denoiser"]["balanced_accuracy"]),
            interval(one["classifier"]["balanced_accuracy"]),
            points(
                {
                    "points": 100 * one["ahead"]["value"],
                    "interval": [100 * one["ahead"][end] for end in ("low", "high")],
                }
            ),
            " / ".join(interval(one[key]["wrong_among_surer"]) for key in ("denoiser", "classifier")),
            " / ".join(percent(one["at_home"][key]) for key in ("denoiser", "classifier")),
        ]
        for one in found["runs"]
    ]
    head = ["left out", "cells trained on", "denoiser", "classifier", "points ahead"]
    head += ["wrong among the surer half (denoiser / classifier)", "at home (denoiser / classifier)"]
    training = found["runs"][0]["training"]
    return Section(
        "left_site",
        title,
        ("leave_site_out",),
        criteria,
        f"Balanced accuracy among the five classes that all sites have. A training from nothing of {training['steps']} "
        f"steps for each site, which saw no cell, no stain and no empty window of it (seed {training['seed']}). The "
        "classifier is a ResNet-18 of half its width with group normalisation, trained on half as many draws of the "
        "same cells with the same augmentation; both see every cell in its four quarter turns. At home: validation "
        f"cells of the sites that were trained on.\n\n{table(head, rows)}",
    )


def _auc(row: dict[str, Any]) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _unseen_run(found: dict[str, Any]) -> str:
    """Return the tables of one training without some classes."""
    hidden = found["hidden"]
    names = ", ".join(hidden)
    settings = found["training"]
    scores = [[SCORES[key], *(_auc(one["auc"][key]) for one in hidden.values())] for key in SCORES]
    rules = [
        [
            name,
            rule,
            share(row["unseen_accepted"]),
            share(row["ordinary_accepted"]),
            share(row["wrong_among_ordinary_accepted"], 2),
        ]
        for name, one in hidden.items()
        for rule, row in (
            ("as served", one["as_served"]),
            *((f"anomaly level {level}", row) for level, row in one["at_level"].items() if level != "0.05"),
            ("where 80 % of the ordinary cells are accepted", one["at_80_percent_accepted"]),
        )
    ]
    answered = "; ".join(
        f"{name} as " + ", ".join(f"{label} {count}" for label, count in one["answered"].items())
        for name, one in hidden.items()
    )
    return (
        f"### Without {names}\n"
        f"A training from nothing of {settings['steps']} steps on PBC alone, without {names}; the other classes reach "
        f"a balanced accuracy of {percent(found['balanced_accuracy'])} on `pbc/test`. "
        f"{sum(one['cells'] for one in hidden.values())} test cells without a class, {found['ordinary_cells']} of the "
        f"other classes. Everything is fitted on `pbc/val` without them. Accepted from a probability of "
        f"{found['accept_threshold']:.3f} on. Answered: {answered}.\n\n"
        + table(["score: AUC", *hidden], scores)
        + "\n\n"
        + table(["class", "rule", "cells of it accepted", "ordinary cells accepted", "wrong among those"], rules)
    )
