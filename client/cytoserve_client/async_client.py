"""The asyncio twin of `cytoserve_client.client`: same arguments, same results, same errors.

Requests, answers, retries and errors come from the modules both share; only the waiting is written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from cytoserve_client import _constants as c
from cytoserve_client import _plan, _wire
from cytoserve_client._answers import assemble_cells, assemble_smear, failure_of
from cytoserve_client._config import TLS, ClientConfig, Expectation, RetryPolicy, TokenProvider, check_timeout
from cytoserve_client._contract import ServiceInfo, check_expectation, check_metadata, parse_info
from cytoserve_client._plan import Chunk, Loaded, Options
from cytoserve_client._retry import Deadline
from cytoserve_client._transport import AsyncTransport
from cytoserve_client.client import Progress
from cytoserve_client.errors import (
    BadScale,
    ContractMismatch,
    CytoserveClientError,
    DeadlineExceeded,
    InvalidImage,
    ServerUnavailable,
    concerns_all,
)
from cytoserve_client.images import ImageLike, Source, check_scale, check_scales, sources_of
from cytoserve_client.results import CellAnswer, CellsAnalysis, FieldAnalysis, ModelInfo, SmearAnalysis

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class AsyncClient:
    """As `Client`, for one asyncio event loop; see there for the parameters and for what each call raises."""

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
        self._transport = AsyncTransport(self.config)
        self._info: ServiceInfo | None = None
        self._checked: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"AsyncClient({self.config.url!r}, closed={self.closed})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._transport.closed

    async def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`. Closing twice is fine."""
        await self._transport.close()

    async def ready(self, timeout: float | None = None) -> bool:
        """Return whether the server says that it is ready; see `Client.ready`."""
        deadline = Deadline(check_timeout(timeout or c.CONTROL_TIMEOUT_S))
        try:
            return bool((await self._transport.call(_wire.READY, _wire.ready_request(), deadline)).ready)
        except (ServerUnavailable, DeadlineExceeded):
            return False

    async def wait_until_ready(self, timeout: float) -> None:
        """Wait until the server is ready; see `Client.wait_until_ready`."""
        deadline = Deadline(check_timeout(timeout))
        while left := deadline.remaining():
            if await self.ready(min(left, c.CONTROL_TIMEOUT_S)):
                return
            await asyncio.sleep(min(c.RETRY_FIRST_DELAY_S, left))
        raise ServerUnavailable(f"{self.config.url} was not ready within {timeout:g} s. See the server's log.")

    async def info(self, timeout: float | None = None) -> ServiceInfo:
        """Return what the server tells about itself; see `Client.info`."""
        request_id = _plan.new_id()
        deadline = Deadline(check_timeout(timeout or min(c.CONTROL_TIMEOUT_S, self.config.timeout)))
        request = _wire.info_request(request_id)
        info = parse_info(await self._transport.call(_wire.INFER, request, deadline, request_id=request_id))
        check_expectation(info, self.config.expect)
        self._info = info
        return info

    async def _model(self, name: str, timeout: float) -> ModelInfo:
        limit = min(c.CONTROL_TIMEOUT_S, timeout)
        info = self._info or await self.info(limit)
        if name not in self._checked:
            request = _wire.metadata_request(name)
            check_metadata(name, await self._transport.call(_wire.METADATA, request, Deadline(limit)))
            self._checked |= {name}
        return info.model

    def _forget_contract(self) -> None:
        self._info, self._checked = None, frozenset()

    async def analyze(
        self,
        images: ImageLike | Sequence[ImageLike],
        um_per_pixel: float | None = None,
        *,
        sample: str | None = None,
        timeout: float | None = None,
        budget: int | None = None,
        on_progress: Progress | None = None,
    ) -> SmearAnalysis:
        """Analyse the fields of one sample; see `Client.analyze`."""
        sources, single = sources_of(images)
        scale = check_scale(um_per_pixel)
        options = Options.of(timeout, self.config.timeout, budget)
        if single:
            loaded = sources[0].load()
            sources = [Source(loaded.name, lambda: loaded)]
        model = await self._model(_wire.SMEAR_MODEL, options.timeout)

        async def one(source: Source) -> FieldAnalysis | CytoserveClientError:
            return await self._caught(self._field(source, scale, options, model), single)

        answers = await self._each(one, sources, lambda _: 1, on_progress)
        return assemble_smear(
            model,
            (answer for answer in answers if isinstance(answer, FieldAnalysis)),
            (
                failure_of(a, s.name)
                for a, s in zip(answers, sources, strict=True)
                if isinstance(a, CytoserveClientError)
            ),
            sample,
        )

    async def _field(self, source: Source, scale: float, options: Options, model: ModelInfo) -> FieldAnalysis:
        image, request_id = await asyncio.to_thread(source.load), _plan.new_id()
        request = _plan.field_request(image, scale, options, request_id)
        response = await self._transport.call(
            _wire.INFER, request, Deadline(options.timeout), source=image.name, request_id=request_id
        )
        return _plan.read_field(response, model, image, request_id)

    async def classify(
        self,
        images: ImageLike | Sequence[ImageLike],
        um_per_pixel: float | Sequence[float | None] | None = None,
        *,
        timeout: float | None = None,
        budget: int | None = None,
        on_progress: Progress | None = None,
    ) -> CellsAnalysis:
        """Classify single-cell images; see `Client.classify`."""
        sources, single = sources_of(images)
        scales = check_scales(um_per_pixel, len(sources))
        options = Options.of(timeout, self.config.timeout, budget)
        if single:
            loaded = sources[0].load()
            sources = [Source(loaded.name, lambda: loaded)]
        model = await self._model(_wire.CELL_MODEL, options.timeout)
        chunks = _plan.chunks_of(sources, scales, self.config.cells_per_request)
        parts = await self._each(
            lambda chunk: self._chunk(chunk, options, model), chunks, lambda chunk: len(chunk.sources), on_progress
        )
        answers = [answer for part in parts for answer in part]
        if single and isinstance(answers[0], CytoserveClientError):
            raise answers[0]
        return assemble_cells(model, [source.name for source in sources], answers)

    async def _chunk(self, chunk: Chunk, options: Options, model: ModelInfo) -> list[CellAnswer | CytoserveClientError]:
        groups, errors = await asyncio.to_thread(_plan.load_chunk, chunk)
        answers: dict[int, CellAnswer | CytoserveClientError] = dict(errors)
        for group in groups:
            for (position, _, _), answer in zip(group, await self._group(group, options, model), strict=True):
                answers[position] = answer
        return [answers[i] for i in range(len(chunk.sources))]

    async def _group(
        self, group: Sequence[Loaded], options: Options, model: ModelInfo
    ) -> list[CellAnswer | CytoserveClientError]:
        images, request_id = [image for _, image, _ in group], _plan.new_id()
        request = _plan.cells_request(images, [scale for _, _, scale in group], options, request_id)
        source = images[0].name if len(images) == 1 else None

        async def ask() -> list[CellAnswer | CytoserveClientError]:
            response = await self._transport.call(
                _wire.INFER, request, Deadline(options.timeout), source=source, request_id=request_id
            )
            return _plan.read_cells(response, model, images, request_id)

        result = await self._caught(ask(), single=False)
        if not isinstance(result, CytoserveClientError):
            return result
        if isinstance(result, (InvalidImage, BadScale)) and len(group) > 1:
            return [answer for item in group for answer in await self._group([item], options, model)]
        return [result for _ in group]

    async def _caught(self, work: Awaitable[_Result], single: bool) -> _Result | CytoserveClientError:
        try:
            return await work
        except CytoserveClientError as error:
            if isinstance(error, (ServerUnavailable, ContractMismatch)):
                self._forget_contract()
            if single or concerns_all(error):
                raise
            return error

    async def _each(
        self,
        work: Callable[[_Item], Awaitable[_Result]],
        items: Sequence[_Item],
        weight: Callable[[_Item], int],
        on_progress: Progress | None,
    ) -> list[_Result]:
        """Run ``work`` on every item, several at a time; results in the order of the items."""
        total, done = sum(weight(item) for item in items), 0
        room = asyncio.Semaphore(self.config.max_in_flight)

        async def guarded(item: _Item) -> _Result:
            nonlocal done
            async with room:
                result = await work(item)
            done += weight(item)
            if on_progress is not None:
                on_progress(done, total)
            return result

        tasks = [asyncio.ensure_future(guarded(item)) for item in items]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
