"""What a page shows, as data: the template `page.html.jinja` only lays it out.

A blinded page holds nothing of what the model said: it is left out here, not hidden by the browser.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cytoserve_client.results import SampleFamiliarity, ScoredCell
from cytoserve_contract.names import VERDICTS
from cytoserve_files.selection import SYSTEM_FILE

from cytoserve_reports.differential import OUTSIDE_DENOMINATOR, ClassCount, is_small, unlabelled, white_cells
from cytoserve_reports.familiar import compared_alone, first_line, is_unfamiliar
from cytoserve_reports.novelty import STRANGE_LEVEL
from cytoserve_reports.page.language import PageTexts, visible
from cytoserve_reports.page.pictures import FieldPicture, PictureShare, ReadField, field_picture, file_of
from cytoserve_reports.review import needs_review, urgency
from cytoserve_reports.sample import SampleReport
from cytoserve_reports.text import NOTICE

Place = tuple[int, int]
"""A cell: index of its field, its own index in the field."""

MOST_DIGITS: Final = 9
"""Classes that a digit key gives; further ones are chosen from the list."""


@dataclass(frozen=True)
class StatedGuarantee:
    """The risk guarantee of the site whose calibration decided."""

    tolerated_error: float
    """Largest share of wrong labels among accepted cells."""
    confidence: float
    cells: int
    """Labelled cells that it was fitted on."""

    @classmethod
    def of(cls, promise: Any) -> StatedGuarantee | None:
        """Read what ``service_info`` says of a site; None where it says nothing that this release understands."""
        try:
            return cls(float(promise["tolerated_error"]), float(promise["confidence"]), int(promise["n"]))
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class PageSettings:
    """What a caller may choose."""

    language: str = "en"
    """One of `cytoserve_reports.page.language.LANGUAGES`."""
    blinded: bool = False
    """Whether the reader must not see what the model said."""
    guarantee: StatedGuarantee | None = None
    """None: the page says that it does not know it."""
    read: ReadField = file_of
    """How to get at the file of a field."""


def is_shown(cell: ScoredCell) -> bool:
    """Return whether a cell is one to read: a white-cell candidate, or whatever got a label."""
    return cell.kind == "white_cell" or cell.label is not None


def shown_places(report: SampleReport) -> list[Place]:
    """Return the cells that a page of this analysis shows, in the order of the fields."""
    return [(f, i) for f, field in enumerate(report.fields) for i, cell in enumerate(field.cells) if is_shown(cell)]


def most_urgent_first(report: SampleReport, places: Sequence[Place]) -> list[Place]:
    """Return the review list, then the accepted cells, the least certain of them first."""

    def rank(place: Place) -> tuple[bool, int, float]:
        cell = report.fields[place[0]].cells[place[1]]
        return (not needs_review(cell), *(urgency(cell) if needs_review(cell) else (0, -(cell.uncertainty or 0.0))))

    return sorted(places, key=rank)


def shuffled(analysis_sha256: str, places: Sequence[Place]) -> list[Place]:
    """Return the cells in an order that says nothing about them and is the same for every reader."""
    return sorted(places, key=lambda place: hashlib.sha256(f"{analysis_sha256}:{place}".encode()).digest())


def build(report: SampleReport, analysis_sha256: str, settings: PageSettings) -> dict[str, Any]:
    """Return everything that the template needs.

    Parameters
    ----------
    report : SampleReport
        The sample.
    analysis_sha256 : str
        Hash of its content (`cytoserve_reports.page.binding`).
    settings : PageSettings
        Language, whether blinded, the guarantee, where the pictures come from.
    """
    texts = PageTexts(settings.language)
    places = shown_places(report)
    order = shuffled(analysis_sha256, places) if settings.blinded else most_urgent_first(report, places)
    share = PictureShare.of(len(report.fields), len(places))
    wanted: list[list[int]] = [[] for _ in report.fields]
    for field, cell in places:
        wanted[field].append(cell)
    pictures = [
        field_picture(analysed, cells, share, settings.read)
        for analysed, cells in zip(report.fields, wanted, strict=True)
    ]
    maker = _PageMaker(report, pictures, texts, settings)
    head = maker.head()
    cells = [maker.cell(place, rank) for rank, place in enumerate(order)]
    return {
        "language": settings.language,
        "blinded": settings.blinded,
        "sample": visible(report.sample) if report.sample is not None else None,
        "synthetic": report.synthetic,
        **head,
        "differential": None if settings.blinded else maker.differential(head["alarming"]),
        "cells": cells,
        "to_review": sum(needs_review(report.fields[f].cells[i]) for f, i in places),
        "filters": None if settings.blinded else maker.filters(places),
        "classes": [(name, texts.class_name(name)) for name in report.model.classes],
        "digits": min(MOST_DIGITS, len(report.model.classes)),
        "fields": [maker.field(index) for index in range(len(report.fields))],
        "missing": maker.missing(),
        "about": maker.about(analysis_sha256),
        "data": maker.data(analysis_sha256, order),
        "pictures_missing": [picture.problem for picture in pictures if picture.problem],
    }


class _PageMaker:
    """Turns the parts of a report into what the template prints."""

    def __init__(
        self, report: SampleReport, pictures: Sequence[FieldPicture], texts: PageTexts, settings: PageSettings
    ) -> None:
        self.report, self.pictures, self.texts, self.settings = report, pictures, texts, settings

    def head(self) -> dict[str, Any]:
        """Return the first sentences: whether the sample is familiar, and the guarantee."""
        cells = [cell for field in self.report.fields for cell in field.cells]
        alarming = first_line(self.report.familiarity, cells, self.report.site).alarming
        return {
            "alarming": alarming,
            "familiar": familiar_sentence(self.report.familiarity, self.report.site, self.texts),
            "guarantee": self._guarantee(alarming),
            "novelty": self._novelty(),
        }

    def _novelty(self) -> str | None:
        """Return what is said where the sample holds more strange cells than chance explains; None elsewhere."""
        found = self.report.novelty
        if self.settings.blinded or found is None or not found.alarm:
            return None
        return self.texts(
            "novelty.alarm",
            strange=found.strange,
            cells=found.cells,
            share=self.texts.percent(1 - STRANGE_LEVEL),
            expected=self.texts.number(found.expected, 0),
            p=self.texts.number(found.p_value, 4),
        )

    def _guarantee(self, alarming: bool) -> str:
        given = self.settings.guarantee
        if alarming or self.report.familiarity is None:
            return self.texts("guarantee.none")
        if given is None:
            return self.texts("guarantee.unknown")
        return self.texts(
            "guarantee.in_force",
            error=self.texts.percent(given.tolerated_error),
            confidence=self.texts.percent(given.confidence),
            n=given.cells,
            site=visible(self.report.site),
        )

    def differential(self, alarming: bool) -> dict[str, Any]:
        """Return the rows of the differential, with bars; of an unfamiliar sample only the number of each label."""
        rows = self.report.differential
        top = max([1.0, *(row.high or 0.0 for name, row in rows.items() if name not in OUTSIDE_DENOMINATOR)])
        cells = [cell for field in self.report.fields for cell in field.cells]
        ordered = sorted(rows.items(), key=_whites_first)
        return {
            "white": white_cells(rows),
            "small": is_small(rows),
            "unscored": unlabelled(cells),
            "top": f"{self.texts.number(top, 0)} %",
            "counts": [(self.texts.class_name(name), row.count) for name, row in ordered],
            "rows": [] if alarming else [self._row(name, row, top) for name, row in ordered],
        }

    def _row(self, name: str, row: ClassCount, top: float) -> dict[str, Any]:
        outside = name in OUTSIDE_DENOMINATOR
        label = self.texts.class_name(name)
        made: dict[str, Any] = {
            "label": self.texts("differential.per_100", name=label) if outside else label,
            "outside": outside,
            "count": row.count,
            "accepted": row.accepted,
            "review": row.review,
            "percent": None,
            "interval": None,
            "bar": None,
        }
        if row.percent is None or row.low is None:
            return made
        high = self.texts("differential.no_limit") if row.high is None else self.texts.number(row.high)
        made["percent"] = self.texts.number(row.percent) + ("" if outside else " %")
        made["interval"] = self.texts("differential.interval_of", low=self.texts.number(row.low), high=high)
        if not outside and row.high is not None:
            made["bar"] = {key: round(200 * getattr(row, key) / top, 1) for key in ("percent", "low", "high")}
        return made

    def cell(self, place: Place, rank: int) -> dict[str, Any]:
        """Return one cell's card."""
        field, index = place
        analysed = self.report.fields[field]
        cell = analysed.cells[index]
        made = {
            "key": f"{field}-{index}",
            "rank": rank,
            "field": field,
            "index": index,
            "picture": self.pictures[field].cells.get(index),
            "mark": None if cell.box is None else _mark(cell.box, analysed.width, analysed.height),
            "has_thumbnail": bool(self.pictures[field].thumbnail),
            "size": (analysed.width, analysed.height),
            "synthetic": analysed.synthetic,
        }
        return made if self.settings.blinded else {**made, **self._said(cell)}

    def _said(self, cell: ScoredCell) -> dict[str, Any]:
        """Return what the model said of a cell."""
        by_class = sorted((cell.probability or {}).items(), key=lambda item: -item[1])
        return {
            "label": cell.label,
            "label_name": self.texts("card.not_scored") if cell.label is None else self.texts.class_name(cell.label),
            "decision": cell.decision or ("review" if needs_review(cell) else "none"),
            "uncertainty": 1.0 if cell.uncertainty is None else cell.uncertainty,
            "uncertainty_text": "-" if cell.uncertainty is None else self.texts.number(cell.uncertainty, 3),
            "probabilities": [
                {"name": self.texts.class_name(name), "text": self.texts.number(p, 3), "width": round(100 * p, 1)}
                for name, p in by_class
            ],
            "interval": self._interval(cell),
            "set": self._set(cell),
            "reasons": [
                {"name": name, "text": self._reason(name, cell), "explained": self.texts.reason_explained(name)}
                for name in cell.reasons
            ],
        }

    def _interval(self, cell: ScoredCell) -> str | None:
        if cell.probability_interval is None or cell.label is None:
            return None
        low, high = (self.texts.number(end, 2) for end in cell.probability_interval)
        label = self.texts.class_name(cell.label)
        return self.texts("card.probability_interval", label=label, low=low, high=high)

    def _set(self, cell: ScoredCell) -> str:
        names = cell.prediction_set_95
        if names is None:
            return self.texts("set.unknown")
        if cell.conformal is not None and len(names) == len(cell.conformal) > 1:
            return self.texts("set.any")
        return ", ".join(map(self.texts.class_name, names)) or self.texts("set.none")

    def _reason(self, name: str, cell: ScoredCell) -> str:
        words = self.texts.reason(name)
        if name == "unfamiliar_image" and is_unfamiliar(cell) and cell.familiarity is not None:
            return f"{words} ({self.texts.cause(cell.familiarity.cause)})"
        return words

    def filters(self, places: Sequence[Place]) -> dict[str, Any]:
        """Return the classes and reasons that occur, most frequent first."""
        cells = [self.report.fields[f].cells[i] for f, i in places]
        labels = Counter(cell.label for cell in cells)
        reasons = Counter(reason for cell in cells for reason in cell.reasons)
        return {
            "classes": [(name or "", self._label(name), count) for name, count in labels.most_common()],
            "reasons": [(name, self.texts.reason(name), count) for name, count in reasons.most_common()],
        }

    def _label(self, name: str | None) -> str:
        return self.texts("card.not_scored") if name is None else self.texts.class_name(name)

    def field(self, index: int) -> dict[str, Any]:
        """Return a field with the boxes to draw on it."""
        analysed, picture = self.report.fields[index], self.pictures[index]
        kinds = Counter(cell.kind for cell in analysed.cells)
        return {
            "number": index,
            "source": None if self.settings.blinded else visible(analysed.source),
            "synthetic": analysed.synthetic,
            "width": analysed.width,
            "height": analysed.height,
            "scale": self._scale(analysed.um_per_pixel, analysed.scale_source),
            "whole": picture.whole,
            "thumbnail": picture.thumbnail,
            "problem": visible(picture.problem, 300),
            "kinds": {"white": kinds["white_cell"], "red": kinds["red_cell"], "platelets": kinds["platelet"]},
            "boxes": [
                self._box(index, i, cell)
                for i, cell in enumerate(analysed.cells)
                if cell.box is not None and is_shown(cell)
            ],
            "outlines": {kind: _outline(analysed.cells, kind) for kind in ("red_cell", "platelet")},
        }

    def _box(self, field: int, index: int, cell: ScoredCell) -> dict[str, Any]:
        """Return what is drawn around a cell to read."""
        where = self.texts("card.where", field=field, cell=index)
        said = "accept" if cell.decision == "accept" else "review"
        return {
            "rect": None if cell.box is None else _rect(cell.box),
            "kind": "white" if self.settings.blinded else said,
            "key": f"{field}-{index}",
            "title": where if self.settings.blinded else f"{self._label(cell.label)}. {where}",
        }

    def _scale(self, um_per_pixel: float | None, source: str) -> str:
        if um_per_pixel is None:
            return self.texts("fields.no_scale")
        value = f"{um_per_pixel:.4g}".replace(".", self.texts("number.decimal"))
        return self.texts("fields.scale", value=value, source=visible(source.replace("_", " ")))

    def missing(self) -> dict[str, list[tuple[str, str, str]]]:
        """Return what was not analysed, and why."""
        skipped = [item for item in self.report.skipped if item.reason != SYSTEM_FILE]
        return {
            "failures": [(visible(f.source), visible(f.error), visible(f.message, 400)) for f in self.report.failures],
            "skipped": [(visible(s.source), visible(s.reason), visible(s.message, 400)) for s in skipped],
        }

    def about(self, analysis_sha256: str) -> list[tuple[str, str]]:
        """Return which model, site and analysis the page is of."""
        model = self.report.model
        weights = model.weights_sha256
        hashes = weights if isinstance(weights, str) else ", ".join((weights or {}).values())
        return [
            (self.texts("about.model"), visible(f"{model.name} {model.version}")),
            (self.texts("about.weights"), visible(hashes or "-", 400)),
            (self.texts("about.site"), visible(self.report.site)),
            (self.texts("about.analysis"), analysis_sha256),
        ]

    def data(self, analysis_sha256: str, order: Sequence[Place]) -> dict[str, Any]:
        """Return what the page's script needs: what verdicts are bound to, and its texts."""
        cells = [(f, i, self.report.fields[f].cells[i]) for f, i in order]
        return {
            "schema": VERDICTS,
            "notice": NOTICE,
            "analysis_sha256": analysis_sha256,
            "sample": None if self.report.sample is None else visible(self.report.sample),
            "site": visible(self.report.site),
            "model": self.report.model.model_dump(mode="json", exclude={"classes"}),
            "classes": self.report.model.classes,
            "blinded": self.settings.blinded,
            "synthetic": self.report.synthetic,
            "class_names": {name: self.texts.class_name(name) for name in self.report.model.classes},
            "not_scored": self.texts("card.not_scored"),
            "digits": min(MOST_DIGITS, len(self.report.model.classes)),
            "texts": self.texts.of_prefix("js."),
            "cells": {
                f"{f}-{i}": {
                    "field": f,
                    "cell": i,
                    "field_sha256": self.pictures[f].sha256,
                    "box": cell.box,
                    **({} if self.settings.blinded else {"label": cell.label}),
                }
                for f, i, cell in cells
            },
        }


