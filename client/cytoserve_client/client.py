"""The blocking client.

>>> from cytoserve_client import Client
>>> with Client("localhost:8001") as client:                     # doctest: +SKIP
...     analysis = client.analyze(["field-1.png", "field-2.png"])
...     print(analysis.differential["neutrophil"].percent)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

from cytoserve_client import _constants as c
from cytoserve_client import _plan, _wire
from cytoserve_client._answers import assemble_cells, assemble_smear, failure_of
from cytoserve_client._config import TLS, ClientConfig, Expectation, RetryPolicy, TokenProvider, check_timeout
from cytoserve_client._contract import ServiceInfo, check_expectation, check_metadata, parse_info
from cytoserve_client._plan import Chunk, Loaded, Options
from cytoserve_client._retry import Deadline
from cytoserve_client._transport import SyncTransport
from cytoserve_client.errors import (
    BadScale,
    ClientClosed,
    ContractMismatch,
    CytoserveClientError,
    DeadlineExceeded,
    InvalidImage,
    ServerUnavailable,
    concerns_all,
)
from cytoserve_client.images import ImageLike, Source, check_scale, check_scales, sources_of
from cytoserve_client.results import CellAnswer, CellsAnalysis, FieldAnalysis, ModelInfo, SmearAnalysis

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) in the calling thread, after every request."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Client:
    """A connection to a CytoServe server. Thread-safe; one per process is enough (make it after a ``fork``).

    Parameters
    ----------
    url : str
        gRPC address, ``HOST:PORT``; ``grpcs://HOST:PORT`` for TLS with public authorities.
    timeout : float
        Seconds that one request (one field, or one chunk of cells) may take, retries included. Always finite.
    retry : RetryPolicy, optional
        How often a request that never reached the server is sent again.
    tls : TLS, optional
        Certificates; without it, and without ``grpcs://``, the connection is in clear text.
    headers : mapping of str to str, optional
        Sent with every request.
    token : callable, optional
        Returns a bearer token; called before every attempt. Refused on clear text, other than to this machine.
    max_in_flight : int
        Requests of one call that are under way at the same time.
    cells_per_request : int
        Single-cell images per request of `classify`.
    round_robin : bool
        Spread requests over all addresses of the host name (a headless Kubernetes service).
    expect : Expectation, optional
        Classes, weights or version that the server must have.

    Raises
    ------
    ConfigurationError
        If the settings cannot work. Nothing is sent before the first call.
    """

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
        self._transport = SyncTransport(self.config)
        self._info: ServiceInfo | None = None
        self._checked: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Client({self.config.url!r}, closed={self.closed})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._transport.closed

    def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`. Closing twice is fine."""
        self._transport.close()

    # -- small calls -----------------------------------------------------------------------------------------------

    def ready(self, timeout: float | None = None) -> bool:
        """Return whether the server says that it is ready; False if it cannot be reached.

        Parameters
        ----------
        timeout : float, optional
            Seconds, `CONTROL_TIMEOUT_S` by default.

        Raises
        ------
        ClientClosed
            If the client was closed.
        """
        deadline = Deadline(check_timeout(timeout or c.CONTROL_TIMEOUT_S))
        try:
            return bool(self._transport.call(_wire.READY, _wire.ready_request(), deadline).ready)
        except (ServerUnavailable, DeadlineExceeded):
            return False

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until the server is ready.

        Raises
        ------
        ServerUnavailable
            If it is not within ``timeout`` seconds.
        """
        deadline = Deadline(check_timeout(timeout))
        while left := deadline.remaining():
            if self.ready(min(left, c.CONTROL_TIMEOUT_S)):
                return
            time.sleep(min(c.RETRY_FIRST_DELAY_S, left))
        raise ServerUnavailable(f"{self.config.url} was not ready within {timeout:g} s. See the server's log.")

    def info(self, timeout: float | None = None) -> ServiceInfo:
        """Return what the server tells about itself, freshly asked and checked.

        Raises
        ------
        ContractMismatch
            If the answer is not understood, or is not what ``expect`` requires.
        """
        request_id = _plan.new_id()
        deadline = Deadline(check_timeout(timeout or min(c.CONTROL_TIMEOUT_S, self.config.timeout)))
        response = self._transport.call(_wire.INFER, _wire.info_request(request_id), deadline, request_id=request_id)
        info = parse_info(response)
        check_expectation(info, self.config.expect)
        self._info = info
        return info

    def _model(self, name: str, timeout: float) -> ModelInfo:
        """Return the served model after checking the contract of ``name``: once, and again after an outage.

        No lock: two threads that come first at the same time both ask, which is harmless.
        """
        limit = min(c.CONTROL_TIMEOUT_S, timeout)
        info = self._info or self.info(limit)
        if name not in self._checked:
            check_metadata(name, self._transport.call(_wire.METADATA, _wire.metadata_request(name), Deadline(limit)))
            self._checked |= {name}
        return info.model

    def _forget_contract(self) -> None:
        # A server that went away may come back with another model.
        self._info, self._checked = None, frozenset()

    # -- fields ----------------------------------------------------------------------------------------------------

    def analyze(
        self,
        images: ImageLike | Sequence[ImageLike],
        um_per_pixel: float | None = None,
        *,
        sample: str | None = None,
        timeout: float | None = None,
        budget: int | None = None,
        on_progress: Progress | None = None,
    ) -> SmearAnalysis:
        """Analyse the fields of one sample.

        Parameters
        ----------
        images : path, bytes, (H, W, 3) uint8 RGB array, EncodedImage, or a list of those
            One field, or all fields of the sample. Each travels as one request.
        um_per_pixel : float, optional
            Physical scale of all fields, micrometres per pixel; measured on the red cells when not given.
        sample : str, optional
            Name of the sample, copied into the result; it is not sent.
        timeout : float, optional
            Seconds per field; the client's by default.
        budget : int, optional
            Probes per class; the service's default when not given.
        on_progress : callable, optional
            Called with (done, all) after every field.

        Returns
        -------
        SmearAnalysis
            Fields in the order given. In a list, images that fail are in ``failures`` and the others are answered.

        Raises
        ------
        InvalidInput
            If ``images`` is a single image and it was refused, or an argument is out of range.
        ServerUnavailable, DeadlineExceeded, ServerError
            For a single image; for a list only if the server cannot even be asked what it serves.
        ContractMismatch
            If the server does not speak this client's contract (also for lists: the next field would fare no better).
        InvalidAnswer
            For a single image whose answer holds NaN or is inconsistent; in a list it is that image's failure.
        ClientClosed
            If the client was closed.
        """
        sources, single = sources_of(images)
        scale = check_scale(um_per_pixel)
        options = Options.of(timeout, self.config.timeout, budget)
        if single:
            # Local mistakes are told before the server is asked anything.
            loaded = sources[0].load()
            sources = [Source(loaded.name, lambda: loaded)]
        model = self._model(_wire.SMEAR_MODEL, options.timeout)

        def one(source: Source) -> FieldAnalysis | CytoserveClientError:
            return self._caught(lambda: self._field(source, scale, options, model), single)

        answers = self._each(one, sources, lambda _: 1, on_progress)
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

    def _field(self, source: Source, scale: float, options: Options, model: ModelInfo) -> FieldAnalysis:
        image, request_id = source.load(), _plan.new_id()
        request = _plan.field_request(image, scale, options, request_id)
        response = self._transport.call(
            _wire.INFER, request, Deadline(options.timeout), source=image.name, request_id=request_id
        )
        return _plan.read_field(response, model, image, request_id)

    # -- single cells ----------------------------------------------------------------------------------------------

    def classify(
        self,
        images: ImageLike | Sequence[ImageLike],
        um_per_pixel: float | Sequence[float | None] | None = None,
        *,
        timeout: float | None = None,
        budget: int | None = None,
        on_progress: Progress | None = None,
    ) -> CellsAnalysis:
        """Classify single-cell images, as an analyser delivers them.

        Parameters
        ----------
        images : as in `analyze`
            One cell, or many; many travel in chunks.
        um_per_pixel : float or sequence of float, optional
            Physical scale of all images, or of each.
        timeout : float, optional
            Seconds per chunk; the client's by default.
        budget, on_progress
            As in `analyze`.

        Returns
        -------
        CellsAnalysis
            Cells in the order given; images of a list that fail are in ``failures``.

        Raises
        ------
        CytoserveClientError
            As `analyze`.
        """
        sources, single = sources_of(images)
        scales = check_scales(um_per_pixel, len(sources))
        options = Options.of(timeout, self.config.timeout, budget)
        if single:
            loaded = sources[0].load()
            sources = [Source(loaded.name, lambda: loaded)]
        model = self._model(_wire.CELL_MODEL, options.timeout)
        chunks = _plan.chunks_of(sources, scales, self.config.cells_per_request)
        parts = self._each(
            lambda chunk: self._chunk(chunk, options, model), chunks, lambda chunk: len(chunk.sources), on_progress
        )
        answers = [answer for part in parts for answer in part]
        if single and isinstance(answers[0], CytoserveClientError):
            raise answers[0]
        return assemble_cells(model, [source.name for source in sources], answers)

    def _chunk(self, chunk: Chunk, options: Options, model: ModelInfo) -> list[CellAnswer | CytoserveClientError]:
        groups, errors = _plan.load_chunk(chunk)
        answers: dict[int, CellAnswer | CytoserveClientError] = dict(errors)
        for group in groups:
            for (position, _, _), answer in zip(group, self._group(group, options, model), strict=True):
                answers[position] = answer
        return [answers[i] for i in range(len(chunk.sources))]

    def _group(
        self, group: Sequence[Loaded], options: Options, model: ModelInfo
    ) -> list[CellAnswer | CytoserveClientError]:
        images, request_id = [image for _, image, _ in group], _plan.new_id()
        request = _plan.cells_request(images, [scale for _, _, scale in group], options, request_id)
        source = images[0].name if len(images) == 1 else None
        result = self._caught(
            lambda: _plan.read_cells(
                self._transport.call(
                    _wire.INFER, request, Deadline(options.timeout), source=source, request_id=request_id
                ),
                model,
                images,
                request_id,
            ),
            single=False,
        )
        if not isinstance(result, CytoserveClientError):
            return result
        if isinstance(result, (InvalidImage, BadScale)) and len(group) > 1:
            # The whole request was refused for one of its images: ask for each alone, the others are fine.
            return [answer for item in group for answer in self._group([item], options, model)]
        return [result for _ in group]

    # -- shared ----------------------------------------------------------------------------------------------------

    def _caught(self, work: Callable[[], _Result], single: bool) -> _Result | CytoserveClientError:
        """Return the work's result or its error; errors that concern every image are raised."""
        try:
            return work()
        except CytoserveClientError as error:
            if isinstance(error, (ServerUnavailable, ContractMismatch)):
                self._forget_contract()
            if single or concerns_all(error):
                raise
            return error

    def _each(
        self,
        work: Callable[[_Item], _Result],
        items: Sequence[_Item],
        weight: Callable[[_Item], int],
        on_progress: Progress | None,
    ) -> list[_Result]:
        """Run ``work`` on every item, several at a time; results in the order of the items."""
        total, done = sum(weight(item) for item in items), 0
        stop = threading.Event()

        def guarded(item: _Item) -> _Result:
            if stop.is_set():
                raise ClientClosed("the call was abandoned")
            return work(item)

        pool = ThreadPoolExecutor(min(self.config.max_in_flight, max(1, len(items))), "cytoserve")
        try:
            futures: dict[Future[_Result], int] = {pool.submit(guarded, item): i for i, item in enumerate(items)}
            pending: set[Future[_Result]] = set(futures)
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()  # an error that concerns every image ends the call here
                    done += weight(items[futures[future]])
                    if on_progress is not None:
                        on_progress(done, total)
        except BaseException:
            # Not waited for: requests under way end by their deadline, or at once when the client is closed.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        return [future.result() for future in futures]
