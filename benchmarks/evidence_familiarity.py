"""The section of docs/evidence.md on recognising unfamiliar pictures."""

from __future__ import annotations

from typing import Any

from cytoserve_contract.image_statistics import cause_in_words

from benchmarks.text import Criterion, Section, percent, share, table

KEY = "familiarity"
TITLE = "Unfamiliar pictures: how well they are recognised"


def familiarity(results: dict[str, Any]) -> Section:
    """Return the section on image statistics against a reference of the home site."""
    found = results.get("familiarity")
    if found is None:
        return Section(KEY, TITLE, ("familiarity",), [], "")
    home, external = found["home"], found["external"]
    worst = max(home["samples_of_one_class"].items(), key=lambda pair: pair[1]["rejected"] / pair[1]["of"])
    channels = ("channels swapped (BGR)", "inverted", "YCbCr read as RGB")
    criteria = [
        Criterion("home cells called unfamiliar: at most 1 %", share(home["cells"], 2), home["cells"]["value"] <= 0.01),
        Criterion(
            f"home samples of {home['cells_of_a_sample']} cells rejected: at most 1 in 1,000",
            counted(home["samples"]),
            rate(home["samples"]) <= 0.001,
        ),
        Criterion(
            "the same of one class only: at most 1 in 200",
            f"worst {worst[0].replace('_', ' ')}: {counted(worst[1])}",
            rate(worst[1]) <= 0.005,
        ),
        Criterion(
            f"external samples of {found['cells_of_an_external_sample']} cells rejected: at least 99 %",
            "; ".join(f"{site} {counted(row['samples'])}" for site, row in external.items()),
            all(rate(row["samples"]) >= 0.99 for row in external.values()),
        ),
        Criterion(
            "swapped channels, inversion, YCbCr: every cell unfamiliar",
            "; ".join(f"{name} {share(found['spoilt'][name]['cells'])}" for name in channels),
            all(found["spoilt"][name]["cells"]["value"] == 1 for name in channels),
        ),
    ]
    sites = [
        [
            site,
            share(row["cells"]),
            counted(row["samples"]),
            cause_in_words(row["usual_cause"]),
            share(row["with_its_own_reference"]),
            *new_slides(row["new_slides"]),
        ]
        for site, row in external.items()
    ]
    spoilt = [
        [name, share(row["cells"]), counted(row["samples"]), cause_in_words(row["usual_cause"])]
        for name, row in found["spoilt"].items()
    ]
    text = (
        f"Reference: {found['reference']['cells']} cells of `{found['reference']['data']}`; no class score is used. "
        "A sample is judged as the client judges it.\n\n"
        + table(["external site", "cells unfamiliar", "samples rejected", "usual cause", "unfamiliar to a reference of "
                 "half its own cells (the other half)", "new slides to a reference of "
                 "other slides: cells unfamiliar", "samples rejected"], sites)
        + f"\n\nSpoilt cells of `{home['data']}`; samples of {home['cells_of_a_sample']} are drawn from them.\n\n"
        + table(["spoilt by", "cells unfamiliar", "samples rejected", "usual cause"], spoilt)
    )  # fmt: skip
    return Section(KEY, TITLE, ("familiarity",), criteria, text)


def new_slides(row: dict[str, Any] | None) -> list[str]:
    """Return what a reference of some slides of a site says of other slides of it."""
    if row is None:
        return ["slides not known"] * 2
    # No interval: the same slides come again in every split.
    return [percent(row["cells"]["value"]), f"{counted(row['samples'])} ({row['slides']} slides)"]


def rate(row: dict[str, int]) -> float:
    """Return rejected over all."""
    return row["rejected"] / row["of"]


def counted(row: dict[str, int]) -> str:
    """Return ``3 of 40``."""
    return f"{row['rejected']} of {row['of']}"
