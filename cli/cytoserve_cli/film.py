"""Whole slides, and films that are read until enough cells are found: what ``analyze`` does with them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from cytoserve_client import Client, FieldAnalysis, SmearAnalysis
from cytoserve_client.images import ImageLike
from cytoserve_client.options import Arguments
from cytoserve_files import shown
from cytoserve_files.selection import ENDED, ENOUGH_CELLS, INTERRUPTED, Skipped
from cytoserve_reports.differential import OUTSIDE_DENOMINATOR
from cytoserve_reports.page.pictures import file_of
from rich.console import Console

from cytoserve_cli.mounts import need
from cytoserve_cli.resume import UnfinishedFilm
from cytoserve_cli.terminal import Report, plain

if TYPE_CHECKING:
    from cytoserve_slides import Film, Slide

SLIDE_CELLS: Final = 200
"""White cells after which a slide has been read enough: a manual differential counts 100 to 400."""

RED_CELL_UM: Final = (6.0, 9.0)
"""Median diameter of red cells, micrometres, outside which a slide's scale is doubted; people have 6.7 to 7.7 on
average, and the detector's boxes add some."""


@dataclass
class FilmSource:
    """The fields of a call that is read until enough cells are found.

    Attributes
    ----------
    files : sequence of Path
        What was given.
    um_per_pixel : float or None
        What the server is told.
    films : list of Film
        The slides; none where the fields are files.
    taken : int
        Files that were sent so far.
    interrupted : bool
        Whether it ended by Ctrl-C.
    """

    files: Sequence[Path]
    um_per_pixel: float | None
    films: list[Film] = field(default_factory=list)
    taken: int = 0
    interrupted: bool = False

    def images(self) -> Iterator[ImageLike]:
        """Yield the fields: of slides their regions, else the files."""
        for film in self.films:
            yield from film.fields()
        if not self.films:
            for file in self.files:
                self.taken += 1
                yield file

    def placed(self, answer: FieldAnalysis) -> FieldAnalysis:
        """Return an answer with its place in its slide."""
        for film in self.films:
            answer = film.placed(answer)
        return answer

    def picture(self, answer: FieldAnalysis) -> bytes:
        """Return the image of a field again.

        Raises
        ------
        OSError
        """
        for film in self.films:
            if (found := film.picture(answer)) is not None:
                return found
        return file_of(answer)

    def skipped(self, analysis: SmearAnalysis) -> list[Skipped]:
        """What was given and has no answer in the analysis, nor a failure, nor a reason to be skipped there."""
        sources = {answer.source for answer in analysis.fields}
        sources |= {one.source for one in analysis.failures} | {one.source for one in analysis.skipped}
        if self.films:
            return [item for film in self.films for item in film.skipped(self.interrupted, sources)]
        reason = INTERRUPTED if self.interrupted else ENOUGH_CELLS
        return [
            Skipped(shown(file), reason, f"{'not waited for' if place < self.taken else 'not sent'}: {ENDED[reason]}")
            for place, file in enumerate(self.files)
            if shown(file) not in sources
        ]


def slides_among(paths: Sequence[Path]) -> list[Path]:
    """Return the whole slides among what was given; all of it is, or nothing.

    Raises
    ------
    BadParameter
        Slides together with fields: one sample is the one or the other.
    """
    from cytoserve_slides import is_slide

    slides = [path for path in paths if not path.is_dir() and is_slide(path)]
    if slides and len(slides) < len(paths):
        other = next(path for path in paths if path not in slides)
        raise typer.BadParameter(
            f"{shown(slides[0])} is a whole slide, {shown(other)} is not: give either slides or fields of one sample"
        )
    if slides:
        need("openslide", "slides", "analyze SLIDE")
    return slides


