"""What is made of verdicts: two readers compared, and the confirmed cells as a labelled folder."""

from __future__ import annotations

import hashlib
import io
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cytoserve_client.images import SYNTHETIC_KEY
from cytoserve_client.results import Box, FieldAnalysis
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from cytoserve_files import NotWritable, check_output_folder, read_bytes, shown, write_bytes
from cytoserve_files.selection import gather_tree
from cytoserve_statistics.agreement import CohensKappa, cohens_kappa
from PIL import Image, PngImagePlugin

from cytoserve_reports.displayed import displayed
from cytoserve_reports.page.document import Place
from cytoserve_reports.page.errors import FieldNotFound, NotAnAnalysis, NotComparable, OtherAnalysis, UnknownCell
from cytoserve_reports.page.language import visible
from cytoserve_reports.page.pictures import ReadField
from cytoserve_reports.page.verdicts import Verdict, VerdictDocument
from cytoserve_reports.sample import SampleReport

CANNOT_TELL: Final = "cannot_tell"
"""The class of a cell that a reader could not judge, in a comparison."""

CROP_UM: Final = 1.5 * CROP_SIZE * CROP_UM_PER_PIXEL
"""Side of a confirmed cell's picture in micrometres: what the server cuts out, and room around it."""

CROP_BOXES: Final = 3.0
"""Side in boxes where the scale is not known."""

UM_PER_INCH: Final = 25_400.0
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Disagreement:
    """A cell that two readers called differently."""

    place: Place
    first: str
    second: str


@dataclass(frozen=True)
class ComparedReadings:
    """Two readings of one sample."""

    kappa: CohensKappa
    only_first: int
    """Cells with a verdict by the first reader alone; they count nowhere else."""
    only_second: int
    disagreements: tuple[Disagreement, ...]
    remarks: tuple[str, ...]
    """What a reader of the figure must know, as sentences."""


def compare(first: VerdictDocument, second: VerdictDocument) -> ComparedReadings:
    """Return how far two readings of the same analysis agree; "cannot tell" counts as a class of its own.

    Raises
    ------
    OtherAnalysis
        They were made on two analyses.
    NotComparable
        They are one export, or have no cell in common.
    """
    if first.analysis_sha256 != second.analysis_sha256:
        raise OtherAnalysis("the two files were made on different analyses; compare two readings of one analysis")
    if first.content_sha256 == second.content_sha256:
        raise NotComparable("both files are the same export; give the files of two readers")
    one, two = _classes(first), _classes(second)
    both = sorted(one.keys() & two.keys())
    if not both:
        raise NotComparable("no cell has a verdict in both files; let both readers judge the same cells")
    names = (*first.classes, CANNOT_TELL)
    table = [[0] * len(names) for _ in names]
    for place in both:
        table[names.index(one[place])][names.index(two[place])] += 1
    return ComparedReadings(
        cohens_kappa(table),
        len(one) - len(both),
        len(two) - len(both),
        tuple(Disagreement(place, one[place], two[place]) for place in both if one[place] != two[place]),
        tuple(_remarks(first, second)),
    )


def _classes(document: VerdictDocument) -> dict[Place, str]:
    return {one.place: one.class_ or CANNOT_TELL for one in document.verdicts}


def _remarks(first: VerdictDocument, second: VerdictDocument) -> Iterator[str]:
    if set(first.reviewers) & set(second.reviewers):
        yield "Both files carry the same reviewer's code: this is one reader twice, or a code that two readers share."
    if not (first.blinded or second.blinded):
        yield "Neither reader was blinded: both saw the model's label, which makes readers agree."
    if first.synthetic:
        yield "The sample is synthetic."


@dataclass(frozen=True)
class AuditedShare:
    """Cells of one decision, held against a reader."""

    decision: str
    """``accept`` or ``review``."""
    judged: int
    """Cells that the reader gave a class."""
    differing: int
    """Those among them whose label is another, or that have none."""
    cannot_tell: int


def audited(document: VerdictDocument, report: SampleReport) -> tuple[AuditedShare, AuditedShare]:
    """Return how often the reader's class is not the label: among accepted cells, and among the others.

    The verdicts must have passed `check_binding`. A reader who saw the labels (not blinded) agrees too often.
    """
    cells = [(report.fields[one.field].cells[one.cell], one) for one in document.verdicts]

    def share(decision: str) -> AuditedShare:
        own = [(cell.label, one.class_) for cell, one in cells if (cell.decision == "accept") == (decision == "accept")]
        told = [(label, name) for label, name in own if name is not None]
        return AuditedShare(decision, len(told), sum(label != name for label, name in told), len(own) - len(told))

    return share("accept"), share("review")


@dataclass(frozen=True)
class LabelledFolder:
    """What was written."""

    written: dict[str, int]
    """Cells by class."""
    cannot_tell: int
    """Verdicts that give no class; nothing was written for them."""


