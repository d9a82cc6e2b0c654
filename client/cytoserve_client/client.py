"""The blocking client.

>>> from cytoserve_client import Client
>>> with Client("localhost:8001") as client:                     # doctest: +SKIP
...     analysis = client.analyze(["field-1.png", "field-2.png"])
...     print([cell.label for field in analysis.fields for cell in field.cells])
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from cytoserve_client import _wire
from cytoserve_client._base import BaseClient, CellsJob, FieldsJob
from cytoserve_client._config import ClientConfig
from cytoserve_client._contract import ServiceInfo
from cytoserve_client._flow import Flow, Load, Pause, Step
from cytoserve_client._parallel import Progress, in_threads, stream_threads
from cytoserve_client._transport import SyncTransport
from cytoserve_client.errors import CytoserveClientError
from cytoserve_client.images import ImageLike, check_scale
from cytoserve_client.options import Options, Priority
from cytoserve_client.results import CellsAnalysis, FieldAnalysis, SmearAnalysis
from cytoserve_client.streaming import Answered, FieldStream, Gathered, Sent

_Result = TypeVar("_Result")


class Client(BaseClient[SyncTransport]):
    """A connection to a CytoServe server. Thread-safe; one per process is enough (make it after a ``fork``).

    Parameters
    ----------
    url : str
        gRPC address, ``HOST:PORT``; ``grpcs://HOST:PORT`` for TLS with public authorities.
    timeout : float
        Seconds that one request (one field, or one chunk of cells) may take, retries included. Always finite.
    retry : RetryPolicy, optional
        How often, and how long, a request that got no answer is sent again; a restart of the server is waited for.
    tls : TLS, optional
        Certificates; without it, and without ``grpcs://``, the connection is in clear text.
    headers : mapping of str to str, optional
        Sent with every request. Where the program uses OpenTelemetry, the trace context of the caller goes with them.
    token : callable, optional
        Returns a bearer token; called before every attempt. Refused on clear text, other than to this machine.
    max_in_flight : int
        Requests of one call that are under way at the same time.
    cells_per_request : int
        Single-cell images per request of `classify`; at most 512, the service's limit.
    round_robin : bool
        Spread requests over all addresses of the host name (a headless Kubernetes service).
    expect : Expectation, optional
        Classes, weights or version that the server must have.

    Raises
    ------
    ConfigurationError
        If the settings cannot work. Nothing is sent before the first call.
    """

    @staticmethod
    def _connect(config: ClientConfig) -> SyncTransport:
        return SyncTransport(config)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with `ClientClosed`. Closing twice is fine."""
        self._transport.close()

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
        return self._run(self._flows.ready(timeout))

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until the server is ready.

        Raises
        ------
        ServerUnavailable
            If it is not within ``timeout`` seconds.
        """
        self._run(self._flows.wait_until_ready(timeout))

    def info(self, timeout: float | None = None) -> ServiceInfo:
        """Return what the server declares about itself, requested anew and checked.

        Raises
        ------
        ContractMismatch
            If the answer is not understood, or is not what ``expect`` requires.
        """
        return self._run(self._flows.info(timeout))

    def analyze(
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
        """Analyse the fields of one sample.

        Parameters
        ----------
        images : path, bytes, (H, W, 3) uint8 RGB array, EncodedImage, or a list of those
            One field, or all fields of the sample. Each travels as one request. In a list equal contents (byte for
            byte, whatever their names) count once, and pictures that this program annotated do not count: both are
            named in ``skipped``.
        um_per_pixel : float, optional
            Physical scale of all fields, micrometres per pixel; measured on the red cells when not given.
        sample : str, optional
            Name of the sample, copied into the result; it is not sent.
        timeout : float, optional
            Seconds per field; the client's by default. The server gets the limit too, and stops there.
        budget : int, optional
            Most noise samples (probes) of a cell, from 1 to the probes of the served model (``info().probes``); the
            service's default (``info().default_budget``) when not given.
        alpha : float, optional
            Share of cells, from 0 to below 1, whose answer may differ from that of the whole budget, because classes
            that can hardly win are dropped early. 0 evaluates all classes to the end. ``info().default_alpha`` when not
            given.
        classes : list of str, optional
            Only these may win; all when not given. The others get probability 0 and no score. With a single name
            every cell gets it, with probability 1: only ``scores`` and ``anomaly`` carry information then.
        priority : {"routine", "stat"}
            ``stat`` goes before what waits as ``routine`` in the server's queues; what runs already is finished
            first. For single cells (`classify`) the server has instances that serve ``stat`` alone.
        site : str, optional
            Whose calibration decides, one of ``info().site_names``; ``home``, the model's own, when not given.
        one_sample : bool
            Whether all fields are one sample, whose pictures are judged together as well. False: each field is a
            sample of its own.
        on_progress : callable, optional
            Called with (done, all) after every field.

        Returns
        -------
        SmearAnalysis
            Fields in the order given; `cytoserve_reports.summarise` adds them up. In a list, images that fail are in
            ``failures`` and the others are answered; those that must not count (again) are in ``skipped``.
            ``familiarity`` tells whether the pictures are like those of the site's calibration. Where they are not,
            every scored cell is referred with the reason ``unfamiliar_sample``.

        Raises
        ------
        InvalidInput
            If ``images`` is a single image and it was refused, or an argument is out of range (`BadParameter`: a
            class that the model does not have, an empty list of classes, a budget above the model's probes, a site
            that the server does not have).
        ServerUnavailable, DeadlineExceeded, ServerError
            For a single image; for a list only if the server does not even answer what it serves.
        ContractMismatch
            If the server does not speak this client's contract (also for lists: the next field would fare no better).
        InvalidAnswer
            For a single image whose answer holds NaN or is inconsistent; in a list it is that image's failure.
        ClientClosed
            If the client was closed.

        Notes
        -----
        Thresholds are calibrated for the default ``alpha``, all classes and some budgets. With anything else every
        cell is answered but referred to a person, with the reason ``not_calibrated``.

        Whether cells and sample are familiar is judged by their pictures (light, stain, focus, compression, scale).
        A disease, or a kind of cell that the model never learned, in ordinary pictures is not noticed by it.
        """
        options = Options.of(timeout, self.config.timeout, budget, alpha, classes, priority, site, one_sample)
        job = FieldsJob.of(images, um_per_pixel)
        served = self._run(self._flows.served(_wire.SMEAR_MODEL, options))
        answers = in_threads(
            lambda source: self._run(self._flows.field(source, job.um_per_pixel, options, served, job.single)),
            job.sources,
            lambda _: 1,
            self.config.max_in_flight,
            on_progress,
        )
        return job.result(served.model, answers, sample, options)

    def analyze_stream(
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
    ) -> FieldStream:
        """Analyse fields as they come, and yield the answers as they are ready.

        For more fields than one waits for: a film that a scanner is still writing, a whole slide, a monitor that shows
        cells as they are found. What was found so far is `FieldStream.result`.

        Parameters
        ----------
        images : iterable of path, bytes, (H, W, 3) uint8 RGB array or EncodedImage
            Gone through as answers come: at most ``max_in_flight`` images are read ahead of the last answer, so a
            generator is not exhausted and memory does not grow with the number of images.
        um_per_pixel, timeout, budget, alpha, classes, priority, site, one_sample
            As in `analyze`.
        answered : mapping of str to FieldAnalysis, optional
            By source, what an earlier stream of the same film was told. These images are not sent; the stream yields
            the answers at their turn. That they are of the same pictures, model and site is the caller's to see to.

        Returns
        -------
        FieldStream
            An iterator of `FieldAnalysis` and, for an image without an answer, `Failure`. Cells are as the server
            judged them: the sample as a whole is judged in ``result()``. Use it in a ``with`` block, or close it.

        Raises
        ------
        CytoserveClientError
            Here, and where the stream is gone through: as `analyze` raises for a list.
        """
        options = Options.of(timeout, self.config.timeout, budget, alpha, classes, priority, site, one_sample)
        scale = check_scale(um_per_pixel)
        served = self._run(self._flows.served(_wire.SMEAR_MODEL, options))
        gathered = Gathered(served.model, options, answered or {})

        def work(item: Sent) -> Answered:
            if (known := gathered.known(item)) is not None:
                return known
            return self._run(self._flows.field(item[1], scale, options, served, single=False))

        answers = stream_threads(work, gathered.admitted(images), self.config.max_in_flight)
        return FieldStream(answers, gathered)

    def classify(
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
        """Classify single-cell images, as an analyser delivers them.

        Parameters
        ----------
        images : as in `analyze`
            One cell, or many; many travel in chunks. Nothing is added up here, so every image of the list gets its
            answer, equal ones too; the commands that count cells leave repeats out (`cytoserve_files.selection`).
        um_per_pixel : float or sequence of float, optional
            Physical scale of all images, or of each, micrometres per pixel.
        timeout : float, optional
            Seconds per chunk; the client's by default.
        budget, alpha, classes, priority, site, on_progress
            As in `analyze`.
        one_sample : bool
            Whether the cells are one sample, whose pictures are judged together as well. False, for cells of several
            samples: each is judged by itself only, and ``familiarity`` of the result is None.

        Returns
        -------
        CellsAnalysis
            Cells in the order given; images of a list that fail are in ``failures``.

        Raises
        ------
        CytoserveClientError
            As `analyze`.
        """
        options = Options.of(timeout, self.config.timeout, budget, alpha, classes, priority, site, one_sample)
        job = CellsJob.of(images, um_per_pixel, self.config.cells_per_request)
        served = self._run(self._flows.served(options.cell_model, options))
        parts = in_threads(
            lambda chunk: self._run(self._flows.chunk(chunk, options, served)),
            job.chunks,
            lambda chunk: len(chunk.sources),
            self.config.max_in_flight,
            on_progress,
        )
        return job.result(served.model, parts, options)

    def _run(self, flow: Flow[_Result]) -> _Result:
        """Go through a flow, waiting for each of its steps in this thread."""
        advance: Callable[[], Step] = lambda: next(flow)  # noqa: E731
        while True:
            try:
                step = advance()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                advance = partial(flow.send, self._wait(step))
            except CytoserveClientError as error:
                advance = partial(flow.throw, error)

    def _wait(self, step: Step) -> Any:
        if isinstance(step, Load):
            return step.work()
        if isinstance(step, Pause):
            return self._transport.pause(step.seconds)
        return self._transport.attempt(step)
