"""What both clients are before anything is sent: settings, connection, the checked arguments of a call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cytoserve_files.pictures import is_overlay
from cytoserve_files.selection import Skipped, sift

from cytoserve_client import _constants as c
from cytoserve_client import _plan
from cytoserve_client._answers import assemble_cells
from cytoserve_client._config import TLS, ClientConfig, Expectation, RetryPolicy, TokenProvider
from cytoserve_client._flow import Flows
from cytoserve_client._plan import Chunk
from cytoserve_client.errors import CytoserveClientError, OwnOverlay
from cytoserve_client.familiarity import cells_as_one_sample
from cytoserve_client.images import ImageLike, Source, check_scale, check_scales, sources_of
from cytoserve_client.options import Options
from cytoserve_client.results import CellAnswer, CellsAnalysis, FieldAnalysis, ModelInfo, SmearAnalysis
from cytoserve_client.streaming import judged_analysis, streamed


class _Transport(Protocol):
    @property
    def closed(self) -> bool: ...


_T = TypeVar("_T", bound=_Transport)


class BaseClient(ABC, Generic[_T]):
    """Settings and connection; see `Client` for the parameters."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = c.DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        tls: TLS | None = None,
        headers: Mapping[str, str] | None = None,
        token: TokenProvider | None = None,
        max_in_flight: int = c.MAX_IN_FLIGHT,
        cells_per_request: int = c.CELLS_PER_REQUEST,
        round_robin: bool = False,
        expect: Expectation | None = None,
    ) -> None:
        self.config = ClientConfig(
            url=url,
            timeout=timeout,
            retry=retry or RetryPolicy(),
            tls=tls,
            headers=dict(headers or {}),
            token=token,
            max_in_flight=max_in_flight,
            cells_per_request=cells_per_request,
            round_robin=round_robin,
            expect=expect or Expectation(),
        )
        self._transport = self._connect(self.config)
        self._flows = Flows(self.config)

    @staticmethod
    @abstractmethod
    def _connect(config: ClientConfig) -> _T:
        """Return the transport."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.url!r}, closed={self.closed})"

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._transport.closed


@dataclass(frozen=True)
class FieldsJob:
    """The checked arguments of one ``analyze``."""

    sources: Sequence[Source]
    single: bool
    um_per_pixel: float
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of(cls, images: ImageLike | Sequence[ImageLike], um_per_pixel: float | None) -> FieldsJob:
        """Check what can be checked without the server; a single image is read, so that its mistakes come first.

        Files are compared here (see `cytoserve_files.selection.sift`), so this may wait for a disk.
        """
        sources, single = sources_of(images)
        scale = check_scale(um_per_pixel)
        if single:
            _refuse_overlay(sources[0])
            return cls(_read_single(sources), single, scale)
        kept, skipped = sift([(source.name, source.opened) for source in sources])
        return cls([sources[i] for i in kept], single, scale, tuple(skipped))

    def result(
        self,
        model: ModelInfo,
        answers: Sequence[FieldAnalysis | CytoserveClientError],
        sample: str | None,
        options: Options,
    ) -> SmearAnalysis:
        """Return the sample's analysis, judged: fields and failures, each in the order given."""
        told = [streamed(answer, source) for source, answer in zip(self.sources, answers, strict=True)]
        return judged_analysis(model, options, told, sample, self.skipped)


@dataclass(frozen=True)
class CellsJob:
    """The checked arguments of one ``classify``."""

    sources: Sequence[Source]
    single: bool
    chunks: Sequence[Chunk]

    @classmethod
    def of(
        cls,
        images: ImageLike | Sequence[ImageLike],
        um_per_pixel: float | Sequence[float | None] | None,
        cells_per_request: int,
    ) -> CellsJob:
        """Check what can be checked without the server, and cut the list into chunks."""
        sources, single = sources_of(images)
        scales = check_scales(um_per_pixel, len(sources))
        kept = _read_single(sources) if single else sources
        return cls(kept, single, _plan.chunks_of(kept, scales, cells_per_request))

    def result(
        self, model: ModelInfo, parts: Sequence[Sequence[CellAnswer | CytoserveClientError]], options: Options
    ) -> CellsAnalysis:
        """Return the cells and failures of all chunks, judged; a single image's error is raised."""
        answers = [answer for part in parts for answer in part]
        if self.single and isinstance(answers[0], CytoserveClientError):
            raise answers[0]
        analysis = assemble_cells(model, [source.name for source in self.sources], answers, options.site_name)
        return cells_as_one_sample(analysis) if options.one_sample else analysis


def _read_single(sources: Sequence[Source]) -> list[Source]:
    loaded = sources[0].load()
    return [Source(loaded.name, lambda: loaded)]


def _refuse_overlay(source: Source) -> None:
    if source.opened is not None and is_overlay(source.opened):
        raise OwnOverlay("is an annotated picture that cytoserve drew; give the original.", source=source.name)
