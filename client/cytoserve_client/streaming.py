"""Fields answered as they come: what a stream yields, and the sample that it adds up to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cytoserve_files import writable_text
from cytoserve_files.pictures import is_overlay
from cytoserve_files.selection import Skipped, annotated, digest_of, repeated

from cytoserve_client._answers import failure_of
from cytoserve_client.errors import CytoserveClientError
from cytoserve_client.familiarity import each_field_a_sample, fields_as_one_sample
from cytoserve_client.images import ImageLike, Source, source_of
from cytoserve_client.options import Options
from cytoserve_client.results import Failure, FieldAnalysis, ModelInfo, SmearAnalysis

Streamed: TypeAlias = FieldAnalysis | Failure
"""What a stream yields of an image that was sent."""

Answered: TypeAlias = FieldAnalysis | CytoserveClientError
Sent: TypeAlias = tuple[int, Source]
"""An image with its place among those given."""
Placed: TypeAlias = Callable[[FieldAnalysis], FieldAnalysis]


def judged_analysis(
    model: ModelInfo,
    options: Options,
    answers: Sequence[Streamed],
    sample: str | None,
    skipped: Sequence[Skipped],
) -> SmearAnalysis:
    """Return the analysis of a sample, judged: fields and failures, each in the order given."""
    analysis = SmearAnalysis(
        sample=None if sample is None else writable_text(sample),
        site=options.site_name,
        model=model,
        fields=tuple(answer for answer in answers if isinstance(answer, FieldAnalysis)),
        failures=tuple(answer for answer in answers if isinstance(answer, Failure)),
        skipped=tuple(skipped),
    )
    return fields_as_one_sample(analysis) if options.one_sample else each_field_a_sample(analysis)


def streamed(answer: Answered, source: Source) -> Streamed:
    """Return an answer as callers see it: an error as a failure of its source."""
    return failure_of(answer, source.name) if isinstance(answer, CytoserveClientError) else answer


@dataclass
class Gathered:
    """The images of a stream so far: those that were sent, by their place, and those that were not."""

    model: ModelInfo
    options: Options
    answered: Mapping[str, FieldAnalysis] = field(default_factory=dict)
    answers: dict[int, Streamed] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    _first: dict[str, str] = field(default_factory=dict)

    def admitted(self, images: Iterable[ImageLike]) -> Iterator[Sent]:
        """Yield the images to send with their places, each read when its turn comes.

        Annotated pictures, and contents that came before (byte for byte), are noted in ``skipped`` instead.
        """
        for place, image in enumerate(images):
            source = source_of(image, place)
            if source.opened is not None:
                if is_overlay(source.opened):
                    self.skipped.append(annotated(source.name))
                    continue
                digest = digest_of(source.opened)
                if digest is not None and digest in self._first:
                    self.skipped.append(repeated(source.name, self._first[digest]))
                    continue
                if digest is not None:
                    self._first[digest] = source.name
            yield place, source

    def known(self, sent: Sent) -> FieldAnalysis | None:
        """Return the answer that an image had in an earlier stream; None: it has to be sent."""
        return self.answered.get(sent[1].name)

    def add(self, sent: Sent, answer: Answered) -> Streamed:
        """Keep an answer and return it as the stream yields it."""
        place, source = sent
        self.answers[place] = streamed(answer, source)
        return self.answers[place]

    def result(self, sample: str | None, placed: Placed | None) -> SmearAnalysis:
        """Return the analysis of what was answered so far, in the order in which the images were given."""
        answers = [self.answers[place] for place in sorted(self.answers)]
        if placed is not None:
            answers = [placed(answer) if isinstance(answer, FieldAnalysis) else answer for answer in answers]
        return judged_analysis(self.model, self.options, answers, sample, self.skipped)


class FieldStream(Iterator[Streamed]):
    """Answers in the order in which they come, one for each image that was sent; see `Client.analyze_stream`.

    Closing it, or leaving its ``with`` block, ends the stream: nothing more is sent, and answers under way are dropped.
    """

    def __init__(self, answers: Iterator[tuple[Sent, Answered]], gathered: Gathered) -> None:
        self._answers, self._gathered = answers, gathered

    def __next__(self) -> Streamed:
        return self._gathered.add(*next(self._answers))

    def __enter__(self) -> FieldStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream. Closing twice is fine."""
        close: Any = getattr(self._answers, "close", None)
        if close is not None:
            close()

    def result(self, sample: str | None = None, placed: Placed | None = None) -> SmearAnalysis:
        """Return the analysis of the fields yielded so far, judged as `Client.analyze` judges them.

        Parameters
        ----------
        sample : str, optional
            Name of the sample, copied into the result.
        placed : callable, optional
            Applied to each field before the sample is judged: where the fields overlap, it leaves out the cells that
            count in another one.
        """
        return self._gathered.result(sample, placed)


class AsyncFieldStream(AsyncIterator[Streamed]):
    """`FieldStream` for asyncio."""

    def __init__(self, answers: AsyncIterator[tuple[Sent, Answered]], gathered: Gathered) -> None:
        self._answers, self._gathered = answers, gathered

    async def __anext__(self) -> Streamed:
        return self._gathered.add(*(await self._answers.__anext__()))

    async def __aenter__(self) -> AsyncFieldStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the stream. Closing twice is fine."""
        close: Any = getattr(self._answers, "aclose", None)
        if close is not None:
            await close()

    def result(self, sample: str | None = None, placed: Placed | None = None) -> SmearAnalysis:
        """Return the analysis of the fields yielded so far; see `FieldStream.result`."""
        return self._gathered.result(sample, placed)
