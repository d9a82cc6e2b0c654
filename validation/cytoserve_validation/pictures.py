"""What a site's pictures look like: the reference of familiar ones, and whether they are of one kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_scoring.classifier.familiarity import LEAST_CELLS, FamiliarPictures
from cytoserve_scoring.errors import BadShape
from cytoserve_statistics.resampling import FEW_SLIDES
from cytoserve_statistics.shares import clopper_pearson
from PIL import Image

from cytoserve_validation.answers import Answered, Flags
from cytoserve_validation.errors import MixedPictures, NoReference, TooFewCells
from cytoserve_validation.familiarity import usual_causes
from cytoserve_validation.labelled import Groups, some
from cytoserve_validation.mixture import Parts, furthest_parts

MAKE, MODEL = 271, 272
"""EXIF tags that name the camera."""


@dataclass(frozen=True)
class SitePictures:
    """The pictures of N calibration cells."""

    familiar: FamiliarPictures
    """The reference, made of all cells that were measured."""
    unfamiliar: Flags
    """(N,) cells that a reference made without them calls unfamiliar, and cells that were not measured."""
    summary: dict[str, Any]
    """What the file says about them, under ``pictures``."""
    warnings: tuple[str, ...]
    """What a person should know, as sentences."""


def site_pictures(
    cells: Answered, groups: Groups | None = None, kinds: Sequence[str] | None = None, allow_mixed: bool = False
) -> SitePictures:
    """Make the reference of familiar pictures of labelled cells.

    Parameters
    ----------
    cells : Answered
        N scored cells.
    groups : Groups, optional
        Of the same cells. Where slides are given, cells are judged by references of other slides.
    kinds : sequence of N str, optional
        See `file_kinds`.
    allow_mixed : bool
        Make a reference of two kinds of pictures too; the file says so.

    Raises
    ------
    TooFewCells
        Fewer than `LEAST_CELLS` were measured.
    NoReference
        No class has enough cells, or all its cells hold one and the same picture.
    MixedPictures
        The cells are of two scanners or stains.
    """
    measured = np.isfinite(cells.statistics).all(axis=1)
    if int(measured.sum()) < LEAST_CELLS:
        raise TooFewCells(
            f"{int(measured.sum())} of {len(cells)} scored cells were measured; {LEAST_CELLS} are needed at least to "
            "learn what this site's pictures look like: label more cells, and calibrate with a server of this release"
        )
    known = cells.take(measured)
    labels = [known.classes[c] for c in known.truth]
    ours = None if groups is None else groups.take(measured)
    slides = None if ours is None or ours.slide is None or len(set(ours.slide)) < 2 else ours.slide
    try:
        familiar = FamiliarPictures.fit(known.statistics, labels)
        assessed = FamiliarPictures.cross_fitted(known.statistics, labels, slides)
    except BadShape as error:
        raise NoReference(f"no reference of familiar pictures can be made: {error}") from error
    parts = furthest_parts(known.statistics, labels, _told(ours, kinds, measured))
    if parts is not None and parts.mixed and not allow_mixed:
        raise MixedPictures(
            f"{parts.sentence()}. The smaller part: {some(np.array(known.names)[parts.smaller].tolist())}. A "
            "calibration is for one scanner and stain: calibrate each part as a site of its own, or say "
            "--mixed-scanners to make one of both, which promises nothing for either alone"
        )
    unfamiliar = np.ones(len(cells), bool)
    unfamiliar[measured] = assessed.unfamiliar
    summary = {
        "compared_with": "other cells" if slides is None else "other slides",
        "unfamiliar": _share(unfamiliar, np.ones(len(cells), bool)),
        "per_class": {
            name: _share(unfamiliar, cells.truth == c)
            for c, name in enumerate(cells.classes)
            if (cells.truth == c).any()
        },
        "causes": dict(usual_causes(assessed.cause, assessed.unfamiliar)),
        "not_measured": int((~measured).sum()),
        "parts": None if parts is None else _described(parts, allow_mixed),
        "slides": None if ours is None or ours.slide is None else len(set(ours.slide)),
    }
    warnings = tuple(_warnings(cells, measured, summary, parts, known.names))
    return SitePictures(familiar, unfamiliar, summary, warnings)


def file_kinds(files: Sequence[Path]) -> list[str]:
    """Return the format of each file and the camera that it names; ``unreadable`` for one that is no image."""
    found = []
    for file in files:
        try:
            with Image.open(file) as picture:
                exif = picture.getexif()
                camera = " ".join(str(exif[tag]).strip() for tag in (MAKE, MODEL) if exif.get(tag))
                found.append(f"{picture.format}{f' of {camera}' if camera else ''}")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            found.append("unreadable")
    return found


def _told(groups: Groups | None, kinds: Sequence[str] | None, measured: Flags) -> Mapping[str, Sequence[str]]:
    told: dict[str, Sequence[str]] = {}
    if groups is not None:
        told["group"] = groups.group
        if groups.slide is not None:
            told["slide"] = groups.slide
    if kinds is not None:
        told["files of the kind"] = [kind for kind, kept in zip(kinds, measured, strict=True) if kept]
    return {what: values for what, values in told.items() if len(set(values)) > 1}


def _share(hits: Flags, among: Flags) -> dict[str, Any]:
    count, total = int((hits & among).sum()), int(among.sum())
    low, high = clopper_pearson(count, total)
    return {"count": count, "of": total, "value": count / total, "low": low, "high": high}


def _described(parts: Parts, allow_mixed: bool) -> dict[str, Any]:
    return {
        "distance": float(f"{parts.distance:.4g}"),
        "smaller": int(parts.smaller.sum()),
        "group": parts.group,
        "differences": list(parts.differences),
        "mixed": parts.mixed,
        "mixed_allowed": allow_mixed,
    }


def _warnings(
    cells: Answered, measured: Flags, summary: Mapping[str, Any], parts: Parts | None, known: Sequence[str]
) -> list[str]:
    out = []
    if not measured.all():
        names = [name for name, is_known in zip(cells.names, measured, strict=True) if not is_known]
        out.append(f"{some(names)}: not measured, so not in the reference, and counted as unfamiliar")
    if parts is not None and parts.mixed:
        out.append(
            f"made of mixed scanners or stains, as was asked: {parts.sentence()}; promises nothing for one alone"
        )
    elif parts is not None and parts.apart:
        odd = np.array(known)[parts.smaller].tolist()
        out.append(f"a few pictures are of another kind: {parts.sentence()}; look at {some(odd)}")
    slides = summary["slides"]
    if slides is not None and slides < FEW_SLIDES:
        out.append(
            f"the cells are of {slides} slide(s), fewer than {FEW_SLIDES}: cells of new slides will be unfamiliar more "
            "often, and a kind of slide that is not among these is not known to the risk guarantee"
        )
    return out