def write_folder(
    document: VerdictDocument, report: SampleReport, fields: Path | None, to: Path, region: ReadField | None = None
) -> LabelledFolder:
    """Write the confirmed cells as one folder a class, for ``cytoserve calibrate`` and ``validate``.

    Each picture is cut from the field without loss, large enough for what the server cuts out of it, and carries the
    field's scale and its mark of a synthetic picture. The folder appears whole or not at all.

    Parameters
    ----------
    document : VerdictDocument
        Verdicts that `check_binding` passed for this report.
    report : SampleReport
        The analysis.
    fields : Path or None
        Folder that holds the fields, under any name and in any folder below; None where all are regions of slides.
    to : Path
        New folder.
    region : callable, optional
        Returns the image of a field that is a region of a slide.

    Raises
    ------
    FieldNotFound
        A field that cells are needed of is not there, or is not the file that was read.
    UnknownCell
        A verdict cannot be cut out: it is bound to no file, or the cell has no box.
    NotAnAnalysis
        The analysis names a class that makes no folder.
    NotWritable
        ``to`` is there already, or cannot be made.
    """
    confirmed = [one for one in document.verdicts if one.class_ is not None]
    unsafe = sorted({one.class_ or "" for one in confirmed if not _SAFE_NAME.fullmatch(one.class_ or "")})
    if unsafe:
        raise NotAnAnalysis(f"the class {visible(unsafe[0])!r} makes no name of a folder; nothing was written")
    if to.exists():
        raise NotWritable(f"cannot write {shown(to)}: it is there already; give a new folder")
    check_output_folder(to)
    of_files = {_bound(one) for one in confirmed if region is None or report.fields[one.field].region is None}
    files = _files_of(of_files, fields) if of_files else {}
    with _whole_folder(to) as aside:
        for field, verdicts in _by_field(confirmed).items():
            digest, analysed = _bound(verdicts[0]), report.fields[field]
            of_slide = region if analysed.region is not None else None
            data = read_bytes(files[digest]) if of_slide is None else _region(analysed, digest, of_slide)
            _write_cells(aside, analysed, data, verdicts)
    return LabelledFolder(dict(Counter(one.class_ or "" for one in confirmed)), len(document.verdicts) - len(confirmed))


def _bound(one: Verdict) -> str:
    if one.field_sha256 is None or one.box is None:
        raise UnknownCell(
            f"field {one.field}, cell {one.cell}: the page had no picture of it, so the cell cannot be cut out; "
            "make the page again where the fields can be read"
        )
    return one.field_sha256


def _by_field(verdicts: Sequence[Verdict]) -> dict[int, list[Verdict]]:
    found: dict[int, list[Verdict]] = {}
    for one in verdicts:
        found.setdefault(one.field, []).append(one)
    return found


def _region(analysed: FieldAnalysis, digest: str, region: ReadField) -> bytes:
    """Return the image of a slide's region, if it is the one that was read."""
    try:
        data = region(analysed)
    except OSError as error:
        raise FieldNotFound(f"{visible(analysed.source)} cannot be read any more: {error}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise FieldNotFound(
            f"{visible(analysed.source)} is not as it was: the slide is another, or another release of the libraries "
            "reads it otherwise; analyse the slide again and make a new page"
        )
    return data


def _files_of(wanted: set[str], folder: Path | None) -> dict[str, Path]:
    """Return the file of each hash."""
    if folder is None:
        raise FieldNotFound("give the folder that holds the fields (--fields)")
    if not folder.is_dir():
        raise FieldNotFound(f"{shown(folder)} is no folder; give the one that holds the fields")
    found: dict[str, Path] = {}
    for path in gather_tree(folder).files:
        digest = hashlib.sha256(read_bytes(path)).hexdigest()
        if digest in wanted:
            found[digest] = path
    lacking = sorted(wanted - found.keys())
    if lacking:
        raise FieldNotFound(
            f"{len(lacking)} field(s) of the verdicts are not in {shown(folder)} (SHA-256 {lacking[0][:12]}...); "
            "give the folder with the files that were analysed, unchanged"
        )
    return found


@contextmanager
def _whole_folder(to: Path) -> Iterator[Path]:
    """Yield a new folder beside the one wanted, which takes its name when the block ends without an error."""
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.parent / f".cytoserve-{secrets.token_hex(8)}.part"
    try:
        aside.mkdir()
        yield aside
        aside.rename(to)
    except OSError as error:
        if isinstance(error, NotWritable):
            raise
        raise NotWritable(f"cannot write {shown(to)}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_cells(folder: Path, analysed: FieldAnalysis, data: bytes, verdicts: Sequence[Verdict]) -> None:
    try:
        image = displayed(data)
    except ValueError as error:
        raise FieldNotFound(f"field {verdicts[0].field} cannot be read any more: {error}") from error
    if image.size != (analysed.width, analysed.height):
        raise FieldNotFound(f"field {verdicts[0].field} is not as large as the one that was analysed")
    for one in verdicts:
        assert one.box is not None  # `_bound` refused it
        cut = image.crop(window(one.box, image.size, analysed.um_per_pixel))
        name = f"{_bound(one)[:12]}-{one.cell}.png"
        write_bytes(folder / (one.class_ or "") / name, _png(cut, analysed))


def window(box: Box, size: tuple[int, int], um_per_pixel: float | None) -> tuple[int, int, int, int]:
    """Return what is cut out around a cell's box: left, upper, right, lower, in pixels, inside the picture."""
    longer = max(box[2] - box[0], box[3] - box[1])
    side = max(CROP_BOXES * longer, 0.0 if um_per_pixel is None else CROP_UM / um_per_pixel)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left, upper = max(0, round(x - side / 2)), max(0, round(y - side / 2))
    return left, upper, min(size[0], round(x + side / 2)), min(size[1], round(y + side / 2))


def _png(image: Image.Image, analysed: FieldAnalysis) -> bytes:
    marks = PngImagePlugin.PngInfo()
    if analysed.synthetic:
        marks.add_text(SYNTHETIC_KEY, "true")
    buffer = io.BytesIO()
    if analysed.um_per_pixel is None:
        image.save(buffer, "PNG", pnginfo=marks)
    else:
        dots = UM_PER_INCH / analysed.um_per_pixel
        image.save(buffer, "PNG", pnginfo=marks, dpi=(dots, dots))
    return buffer.getvalue()