def familiar_sentence(
    familiarity: SampleFamiliarity | None, site: str, texts: PageTexts, cells: Iterable[ScoredCell] = ()
) -> str:
    """Return whether the sample is familiar, as the first line of every report says it, in the page's language.

    ``cells`` are looked at where they were not judged as one sample.
    """
    if familiarity is None:
        compared, unfamiliar = compared_alone(cells)
        if not compared:
            return texts("familiar.not_compared", site=visible(site))
        return texts("familiar.not_one", site=visible(site), cells=compared, unfamiliar=unfamiliar)
    key = "known"
    if familiarity.rejected:
        key = "rejected"
    elif familiarity.unfamiliar == familiarity.cells:
        key = "few"
    told = texts(
        f"familiar.{key}", site=visible(familiarity.site), cells=familiarity.cells, unfamiliar=familiarity.unfamiliar
    )
    if familiarity.cause is not None:
        cause = texts("familiar.than", cause=texts.cause(familiarity.cause))
        told += texts("familiar.cause", cause=cause)
    mistakes = texts.of_prefix("mistake.")
    if familiarity.mistake in mistakes:
        told += texts("familiar.mistake", mistake=mistakes[familiarity.mistake])
    return told


def _whites_first(item: tuple[str, ClassCount]) -> bool:
    return item[0] in OUTSIDE_DENOMINATOR


def _rect(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Return left, upper, width and height in tenths of a pixel."""
    return round(box[0], 1), round(box[1], 1), round(box[2] - box[0], 1), round(box[3] - box[1], 1)


def _outline(cells: Sequence[ScoredCell], kind: str) -> str:
    """Return the boxes of all other cells of a kind as one path, in whole pixels: a film has thousands of them."""
    boxes = [cell.box for cell in cells if cell.kind == kind and not is_shown(cell) and cell.box is not None]
    return "".join(
        f"M{round(x0)} {round(y0)}h{round(x1 - x0)}v{round(y1 - y0)}h{-round(x1 - x0)}z" for x0, y0, x1, y1 in boxes
    )


def _mark(box: tuple[float, float, float, float], width: int, height: int) -> dict[str, Any]:
    """Return where a cell lies in its field: for a ring on the thumbnail, and in percent for words."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    radius = max(0.6 * max(box[2] - box[0], box[3] - box[1]), 0.05 * max(width, height))
    return {
        "x": round(x, 1),
        "y": round(y, 1),
        "radius": round(radius, 1),
        "pen": round(0.015 * max(width, height), 1),
        "percent_x": round(100 * x / width),
        "percent_y": round(100 * y / height),
    }
