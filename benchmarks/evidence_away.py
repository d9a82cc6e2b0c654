"""The section of docs/evidence.md on what is accepted away from home, and the README's table of home and away."""

from __future__ import annotations

from statistics import median
from typing import Any, Final

from cytoserve_contract.image_statistics import cause_in_words

from benchmarks.text import Criterion, Section, interval, percent, share, table

KEY: Final = "away"
TITLE: Final = "Away from home: what is accepted, with the check of familiar pictures and without"
MOST_WRONG_OF_ALL: Final = 0.01
MOST_WRONG_OF_ACCEPTED: Final = 0.05
MOST_LOST: Final = 0.02
MOST_COST: Final = 0.03

Row = dict[str, Any]


def away(results: dict[str, Any]) -> Section:
    """Return the section on acceptance through the server, at home, at external sites and of spoilt cells."""
    found = results.get("away")
    if found is None:
        return Section(KEY, TITLE, ("away", "check_cost"), [], "")
    rows, changed = found["sites"], found["spoilt"]
    home = rows[found["home"]]
    lost = home["without"]["accepted"]["value"] - home["with"]["accepted"]["value"]
    channels = [name for name, row in changed.items() if row["cells"] >= 1000]
    criteria = [
        *(external(site, row["with"]) for site, row in rows.items() if site != found["home"]),
        Criterion("home acceptance lost to the check: at most 2 points", f"{100 * lost:.1f} points", lost <= MOST_LOST),
        Criterion(
            f"{', '.join(channels)}: accepted and wrong, 0 of 1,000",
            "; ".join(share(changed[name]["with"]["wrong_of_all"]) for name in channels),
            all(changed[name]["with"]["wrong_of_all"]["count"] == 0 for name in channels),
        ),
        check_cost(results.get("check_cost")),
    ]  # fmt: skip
    heads = ["cells", "number", "unfamiliar", "accepted without the check", "wrong among them"]
    heads += ["accepted with it", "wrong among them"]
    text = (
        "Every cell goes through the server with the model's own calibration, each judged by itself. The check adds "
        "one reason for review; cells that no other reason holds back are those accepted without it.\n\n"
        + table(heads, [outcome(name, row) for name, row in rows.items()])
        + f"\n\nSpoilt cells of `{found['home']}`:\n\n"
        + table(heads, [outcome(name, row) for name, row in changed.items()])
    )
    return Section(KEY, TITLE, ("away", "check_cost"), criteria, text)


def own_sites(results: Row) -> Section:
    """Return the section on external sites with the calibration of PBC, and with their own."""
    title, names, found = "External sites with a calibration of their own", ("own_site",), results.get("own_site")
    if found is None:
        return Section("own_sites", title, names, [], "")
    criteria, rows = [], []
    for site, row in found["sites"].items():
        after, promise = row["calibration_of_the_site"]["acceptance"], row["promise"]
        wrong_ones, accepted = after["wrong"], after["accepted"]
        criteria.append(
            Criterion(
                f"{site}: at most {promise['tolerated_error']:.0%} wrong among accepted cells",
                f"{wrong_ones} of {accepted}" if accepted else f"none accepted: {too_little(row)}",
                wrong_ones <= promise["tolerated_error"] * accepted,
            )
        )
        own = "its own, by slide" if row["calibration_by_cell"] else "its own"
        parts = {"of pbc": row["calibration_of_pbc"], own: row["calibration_of_the_site"]}
        if row["calibration_by_cell"]:
            parts["its own, cells taken as independent"] = row["calibration_by_cell"]
        for name, part in parts.items():
            cells = [site, f"{row['calibrating']} and {part['cells']}", name, interval(part["accuracy"])]
            accepted_part = part["acceptance"]
            cells += [interval(part["accepted"]), f"{accepted_part['wrong']} of {accepted_part['accepted']}"]
            rows.append(cells)
    heads = ["site", "cells that calibrated, and measured", "calibration in force", "accuracy, all eight classes"]
    asked = sorted({guarantee(row) for row in found["sites"].values()})
    text = f"Risk guarantee: {' or '.join(asked)}. A calibration changes no label, only what is accepted.\n\n" + table(
        [*heads, "accepted", "wrong among accepted"], rows
    )
    return Section("own_sites", title, names, criteria, text)


def mixture(results: Row) -> Section:
    """Return the section on calibration folders that hold two scanners."""
    title, names, found = "Two scanners in one calibration folder", ("mixture",), results.get("mixture")
    if found is None:
        return Section("mixture", title, names, [], "")
    draws, rows = found["draws"], []
    for size, part in found["sizes"].items():
        rows.append([f"{size} cells of one set", refused(part["alone"], draws), worst(part["alone"], draws, most=True)])
        for minority, pairs in part["mixed"].items():
            name = f"{size} cells, {float(minority):.0%} of them of a second set"
            rows.append([name, refused(pairs, draws), worst(pairs, draws, most=False)])
    large = next(iter(found["sizes"].values()))
    criteria = [
        Criterion("no folder of one set is refused", refused(large["alone"], draws), not any(large["alone"].values())),
        Criterion(
            "every folder of two is refused",
            "; ".join(refused(pairs, draws) for pairs in large["mixed"].values()),
            all(count == draws for pairs in large["mixed"].values() for count in pairs.values()),
        ),
    ]
    text = (
        f"{draws} draws of each set and of each pair, told nothing but classes and pictures. The criteria are of the "
        f"larger folders.\n\n" + table(["folder", "refused", "worst"], rows)
    )
    return Section("mixture", title, names, criteria, text)