@contextmanager
def film_of(files: Sequence[Path], slides: bool, um_per_pixel: float | None) -> Iterator[FilmSource]:
    """Open the slides, or hold the files.

    Raises
    ------
    SlideError
        A slide cannot be read.
    BadParameter
        Slides of different scales, or one slide twice.
    """
    if not slides:
        yield FilmSource(files, um_per_pixel)
        return
    from cytoserve_slides import Film, Slide

    with ExitStack() as stack:
        opened = [stack.enter_context(Slide(file)) for file in files]
        _each_once(opened)
        films = [Film(slide, um_per_pixel) for slide in opened]
        if len({film.um_per_pixel for film in films}) > 1:
            raise typer.BadParameter("these slides have different scales: call the command once for each")
        yield FilmSource(files, films[0].um_per_pixel, films)


def _each_once(slides: Sequence[Slide]) -> None:
    seen: dict[str, Slide] = {}
    for slide in slides:
        if slide.identity is None:
            continue
        first = seen.setdefault(slide.identity, slide)
        if first is not slide:
            raise typer.BadParameter(
                f"{first.name} and {slide.name} are the same slide, whose cells would count twice: give one of them "
                "(of a DICOM slide any file of the series)"
            )


@dataclass(frozen=True)
class FilmCall:
    """How a film is asked about.

    Attributes
    ----------
    cells : int or None
        White cells after which it has been read enough; None: it is read to its end.
    sample : str or None
    options : Arguments
    unfinished : UnfinishedFilm or None
        Keeps the answers as they come.
    """

    cells: int | None
    sample: str | None
    options: Arguments
    unfinished: UnfinishedFilm | None = None


def analyze_film(client: Client, source: FilmSource, call: FilmCall, report: Report) -> SmearAnalysis:
    """Send fields until so many white cells have a class, or none is left; after Ctrl-C, what was found counts.

    Raises
    ------
    OSError
        An answer could not be kept.
    """
    unfinished, found, done = call.unfinished, 0, 0
    answered = None if unfinished is None else unfinished.answered
    with client.analyze_stream(source.images(), source.um_per_pixel, answered=answered, **call.options) as stream:
        try:
            for answer in stream:
                done += 1
                if isinstance(answer, FieldAnalysis):
                    if unfinished is not None:
                        unfinished.keep(answer)
                    found += white_cells_in(source.placed(answer))
                if call.cells is None:
                    report("images", done, len(source.files))
                    continue
                report("white cells", min(found, call.cells), call.cells)
                if found >= call.cells:
                    break
        except KeyboardInterrupt:
            if not found:
                raise
            source.interrupted = True
    analysis = stream.result(call.sample, source.placed)
    unreadable = [failure for film in source.films for failure in film.tally.unreadable]
    return analysis.model_copy(
        update={
            "failures": (*analysis.failures, *unreadable),
            "skipped": (*analysis.skipped, *source.skipped(analysis)),
        }
    )


def white_cells_in(answer: FieldAnalysis) -> int:
    """Return how many cells of a field are in the denominator of the differential."""
    return sum(cell.label is not None and cell.label not in OUTSIDE_DENOMINATOR for cell in answer.cells)


def stored_picture(answer: FieldAnalysis) -> bytes:
    """Return the image of a field of a stored analysis: its file, or its region of the slide.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if answer.region is None:
        return file_of(answer)
    from cytoserve_slides import SlideError, region_picture

    try:
        return region_picture(answer)
    except SlideError as error:
        raise OSError(str(error)) from error


def doubt_scale(analysis: SmearAnalysis, source: FilmSource, notes: Console) -> None:
    """Say it where the red cells contradict the scale that a slide's file tells."""
    sizes = [one.median_red_cell_um for one in analysis.fields if one.median_red_cell_um is not None]
    if not source.films or source.um_per_pixel is None or not sizes:
        return
    median, (low, high) = statistics.median(sizes), RED_CELL_UM
    if not low <= median <= high:
        notes.print(
            plain(
                f"The scale is doubtful: at {source.um_per_pixel:.4g} um per pixel, as the file says, the red cells "
                f"measure {median:.1f} um. Give --um-per-pixel if you know better.",
                "bold red",
            )
        )
