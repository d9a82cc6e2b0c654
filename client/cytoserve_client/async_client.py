"""The asyncio twin of `cytoserve_client.client`: same arguments, same results, same errors.

What a call does is in `_flow`, which both share; only the waiting is written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from cytoserve_client import _wire
from cytoserve_client._base import BaseClient, CellsJob, FieldsJob
from cytoserve_client._config import ClientConfig
from cytoserve_client._contract import ServiceInfo
from cytoserve_client._flow import Flow, Load, Pause, Step
from cytoserve_client._parallel import Progress, in_tasks, stream_tasks
from cytoserve_client._transport import AsyncTransport
from cytoserve_client.errors import CytoserveClientError
from cytoserve_client.images import ImageLike, check_scale
from cytoserve_client.options import Options, Priority
from cytoserve_client.results import CellsAnalysis, FieldAnalysis, SmearAnalysis
from cytoserve_client.streaming import Answered, AsyncFieldStream, Gathered, Sent

_Result = TypeVar("_Result")


class AsyncClient(BaseClient[AsyncTransport]):
    """As `Client`, for one asyncio event loop; see there for the parameters and for what each call raises."""

    @staticmethod
    def _connect(config: ClientConfig) -> AsyncTransport:
        return AsyncTransport(config)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`. Closing twice is fine."""
        await self._transport.close()

    async def ready(self, timeout: float | None = None) -> bool:
        """Return whether the server says that it is ready; see `Client.ready`."""
        return await self._run(self._flows.ready(timeout))

    async def wait_until_ready(self, timeout: float) -> None:
        """Wait until the server is ready; see `Client.wait_until_ready`."""
        await self._run(self._flows.wait_until_ready(timeout))

    async def info(self, timeout: float | None = None) -> ServiceInfo:
        """Return what the server declares about itself; see `Client.info`."""
        return await self._run(self._flows.info(timeout))

    async def analyze(
        self,
        images: ImageLike | Sequence[ImageLike],
        um_per_pixel: float | None = None,
        *,
        sample: str | None = None,
        timeout: float | None = None,
        budget: int | None = None,
        alpha: float | None = None,
        classes: Collection[str] | None = None,
        priority: Priority = "routine",
        site: str | None = None,
        one_sample: bool = True,
        on_progress: Progress | None = None,
    ) -> SmearAnalysis:
        """Analyse the fields of one sample; see `Client.analyze`."""
        options = Options.of(timeout, self.config.timeout, budget, alpha, classes, priority, site, one_sample)
        job = await asyncio.to_thread(FieldsJob.of, images, um_per_pixel)
        served = await self._run(self._flows.served(_wire.SMEAR_MODEL, options))
        answers = await in_tasks(
            lambda source: self._run(self._flows.field(source, job.um_per_pixel, options, served, job.single)),
            job.sources,
            lambda _: 1,
            self.config.max_in_flight,
            on_progress,
        )
        return job.result(served.model, answers, sample, options)

    async def analyze_stream(
        self,
        images: Iterable[ImageLike],
        um_per_pixel: float | None = None,
        *,
        timeout: float | None = None,
        budget: int | None = None,
        alpha: float | None = None,
        classes: Collection[str] | None = None,
        priority: Priority = "routine",
        site: str | None = None,
        one_sample: bool = True,
        answered: Mapping[str, FieldAnalysis] | None = None,
    ) -> AsyncFieldStream:
        """Analyse fields as they come, and yield the answers as they are ready; see `Client.analyze_stream`.

        ``images`` is gone through in a thread.
        """
        options = Options.of(timeout, self.config.timeout, budget, alpha, classes, priority, site, one_sample)
        scale = check_scale(um_per_pixel)
        served = await self._run(self._flows.served(_wire.SMEAR_MODEL, options))
        gathered = Gathered(served.model, options, answered or {})

        async def work(item: Sent) -> Answered:
            if (known := gathered.known(item)) is not None:
                return known
            return await self._run(self._flows.field(item[1], scale, options, served, single=False))

        answers = stream_tasks(work, gathered.admitted(images), self.config.max_in_flight)
        return AsyncFieldStream(answers, gathered)

    async def classify(
        self,
        images: ImageLike | Sequence[ImageLike],
        um_per_pixel: float | Sequence[float | None] | None = None,
        *,
        timeout: float | None = None,
        budget: int | None = None,
        alpha: float | None = None,
        classes: Collection[str] | None = None,
        priority: Priority = "routine",
        site: str | None = None,
        one_sample: bool = True,
        on_progress: Progress | None = None,
    ) -> CellsAnalysis:
        """Classify single-cell images; see `Client.classify`."""
        options = Options.of(timeout, self.config.timeout, budget, alpha, classes, priority, site, one_sample)
        job = CellsJob.of(images, um_per_pixel, self.config.cells_per_request)
        served = await self._run(self._flows.served(options.cell_model, options))
        parts = await in_tasks(
            lambda chunk: self._run(self._flows.chunk(chunk, options, served)),
            job.chunks,
            lambda chunk: len(chunk.sources),
            self.config.max_in_flight,
            on_progress,
        )
        return job.result(served.model, parts, options)

    async def _run(self, flow: Flow[_Result]) -> _Result:
        """Go through a flow, awaiting each of its steps; a cancellation ends the flow where it stands."""
        advance: Callable[[], Step] = lambda: next(flow)  # noqa: E731
        while True:
            try:
                step = advance()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                advance = partial(flow.send, await self._wait(step))
            except CytoserveClientError as error:
                advance = partial(flow.throw, error)

    async def _wait(self, step: Step) -> Any:
        if isinstance(step, Load):
            return await asyncio.to_thread(step.work)
        if isinstance(step, Pause):
            return await self._transport.pause(step.seconds)
        return await self._transport.attempt(step)
