"""Sections of the page of evidence on scores: foreign site, unseen class, elimination, probes."""

from __future__ import annotations

from typing import Any

from .evidence_text import Bar, Section, percent, points, share, table

Results = dict[str, Any]

PUBLISHED_ON_THESE = "Tsutsui et al. 2023, arXiv 2303.01777"


def foreign(results: Results) -> Section:
    """Return the section on ``bccd_cells``."""
    served, scaled, found = results.get("bccd_cells"), results.get("bccd_cells_scaled"), results.get("foreign")
    title = "Foreign site: bccd_cells"
    scale = "SCALE" if scaled is None else scaled["um_per_pixel"]
    commands = [
        "python -m benchmarks.accuracy ../shared/data/bccd_cells --out docs/results/bccd_cells.json",
        f"python -m benchmarks.accuracy ../shared/data/bccd_cells --um-per-pixel {scale} "
        "--out docs/results/bccd_cells_scaled.json",
        "python -m benchmarks.foreign models/reference --peer runs/peer --out docs/results/foreign.json",
    ]
    parts, bars = [], []
    if served is not None:
        among = percent(served["accuracy_among_present"], served["accuracy_among_present_interval"])
        bars.append(
            Bar(
                "goal: accuracy 0.80 over the five classes present (server, no scale given)",
                among,
                served["accuracy_among_present"] >= 0.8,
            )
        )
        rows = [
            [name, str(row["n"]), percent(row["recall"], row["interval"])] for name, row in served["recall"].items()
        ]
        parts.append(
            f"{served['cells']} cells through the server without a scale: {among} among the classes present, "
            f"{percent(served['accuracy'], served['accuracy_interval'])} over all eight. Recall over all eight:\n\n"
            + table(["class", "cells", "recall"], rows)
        )
    if scaled is not None:
        among = percent(scaled["accuracy_among_present"], scaled["accuracy_among_present_interval"])
        bars.append(
            Bar(
                f"the same through the server, {scaled['um_per_pixel']} um per pixel given",
                among,
                scaled["accuracy_among_present"] >= 0.8,
            )
        )
        rows = [
            [name, str(row["n"]), percent(row["recall"], row["interval"])] for name, row in scaled["recall"].items()
        ]
        parts.append(
            f"With the scale given: {among} among the classes present, "
            f"{percent(scaled['accuracy'], scaled['accuracy_interval'])} over all eight; "
            f"{scaled['accepted']} accepted with the calibration of PBC, "
            f"{scaled['wrong_among_accepted']} of them wrong. Recall over all eight:\n\n"
            + table(["class", "cells", "recall"], rows)
        )
    if found is not None:
        bars += _foreign_bars(found)
        parts.append(_foreign_table(found))
        parts.append(
            f"Networks trained on Raabin-WBC reach 0.12 to 0.53 on these cells ({PUBLISHED_ON_THESE}; five classes, "
            "other training data). These cells were looked at in development: a development figure, not a blind one."
        )
    return Section("foreign", title, commands, bars, "\n\n".join(parts))


def _foreign_bars(found: dict[str, Any]) -> list[Bar]:
    base = found["base"]
    ours = found["rows"]["denoiser"][base]["among_present"]
    bars = [
        Bar(f"the same, in process, {base} known", percent(ours["value"], ours["interval"]), ours["value"] >= 0.8),
    ]
    ahead = found["denoiser_minus_peer"].get(base)
    text = "at least 10 points ahead of the peer trained here"
    bars.append(Bar(text, "not measured", None) if ahead is None else Bar(text, points(ahead), ahead["points"] >= 10.0))
    return bars


def _foreign_table(found: dict[str, Any]) -> str:
    rows = []
    for model, ways in found["rows"].items():
        for way, row in ways.items():
            against = found["against_base"].get(model, {}).get(way)
            ahead = found["denoiser_minus_peer"].get(way) if model == "denoiser" else None
            rows.append(
                [
                    model,
                    way,
                    percent(row["among_present"]["value"], row["among_present"]["interval"]),
                    percent(row["over_all"]["value"], row["over_all"]["interval"]),
                    percent(row["balanced_among_present"]["value"], row["balanced_among_present"]["interval"]),
                    points(against) if against else "base",
                    points(ahead) if ahead else "-",
                ]
            )
    head = ["model", "preparation", "among five", "over eight", "balanced, five", "points to base", "points to peer"]
    recall = found["rows"]["denoiser"][found["base"]]["recall_over_all"]
    often = found["always_the_commonest"]
    every = [[name, str(row["of"]), percent(row["value"], row["interval"])] for name, row in recall.items()]
    return (
        f"In process, {found['cells']} cells, {found['probes']} probes a class, "
        f"{found['site_scale']['um_per_pixel']:.4f} um per pixel. Always saying {often['class']} scores "
        f"{percent(often['value'])}.\n\n{table(head, rows)}\n\nRecall of the denoiser over all eight classes, "
        f"{found['base']}:\n\n{table(['class', 'cells', 'recall'], every)}"
    )


