"""What a call does, written once for both clients: generators that yield what has to be waited for.

A flow yields a `Call` (call the server), a `Load` (read files) or a `Pause`, and is sent the outcome; an error of the
outcome is thrown into it. How a step is waited for is all that the blocking and the asyncio client do differently.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cytoserve_client import _constants as c
from cytoserve_client import _plan, _wire
from cytoserve_client._config import ClientConfig, check_timeout
from cytoserve_client._contract import ServiceInfo, basis_of, check_expectation, check_metadata, parse_info
from cytoserve_client._plan import Chunk, Loaded
from cytoserve_client._retry import IN_WORK, Attempts, Deadline, Loss, Outage, Throttle, loss_of
from cytoserve_client._wire import Call
from cytoserve_client.errors import (
    BadScale,
    ContractMismatch,
    CytoserveClientError,
    DeadlineExceeded,
    InvalidImage,
    InvalidInput,
    ServerError,
    ServerUnavailable,
    concerns_all,
)
from cytoserve_client.images import Source
from cytoserve_client.options import Options
from cytoserve_client.results import CellAnswer, FieldAnalysis, ModelInfo

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Load:
    """Do work that may wait for a disk; the outcome is what it returns."""

    work: Callable[[], Any]


@dataclass(frozen=True)
class Pause:
    """Wait, seconds; the outcome is None."""

    seconds: float


@dataclass(frozen=True)
class Served:
    """The model that a call began with, and all that its answers depend on as one text (`_contract.basis_of`)."""

    model: ModelInfo
    basis: str


Step = Call | Load | Pause
Flow = Generator[Step, Any, _Result]


MOMENT_S = 1e-3
"""Time of a request whose wait used up its deadline: it fails as any other that is late."""


class Flows:
    """The flows of one client, and what it knows about the server.

    No lock: two threads that come first at the same time both request the contract, which is harmless.
    """

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._info: ServiceInfo | None = None
        self._checked: frozenset[str] = frozenset()
        self._outage = Outage(config.retry)
        self._throttle = Throttle()

    def ready(self, timeout: float | None) -> Flow[bool]:
        """Return whether the server is ready; False if it cannot be reached in time."""
        try:
            limit = check_timeout(timeout or c.CONTROL_TIMEOUT_S)
            answer = yield from self._sent(Call(_wire.READY, _wire.READY.request(), limit))
        except (ServerUnavailable, DeadlineExceeded):
            return False
        return bool(answer.ready)

    def wait_until_ready(self, timeout: float) -> Flow[None]:
        """Poll until the server is ready; `ServerUnavailable` if it is not within ``timeout`` seconds."""
        deadline = Deadline(check_timeout(timeout))
        while left := deadline.remaining():
            if (yield from self.ready(min(left, c.CONTROL_TIMEOUT_S))):
                return
            yield Pause(min(c.RETRY_FIRST_DELAY_S, left))
        raise ServerUnavailable(f"{self._config.url} was not ready within {timeout:g} s. See the server's log.")

    def info(self, timeout: float | None) -> Flow[ServiceInfo]:
        """Call ``service_info``, check the answer against what the caller expects, and keep it."""
        request_id = _plan.new_id()
        limit = check_timeout(timeout or min(c.CONTROL_TIMEOUT_S, self._config.timeout))
        call = Call(_wire.INFER, _wire.info_request(request_id), limit, request_id=request_id)
        info = parse_info((yield from self._sent(call)))
        check_expectation(info, self._config.expect)
        self._info = info
        return info

    def served(self, name: str, options: Options) -> Flow[Served]:
        """Check the contract of model ``name`` (once, and again after an outage) and the options against it."""
        limit = min(c.CONTROL_TIMEOUT_S, options.timeout)
        info = self._info
        if info is None:
            info = yield from self.info(limit)
            if self._outage.given_up:
                self._outage.end()  # it answers: an outage that was given up is over
        elif options.site_name not in info.site_names:
            info = yield from self.info(limit)  # the site may have been added since
        options.check_served(info)
        if name not in self._checked:
            call = Call(_wire.METADATA, _wire.METADATA.request(name=name), limit)
            check_metadata(name, (yield from self._sent(call)))
            self._checked |= {name}
        return Served(info.model, basis_of(info, options.site_name))

    def field(
        self, source: Source, scale: float, options: Options, served: Served, single: bool
    ) -> Flow[FieldAnalysis | CytoserveClientError]:
        """Analyse one field; its error is returned if others of the list may fare better, else raised."""

        def sent() -> Flow[FieldAnalysis]:
            image = yield Load(source.load)
            request_id = _plan.new_id()
            request = _plan.image_request(_wire.SMEAR_MODEL, [image], [scale], options, request_id)
            call = Call(_wire.INFER, request, options.timeout, image.name, request_id)
            answer = yield from self._answered(call, _wire.SMEAR_MODEL, options, served)
            return _plan.read_field(answer, served.model, image, request_id)

        return self._caught(sent(), single)

    def chunk(self, chunk: Chunk, options: Options, served: Served) -> Flow[list[CellAnswer | CytoserveClientError]]:
        """Classify one chunk of single-cell images: an answer or an error for each, in order."""
        groups, errors = yield Load(lambda: _plan.load_chunk(chunk))
        answers: dict[int, CellAnswer | CytoserveClientError] = dict(errors)
        for group in groups:
            found = yield from self._group(group, options, served)
            answers.update(zip((position for position, _, _ in group), found, strict=True))
        return [answers[i] for i in range(len(chunk.sources))]

    def _group(
        self, group: Sequence[Loaded], options: Options, served: Served
    ) -> Flow[list[CellAnswer | CytoserveClientError]]:
        images = [image for _, image, _ in group]

        def sent() -> Flow[list[CellAnswer | CytoserveClientError]]:
            request_id = _plan.new_id()
            scales = [scale for _, _, scale in group]
            request = _plan.image_request(options.cell_model, images, scales, options, request_id)
            source = images[0].name if len(images) == 1 else None
            call = Call(_wire.INFER, request, options.timeout, source, request_id)
            answer = yield from self._answered(call, options.cell_model, options, served)
            return _plan.read_cells(answer, served.model, images, request_id)

        result = yield from self._caught(sent(), single=False)
        if not isinstance(result, CytoserveClientError):
            return result
        if isinstance(result, (InvalidImage, BadScale)) and len(group) > 1:
            # The whole request was refused for one of its images: send each alone, the others are fine.
            alone: list[CellAnswer | CytoserveClientError] = []
            for item in group:
                alone += yield from self._group([item], options, served)
            return alone
        return [result for _ in group]

    def _sent(self, call: Call) -> Flow[Any]:
        """Send a request until it is answered, may not be retried, or its time is over."""
        attempts = Attempts(self._config.retry, self._throttle, Deadline(call.timeout))
        while True:
            left = attempts.remaining(call.source, call.request_id or None)
            try:
                answer = yield replace(call, timeout=left)
            except CytoserveClientError as error:
                delay = attempts.next_delay(error)
            else:
                self._throttle.success()
                return answer
            yield Pause(delay)

    def _answered(self, call: Call, name: str, options: Options, served: Served) -> Flow[Any]:
        """Send a request; if the server goes away, wait until it is ready and send it again, within the deadline."""
        deadline = Deadline(call.timeout)
        vanished = 0
        away = self._outage.error
        while True:
            if away is not None:
                yield from self._back(away, call, deadline, name, options, served)
                call = replace(call, timeout=max(deadline.remaining(), MOMENT_S))
            try:
                answer = yield from self._sent(call)
            except ServerUnavailable as error:
                loss = loss_of(error)
                vanished += loss in IN_WORK
                if not self._outage.worth_waiting(error, vanished):
                    raise
                self._outage.begin(error)
                away = error
                if loss is Loss.CRIPPLED:
                    yield Pause(min(c.NOTICE_S, deadline.remaining()))
            except (InvalidInput, ServerError):
                self._outage.end()  # it has answered
                raise
            else:
                self._outage.end()
                return answer

    def _back(
        self, away: CytoserveClientError, call: Call, deadline: Deadline, name: str, options: Options, served: Served
    ) -> Flow[None]:
        """Return when the server is ready again with the model that this call began with.

        `ServerUnavailable` if the outage lasts longer than policy and deadline allow, `ContractMismatch` if the server
        came back with another model.
        """
        tries = 0
        while not self._outage.given_up:
            tries += 1
            yield Pause(min(self._outage.pause(tries), deadline.remaining()))
            left = deadline.remaining()
            if left <= c.DEADLINE_MARGIN_S:
                break
            if not (yield from self.ready(min(left, c.CONTROL_TIMEOUT_S))):
                continue
            self._info, self._checked = None, frozenset()
            try:
                found = yield from self.served(name, options)
            except (ServerUnavailable, DeadlineExceeded):
                continue
            if found != served:
                raise ContractMismatch(
                    "the server came back with another model or calibration during the call; one sample needs one: "
                    "start the call again"
                )
            return
        raise ServerUnavailable(away.message, source=call.source, request_id=call.request_id or None)

    def _caught(self, flow: Flow[_Result], single: bool) -> Flow[_Result | CytoserveClientError]:
        """Return the flow's result or its error; errors that concern every image are raised."""
        try:
            return (yield from flow)
        except CytoserveClientError as error:
            if isinstance(error, (ServerUnavailable, ContractMismatch)):
                # A server that went away may come back with another model.
                self._info, self._checked = None, frozenset()
            if single or concerns_all(error):
                raise
            return error
