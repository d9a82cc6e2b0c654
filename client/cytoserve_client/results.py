"""The answers as frozen types.

A value that was not computed is None (``null``), never invented. Reasons and scale sources are open lists of
strings: a newer server may add to them, and a reader must let unknown ones through.
"""

from __future__ import annotations

from typing import Final

from cytoserve_contract.image_statistics import cause_in_words
from cytoserve_contract.names import CELLS, CellsSchema
from cytoserve_contract.parameters import HOME_SITE
from cytoserve_contract.values import Decision as Decision
from cytoserve_contract.values import Kind as Kind
from cytoserve_files.selection import Skipped
from pydantic import BaseModel, ConfigDict, Field, computed_field

from cytoserve_client.reasons import Reason, explained

SET_ERROR: Final = 0.05
"""Tolerated share of prediction sets that miss the true class, in tables and JSON."""

MISTAKES: Final = {
    "red_and_blue_swapped": "red and blue were swapped (BGR read as RGB)",
    "inverted": "the colours were inverted (a negative)",
    "ycbcr": "the channels were those of YCbCr, read as RGB",
}
"""Mistakes in making a picture that an unfamiliar sample may look like, as words behind "It looks as if"."""

Box = tuple[float, float, float, float]
"""``(x0, y0, x1, y1)`` in pixels of the image as displayed (after EXIF orientation); x to the right, y down."""