def unseen(results: Results) -> Section:
    """Return the section on classes that the model never saw."""
    commands, parts, bars = [], [], []
    for found in results.get("anomaly", {}).values():
        if not found["is_evidence"]:
            continue
        name, served = found["left_out"], found["served"]
        commands += _unseen_commands(found)
        row = found["auc"][served]
        ahead = found["served_minus_best_rival"]
        accepted = found["denoiser"]["bench"]["as_served"]["unseen_accepted"]
        rivals = "zeta alone" if found["peer"] is None else f"{found['best_rival']}"
        bars += [
            Bar(
                f"{name}: AUC at least 0.97 (as served)",
                f"{row['auc']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]",
                row["auc"] >= 0.97,
            ),
            Bar(
                f"{name}: ahead of every rival (best: {rivals})",
                f"{ahead['value']:+.3f} [{ahead['interval'][0]:+.3f}, {ahead['interval'][1]:+.3f}]",
                None if found["peer"] is None else ahead["interval"][0] > 0,
            ),
            Bar(f"{name}: at most 5 % of its cells accepted", share(accepted), accepted["value"] <= 0.05),
        ]
        parts.append(_unseen_text(found))
    return Section("unseen", "A class that was never seen", commands, bars, "\n\n".join(parts))


def _unseen_commands(found: dict[str, Any]) -> list[str]:
    name = found["left_out"]
    peer = f" --peer runs/peer_without_{name}" if found["peer"] else ""
    trained = f"--leave-out {name} --out runs/peer_without_{name}"
    runs = found["training"]
    return [
        *(
            f"cytoserve train denoiser --leave-out {name} --out {run['out']}"
            + (f" --start-from {run['start_from']}" if run["start_from"] else "")
            + f" --steps {run['steps']} --margin-from {run['margin_from']}"
            f" --learning-rate {run['learning_rate']} --seed {run['seed']}"
            for run in runs
        ),
        *([f"python -m benchmarks.peer train {trained} --steps {found['peer']['steps']}"] if peer else []),
        f"python -m benchmarks.anomaly {runs[-1]['out']}{peer} --probes {found['probes']}",
    ]


def _unseen_text(found: dict[str, Any]) -> str:
    pseudo = found["pseudo_leave_out_on_val"]
    rows = [
        [
            ("**" + name + "**" if name == found["served"] else name),
            f"{row['auc']:.3f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]",
            percent(row["found_at_5_percent_false_alarms"]),
            f"{pseudo[name]['mean']:.3f}" if name in pseudo else "-",
        ]
        for name, row in sorted(found["auc"].items(), key=lambda item: -item[1]["auc"])
    ]
    sides = [("denoiser", found["denoiser"]), *([("peer", found["peer"])] if found["peer"] else [])]
    bench = [
        [
            side,
            rule,
            share(row["unseen_accepted"]),
            share(row["ordinary_accepted"]),
            share(row["wrong_among_ordinary_accepted"], 2),
        ]
        for side, of in sides
        for rule, row in of["bench"].items()
    ]
    cells = found["cells"]
    return (
        f"### {found['left_out']}\nDenoiser and peer were trained without it. {cells['test_unseen']} of its test "
        f"cells, {cells['test_ordinary']} test cells of the other classes, {found['probes']} probes. Thresholds, "
        "references come from `pbc/val` without the class; the candidates' mean AUC "
        f"over seen classes that were not offered in turn is the last column (best: {found['chosen_statistic']}). The "
        "bold one is what the service answers with.\n\n"
        + table(["score", "AUC", "found at 5 % false alarms", "mean AUC on val, seen classes hidden"], rows)
        + "\n\nAccepted at thresholds fitted on val for 1 % error at 95 % confidence:\n\n"
        + table(["side", "rule", "unseen cells accepted", "ordinary accepted", "wrong among those"], bench)
    )


