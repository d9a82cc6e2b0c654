"""A sample's fields added up: the differential, the review list, and the document ``cytoserve.analysis/1``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from cytoserve_client.familiarity import each_field_a_sample, fields_as_one_sample
from cytoserve_client.reasons import explained
from cytoserve_client.results import (
    Cell,
    Failure,
    FieldAnalysis,
    Frozen,
    ModelInfo,
    SampleFamiliarity,
    SmearAnalysis,
)
from cytoserve_contract.names import ANALYSES, ANALYSIS, AnalysisSchema
from cytoserve_contract.parameters import HOME_SITE
from cytoserve_files.selection import Skipped
from pydantic import Field, computed_field

from cytoserve_reports.differential import ClassCount, differential
from cytoserve_reports.novelty import SampleNovelty, judge_novelty
from cytoserve_reports.review import ReviewItem, review_list


class SampleReport(Frozen):
    """What `SmearAnalysis` holds, and what follows from it; ``model_dump_json()`` is the documented JSON."""

    schema_: AnalysisSchema = Field(default=ANALYSIS, alias="schema")
    sample: str | None = None
    site: str = Field(default=HOME_SITE, description="whose calibration decided")
    familiarity: SampleFamiliarity | None = Field(default=None, description="null where no cell was compared")
    novelty: SampleNovelty | None = Field(
        default=None, description="null where no cell was compared, or the sample is unfamiliar"
    )
    model: ModelInfo
    fields: tuple[FieldAnalysis, ...]
    differential: dict[str, ClassCount]
    review: tuple[ReviewItem, ...] = Field(description="[field, cell] pairs, most urgent first")
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Skipped, ...] = Field(default=(), description="files that were not read, or count once already")

    @computed_field(description="the reasons that occur, each as one sentence")  # type: ignore[prop-decorator]
    @property
    def reasons_explained(self) -> dict[str, str]:
        """The reasons that occur among the cells, each with one sentence in plain words."""
        return explained(reason for field in self.fields for cell in field.cells for reason in cell.reasons)

    def cell(self, item: ReviewItem) -> Cell:
        """Return the cell that an entry of ``review`` points to."""
        return self.fields[item.field].cells[item.cell]

    @property
    def synthetic(self) -> bool:
        """Whether any field was generated rather than photographed."""
        return any(field.synthetic for field in self.fields)


def summarise(analysis: SmearAnalysis) -> SampleReport:
    """Add up the fields of one sample: one differential and one review list (most urgent first) over all of them.

    Fields that were not judged as one sample are now: no report counts accepted cells of an unfamiliar sample.
    """
    return _report(fields_as_one_sample(analysis))


def summarise_each(analysis: SmearAnalysis) -> list[SampleReport]:
    """Return one report per image, as if each were a sample of its own; failed images come last, without fields.

    Each is judged as a sample, unless all together were and are rejected: then every one of them stays rejected.
    """
    judged = each_field_a_sample(analysis)
    of_all = judged.familiarity
    bare = judged.model_copy(update={"fields": (), "failures": (), "skipped": (), "familiarity": None})
    answered = [
        bare.model_copy(update={"fields": (field,), "familiarity": of_all or field.familiarity})
        for field in judged.fields
    ]
    failed = [bare.model_copy(update={"failures": (failure,)}) for failure in judged.failures]
    return [_report(image) for image in (*answered, *failed)]


def _report(analysis: SmearAnalysis) -> SampleReport:
    return SampleReport(
        sample=analysis.sample,
        site=analysis.site,
        familiarity=analysis.familiarity,
        novelty=judge_novelty((cell for field in analysis.fields for cell in field.cells), analysis.familiarity),
        model=analysis.model,
        fields=analysis.fields,
        differential=differential((cell for field in analysis.fields for cell in field.cells), analysis.model.classes),
        review=review_list(analysis.fields),
        failures=analysis.failures,
        skipped=analysis.skipped,
    )


def reports_json(reports: Iterable[SampleReport], skipped: Iterable[Skipped]) -> str:
    """Return the document ``cytoserve.analyses/1``: several samples, and the files that are in none of them."""
    whole = {
        "schema": ANALYSES,
        "analyses": [report.model_dump(mode="json") for report in reports],
        "skipped": [asdict(item) for item in skipped],
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)