def refused(counts: dict[str, int], draws: int) -> str:
    """Return how many of all draws were refused."""
    return f"{sum(counts.values())} of {draws * len(counts)}"


def worst(counts: dict[str, int], draws: int, most: bool) -> str:
    """Return the set or pair with the most, or the fewest, that were refused."""
    name, count = (max if most else min)(counts.items(), key=lambda pair: pair[1])
    return f"{name}: {count} of {draws}"


def check_cost(found: Row | None) -> Criterion:
    """Return the criterion of the time that the check takes."""
    asked = "cost: at most 3 % of the server's time a cell"
    if found is None:
        return Criterion(asked, "-", None)
    check, server = (median(found[f"{side}_ms"]) for side in ("check", "server"))
    measured = f"{check:.2f} ms of {server:.0f} ms: {percent(found['share'])}, {found['cells']} cells"
    return Criterion(asked, measured, found["share"] <= MOST_COST)


def external(site: str, row: Row) -> Criterion:
    """Return the criterion of an external site."""
    wrong, accepted = row["wrong_of_all"], row["wrong_of_accepted"]
    met = wrong["value"] <= MOST_WRONG_OF_ALL and (
        accepted["value"] is None or accepted["value"] <= MOST_WRONG_OF_ACCEPTED
    )
    return Criterion(
        f"{site}: accepted and wrong at most 1 % of all its cells, and 5 % of those accepted",
        f"{share(wrong)}; {row['accepted']['count']} accepted",
        met,
    )


def outcome(name: str, row: Row) -> list[str]:
    """Return one row of a table."""
    cells = [name, str(row["cells"]), share(row["unfamiliar"])]
    for check in ("without", "with"):
        cells += [share(row[check]["accepted"]), share(row[check]["wrong_of_accepted"])]
    return cells


def home_and_away(found: Row, its_own: Row) -> str:
    """Return the README's table: a column for each set.

    Parameters
    ----------
    found : dict
        Result ``away``.
    its_own : dict
        Result ``own_site``.
    """
    sets = list(found["sites"].values())
    heads = ["", *(f"home: `{name}`" if name == found["home"] else f"away: `{name}`" for name in found["sites"])]

    def line(name: str, check: str) -> list[list[str]]:
        return [
            [f"accepted {name}", *(percent(row[check]["accepted"]["value"]) for row in sets)],
            ["wrong among them", *(wrong(row[check]["wrong_of_accepted"]) for row in sets)],
        ]

    own = [its_own["sites"].get(site) for site in found["sites"]]
    rows = [
        ["cells", *(str(row["cells"]) for row in sets)],
        ["recognised as unlike home", *(percent(row["unfamiliar"]["value"]) for row in sets)],
        *line("by CytoServe, calibrated at home", "with"),
        *line("if it did not check the picture", "without"),
        ["accepted with a calibration of its own", *("" if one is None else calibrated(one) for one in own)],
    ]
    usual = [
        "" if row["usual_cause"] is None or site == found["home"] else cause_in_words(row["usual_cause"])
        for site, row in found["sites"].items()
    ]
    blasts = ["leukaemic cells (blasts) referred", "not measured: no set can be passed on", *[""] * (len(sets) - 1)]
    return table(heads, [*rows, ["most frequent cause", *usual], blasts])


def wrong(row: Row) -> str:
    """Return wrong among accepted."""
    return "-" if row["value"] is None else f"{row['count']} of {row['of']}"


def calibrated(row: Row) -> str:
    """Return what a site's own calibration accepts on cells that it has not seen."""
    after = row["calibration_of_the_site"]
    accepted, mistaken = after["acceptance"]["accepted"], after["acceptance"]["wrong"]
    asked = f"{guarantee(row)}, {row['calibrating']} cells"
    if accepted == 0:
        return f"nothing: {too_little(row)} ({asked})"
    return f"{percent(after['accepted']['value'])}, wrong {mistaken} of {accepted} ({asked})"


def too_little(row: Row) -> str:
    """Return why a site's own calibration accepts nothing."""
    promise = row["calibration_of_the_site"]["site_file"]["promise"]
    if promise["independent"] == "slides":
        return f"the cells that calibrated are of {promise['slides']} slides or subjects"
    return "too many errors among the cells that calibrated"


def guarantee(row: Row) -> str:
    """Return what a site's calibration asked for."""
    promise = row["promise"]
    return f"{promise['tolerated_error']:.0%} error at {promise['confidence']:.0%} confidence"