class Frozen(BaseModel):
    """Immutable, tolerant of unknown keys when read back, JSON names on the outside."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)


class ModelInfo(Frozen):
    """The model that answered."""

    name: str
    version: str
    classes: tuple[str, ...] = Field(description="class names, in the order of the model's outputs")
    weights_sha256: str | dict[str, str] | None = Field(description="hash of the weights, or one per file")


class Anomaly(Frozen):
    """How strange a cell is, compared with the calibration cells."""

    score: float | None = Field(description="higher is stranger")
    p_value: float | None = Field(description="share of calibration cells at least as strange; decides about the cell")
    p_value_of_kind: float | None = Field(
        default=None, description="the same among those given the same class; samples are judged by it"
    )
    cells_of_kind: int | None = Field(default=None, description="how many calibration cells that counts")


class Familiarity(Frozen):
    """How like the site's calibration cells a cell's picture is, whatever the class."""

    distance: float = Field(description="to the calibration cells of the nearest class; 1 is usual")
    p_value: float = Field(description="share of calibration cells at least as far away; decides about the cell")
    p_value_of_kind: float = Field(description="the same among those of the nearest class; samples are judged by it")
    cells_of_kind: int = Field(description="how many calibration cells that counts")
    cause: str = Field(description="image statistic that adds most to the distance, with its side: 'nucleus_red+'")

    @computed_field(description="the cause as a sentence for people")  # type: ignore[prop-decorator]
    @property
    def cause_explained(self) -> str:
        """The cause in plain words."""
        return cause_in_words(self.cause)


class SampleFamiliarity(Frozen):
    """How like the site's calibration cells the pictures of a whole sample are; `cytoserve_client.familiarity` judges.

    It sees pictures (light, stain, focus, compression, scale), not diseases or kinds of cells that the model never
    learned.
    """

    site: str = Field(description="the site whose calibration cells the sample was compared with")
    cells: int = Field(description="cells of the sample that were compared")
    unfamiliar: int = Field(description="those among them whose own picture is unfamiliar")
    p_value: float = Field(description="of all cells together; near 0 where they are not from the site")
    rejected: bool = Field(description="whether the sample is unfamiliar: none of its cells is accepted")
    cause: str | None = Field(
        description="most frequent cause among the unfamiliar cells, of a rejected sample without any among its most "
        "distant; null where nothing is unfamiliar"
    )
    mistake: str | None = Field(
        default=None,
        description="of a rejected sample: what its pictures look like, such as 'inverted'; null if unknown",
    )

    @computed_field(description="the cause as a sentence for people; null where there is none")  # type: ignore[prop-decorator]
    @property
    def cause_explained(self) -> str | None:
        """The cause in plain words."""
        return None if self.cause is None else cause_in_words(self.cause)

    @computed_field(description="all of this as one line for people")  # type: ignore[prop-decorator]
    @property
    def headline(self) -> str:
        """The first line of every report."""
        calibration = f"the calibration of site '{self.site}'"
        cause = "" if self.cause is None else f" Most frequent cause: {self.cause_explained}."
        if self.mistake in MISTAKES:
            cause += f" It looks as if {MISTAKES[self.mistake]}."
        if self.rejected:
            return (
                f"UNFAMILIAR SAMPLE: the pictures, taken together, are unlike those of {calibration}; nothing is "
                f"accepted, all {self.cells} cell(s) go to review ({self.unfamiliar} of them unfamiliar by "
                f"themselves).{cause}"
            )
        if self.unfamiliar == self.cells:
            return (
                f"Unfamiliar: the picture of each cell is unlike those of {calibration}, so all {self.cells} cell(s) "
                f"go to review; they are too few to judge the sample.{cause}"
            )
        return (
            f"Familiar: the pictures look like those of {calibration} ({self.cells} cell(s), {self.unfamiliar} "
            f"unfamiliar).{cause}"
        )


class ScoredCell(Frozen):
    """The per-cell part that `Cell` and `CellAnswer` share."""

    box: Box | None = Field(description="pixels of the displayed image; null for a single-cell image")
    kind: Kind | None = Field(description="the segmenter's kind; null for a single-cell image")
    label: str | None = Field(description="most probable class; null if the cell was not scored")
    probability: dict[str, float] | None = Field(description="calibrated, sums to 1; null if not scored")
    probability_interval: tuple[float, float] | None = Field(
        default=None,
        description="95 % interval of the label's probability over the draw of the probes; null if not computed",
    )
    uncertainty: float | None = Field(description="one minus the label's probability")
    anomaly: Anomaly | None
    familiarity: Familiarity | None = Field(default=None, description="null if no picture was compared")
    image_statistics: tuple[float, ...] | None = Field(
        default=None,
        exclude=True,
        description="what familiarity is measured from, in the contract's order; not in JSON",
    )
    decision: Decision | None = Field(description="null for cells that are not scored (red cells, platelets)")
    reasons: tuple[str, ...] = Field(description="why a person should look; sentences in `reasons_explained`")
    evaluations: int | None = Field(description="passes of the denoiser spent on this cell")
    scores: dict[str, float] | None = Field(
        default=None, description="error per class, lower is better; null if not scored"
    )
    conformal: dict[str, float] | None = Field(default=None, description="p-value of each class; null if not computed")

    @computed_field(description="`prediction_set` at 95 %; null if not computed, or not calibrated for this request")  # type: ignore[prop-decorator]
    @property
    def prediction_set_95(self) -> tuple[str, ...] | None:
        """The classes that cannot be excluded at 95 %; None also where the request was not one that was calibrated."""
        return None if Reason.NOT_CALIBRATED.value in self.reasons else self.prediction_set()

    def prediction_set(self, error: float = SET_ERROR) -> tuple[str, ...] | None:
        """Return the classes that cannot be excluded: each true class is in its set with probability ``1 - error``.

        The coverage holds class by class (Mondrian conformal prediction, Vovk, Gammerman & Shafer 2005, chapter 4) for
        cells exchangeable with those of the calibration, and requests that were calibrated (no ``not_calibrated``
        among the reasons). An empty set says: like none of the classes. A set that is not empty holds the label, also
        where the label's own p-value would leave it out (the best class, and yet unlike the reference cells of it):
        a label outside its set reads as a contradiction, and a larger set covers no less.

        Parameters
        ----------
        error : float
            Tolerated share of sets that miss the true class, from 0 to 1.

        Returns
        -------
        tuple of str, in the model's order of classes; None where the server computed no p-values.
        """
        if self.conformal is None:
            return None
        kept = {name for name, p_value in self.conformal.items() if p_value > error}
        return tuple(name for name in self.conformal if name in kept or (kept and name == self.label))


class Cell(ScoredCell):
    """One object found in a field."""

    detection_score: float | None = Field(default=None, description="the segmenter's confidence, 0 to 1")


class SlideRegion(Frozen):
    """Where a field lies in a whole slide."""

    slide: str = Field(description="the slide's file")
    x: int = Field(description="of the field's upper left corner, pixels of the slide at full resolution")
    y: int = Field(description="of the field's upper left corner, pixels of the slide at full resolution")
    core: Box = Field(
        description="pixels of the field: cells whose centre is in it count here, the others in a neighbouring field"
    )


class FieldAnalysis(Frozen):
    """One field of view."""

    source: str = Field(description="the file, or 'bytes[i]' / 'array[i]'")
    width: int = Field(description="pixels, as displayed")
    height: int = Field(description="pixels, as displayed")
    um_per_pixel: float | None = Field(description="micrometres per pixel that were used; null if unknown")
    scale_source: str = Field(description="'caller', 'file', 'red_cells', 'cell_itself' or 'none'")
    median_red_cell_um: float | None = Field(description="median red-cell diameter under that scale; null if none")
    synthetic: bool = Field(default=False, description="the image's metadata says that it was generated")
    familiarity: SampleFamiliarity | None = Field(
        default=None, description="where each field was judged as a sample of its own; null where all are one sample"
    )
    region: SlideRegion | None = Field(default=None, description="null for a picture that is no part of a slide")
    cells: tuple[Cell, ...]


class Failure(Frozen):
    """An image that got no answer; the others did."""

    source: str
    error: str = Field(description="stable code, such as 'not_an_image' or 'unavailable'")
    message: str


class SmearAnalysis(Frozen):
    """The fields of one sample, each in the order given; `cytoserve_reports.summarise` adds them up.

    Images without an answer are in ``failures``, files that were not sent in ``skipped``.
    """

    sample: str | None = None
    site: str = Field(default=HOME_SITE, description="whose calibration decided")
    familiarity: SampleFamiliarity | None = Field(
        default=None, description="null where no cell was compared, or each field is a sample of its own"
    )
    model: ModelInfo
    fields: tuple[FieldAnalysis, ...]
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Whether any field was generated rather than photographed."""
        return any(field.synthetic for field in self.fields)


class CellAnswer(ScoredCell):
    """One single-cell image, as an analyser delivers it."""

    source: str
    um_per_pixel: float | None = Field(description="micrometres per pixel that were used; null if unknown")
    synthetic: bool = Field(default=False, description="the image's metadata says that it was generated")


class CellsAnalysis(Frozen):
    """Single-cell images, in the order given (failed ones left out and listed in ``failures``)."""

    schema_: CellsSchema = Field(default=CELLS, alias="schema")
    site: str = Field(default=HOME_SITE, description="whose calibration decided")
    familiarity: SampleFamiliarity | None = Field(
        default=None, description="null where no cell was compared, or the cells are not one sample"
    )
    model: ModelInfo
    cells: tuple[CellAnswer, ...]
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Skipped, ...] = Field(default=(), description="files that were not read, or count once already")

    @computed_field(description="the reasons that occur, each as one sentence")  # type: ignore[prop-decorator]
    @property
    def reasons_explained(self) -> dict[str, str]:
        """The reasons that occur among the cells, each with one sentence in plain words."""
        return explained(reason for cell in self.cells for reason in cell.reasons)
