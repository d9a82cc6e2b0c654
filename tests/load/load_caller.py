"""Calls the server: connections, prepared requests, one sample for each call, and what a stream's capacity is.

Used with gevent (locust) and without (threads): it only calls gRPC.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from cytoserve_contract.models import SERVICE_INFO, SMEAR_ANALYSIS
from load_inputs import Pictures
from load_samples import ANSWERED, REFUSED, Sample, outcome_of
from load_shapes import Stream
from load_target import Target
from load_wire import check_answer, images_request, read, request_for
from tritonclient.grpc import service_pb2_grpc as pb_grpc

CONNECTIONS: Final = 8
"""Callers share so many; each is a TCP connection of its own, as of one analyser or one gateway."""

VARIANTS: Final = 4
"""Different requests of one stream and size, with other cells."""

WHY_LETTERS: Final = 160

BACKOFF_S: Final = 0.2
"""Pause of a closed loop after a refusal; the open model has none."""


class Caller:
    """One program that sends to a target.

    Parameters
    ----------
    target : Target
    pictures : Pictures
    deadline_s : float
        Of every request.
    """

    def __init__(self, target: Target, pictures: Pictures, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._pictures = pictures
        self._channels = [target.channel() for _ in range(CONNECTIONS)]
        self._infer = [pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer for channel in self._channels]
        self._requests: dict[tuple[str, int, int], Any] = {}
        info = self._infer[0](request_for(SERVICE_INFO, [[b"info"]], deadline_s), timeout=deadline_s)
        self._classes = len(json.loads(read(SERVICE_INFO, info, {})["INFO"][0])["classes"])

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()

    def prepare(self, streams: Iterator[Stream] | list[Stream]) -> None:
        """Build every request beforehand, so that building costs no time under load."""
        for stream in streams:
            for size, variant in itertools.product(stream.sizes or (0,), range(VARIANTS)):
                self._request(stream, size, variant)

    def send(self, stream: Stream, cells: int, caller: int, arrived: float, at: float) -> tuple[Sample, int]:
        """Send one request and wait for it; return its sample and the bytes of the answer.

        ``arrived`` is the planned moment of ``time.perf_counter``, ``at`` the same since the beginning of the load.
        """
        why, length, status = "", 0, ""
        try:
            left = self.deadline_s - (time.perf_counter() - arrived)
            request = self._request(stream, cells, caller % VARIANTS)
            answer = self._infer[caller % CONNECTIONS](request, timeout=max(left, 0.001))
            length = answer.ByteSize()
            check_answer(stream.model, answer, self._classes, cells)
        except grpc.RpcError as error:
            status, why = error.code().name, f"{error.code().name}: {error.details()}"
        except Exception as error:  # a wrong answer, or a mistake of this program: the report shows it
            status = why = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - arrived
        return Sample(at, stream.name, cells, seconds, outcome_of(status), why[:WHY_LETTERS]), length

    def capacity(self, stream: Stream, seconds: float, callers: int = 8) -> float:
        """Return the requests a second that a closed loop of ``callers`` gets answered of one stream alone.

        Refusals are not counted: on a slow machine these callers are more than it lets in.

        Raises
        ------
        RuntimeError
            None was answered, or one failed or came late.
        """
        samples = closed_loop(self, stream, seconds, callers)
        bad = next((one.why for one in samples if one.outcome not in (ANSWERED, REFUSED)), "")
        answered = [one for one in samples if one.outcome == ANSWERED]
        if bad or not answered:
            raise RuntimeError(bad or samples[0].why)
        return len(answered) / max(one.at + one.seconds for one in answered)

    def _request(self, stream: Stream, cells: int, variant: int) -> Any:
        key = (stream.name, cells, variant)
        if key not in self._requests:
            is_field = stream.model == SMEAR_ANALYSIS.name
            files = [self._pictures.field] if is_field else self._pictures.some(cells, variant * 5)
            um = 0.0 if is_field else self._pictures.um_of_cells
            self._requests[key] = images_request(stream.model, files, um, self.deadline_s, stream.priority)
        return self._requests[key]


def closed_loop(caller: Caller, stream: Stream, seconds: float, callers: int) -> list[Sample]:
    """Let ``callers`` send one request after the other for some seconds, sizes taking turns; return the samples."""
    caller.prepare([stream])
    began = time.perf_counter()

    def loop(number: int) -> list[Sample]:
        found = []
        for turn in itertools.count():
            now = time.perf_counter()
            if now - began >= seconds and found:
                return found
            sizes = stream.sizes or (0,)
            size = sizes[(number + turn) % len(sizes)]
            found.append(caller.send(stream, size, number + turn, now, now - began)[0])
            if found[-1].outcome == REFUSED:
                time.sleep(BACKOFF_S)
        return found

    return [one for part in _in_parallel(loop, callers) for one in part]


def _in_parallel(work: Callable[[int], list[Sample]], count: int) -> list[list[Sample]]:
    """Run ``work(0)`` to ``work(count - 1)`` at the same time (greenlets where gevent has patched threads)."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))