def anytime(results: Results) -> Section:
    """Return the section on elimination at any time."""
    title = "Elimination at any time, beside the rule that is served"
    found = results.get("anytime")
    run = "RUN" if found is None else found["run"]
    long = f" --fresh {found['long_bank']['probes']}" if found and "long_bank" in found else ""
    commands = [f"python -m benchmarks.anytime {run}{long} --out docs/results/anytime.json"]
    if found is None:
        return Section("anytime", title, commands, [], "")
    bars, parts = [], []
    for key, name in (("stored_bank", "packed bank"), ("long_bank", "long bank")):
        if key not in found:
            continue
        part = found[key]
        rows = [
            [
                rule,
                str(row["evaluations"]),
                percent(row["agreement"], digits=2),
                percent(row["balanced_accuracy"]),
                points(row["accuracy_minus_served"]),
                percent(row.get("open_at_the_end")),
                row["promise"],
            ]
            for rule, row in part["rules"].items()
        ]
        head = [
            "rule",
            "evaluations",
            "agreement",
            "balanced accuracy",
            "points to served",
            "open at the end",
            "promise",
        ]
        parts.append(
            f"The {name}: {part['cells']} cells of the calibrating half of `pbc/val`, {part['probes']} probes, level "
            f"{part['alpha']}, {part['orders']} random orders a cell.\n\n{table(head, rows)}"
        )
        bars += [
            Bar(
                f"{name}: {rule} agrees with the full-budget answer for at least {1 - part['alpha']:.0%}",
                percent(row["agreement"], digits=2),
                row["agreement"] >= 1 - part["alpha"],
            )
            for rule, row in part["rules"].items()
            if rule not in ("whole bank", "published repeated t-test")
        ]
    level = found["simulated_level"]
    rows = [
        [
            rule,
            gap,
            f"{row['lost']} of {level['cells']}: {percent(row['share'], row['interval'], 2)}",
            str(row["evaluations"]),
        ]
        for rule, gaps in level["rules"].items()
        for gap, row in gaps.items()
    ]
    parts.append(
        f"On simulated banks made to be hard ({level['classes']} classes, {level['probes']} probes, means exact "
        f"multiples of the gap apart), at level {level['alpha']}:\n\n"
        + table(["rule", "bank", "answer lost", "evaluations"], rows)
    )
    return Section("anytime", title, commands, bars, "\n\n".join(parts))


def probe_bank(results: Results) -> Section:
    """Return the section on the choice of probes."""
    title = "Which probes"
    found = results.get("probe_bank")
    run = "RUN" if found is None else found["run"]
    commands = [f"python -m benchmarks.probe_bank {run} --out docs/results/probe_bank.json"]
    if found is None:
        return Section("probe_bank", title, commands, [], "")
    rows = [
        [
            name,
            percent(row["home"]["balanced_accuracy"], row["home"]["balanced_accuracy_interval"]),
            points(row["home"]["minus_base"]),
            f"{row['home']['log_likelihood']:.3f}",
            percent(row["foreign"]["accuracy"]["value"], row["foreign"]["accuracy"]["interval"]),
            points(row["foreign"]["minus_base"]),
        ]
        for name, row in found["rows"].items()
    ]
    cells = found["cells"]
    text = (
        f"{found['probes']} probes of every class, no elimination. Home: {cells['home']} cells of the calibrating half "
        f"of `pbc/val` (balanced accuracy). Foreign: {cells['foreign']} cells of `bccd_cells`, accuracy among the five "
        f"present, at {found['site_scale']['um_per_pixel']:.4f} um per pixel. Differences are paired, in points "
        f"of accuracy, to *{found['base']}*.\n\n"
        + table(["probes", "home", "points", "log-likelihood", "foreign", "points, foreign"], rows)
    )
    served = found["rows"][found["served"]]
    bars = [
        Bar(
            f"the bank that is served is not behind random order with published weights, {name}",
            points(served[place]["minus_base"]),
            served[place]["minus_base"]["points"] >= 0,
        )
        for place, name in (("home", "in domain"), ("foreign", "on the foreign site"))
    ]
    return Section("probe_bank", title, commands, bars, text)
