"""On the real server: more than it can do is refused early, what is let in is answered, and nothing stays counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from cytoserve_contract.names import ENV_MAX_WAIT_S
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.serving.admission import OVERLOADED, Admission
from load_caller import Caller
from load_inputs import pictures
from load_samples import ANSWERED, LATE, REFUSED, Sample
from load_shapes import STAT_CELL, Stream
from load_target import Target
from load_wire import images_request
from tritonclient.grpc import service_pb2_grpc as pb_grpc

BIG = Stream("sixteen cells", "cell_analysis", (16,))
DEADLINE_S = 60.0
CROWD = 40
"""Requests of sixteen cells: 640 cells are more than seconds of work for two cores."""


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    # A short wait: what a machine of any speed does in it is less than the crowd asks for.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENV_MAX_WAIT_S, "2")
        with LocalServer() as started:
            yield started


@pytest.fixture(scope="module")
def caller(server: LocalServer) -> Iterator[Caller]:
    found = Caller(Target(server.grpc_url), pictures(), DEADLINE_S)
    yield found
    found.close()


def under_way(server: LocalServer) -> float:
    return Admission(server.layout.admission_file, 0.0).units()


def crowd(caller: Caller, count: int, stat_cells: int = 0) -> list[Sample]:
    """Send many large requests at once, and stat cells a little later."""
    began = time.perf_counter()

    def one(number: int) -> Sample:
        stream = BIG if number < count else STAT_CELL
        if stream is STAT_CELL:
            time.sleep(0.3)
        now = time.perf_counter()
        return caller.send(stream, stream.sizes[0], number, now, now - began)[0]

    with ThreadPoolExecutor(count + stat_cells) as pool:
        return list(pool.map(one, range(count + stat_cells)))


@pytest.mark.integration
def test_too_much_at_once_is_refused_early_and_stat_is_not(server: LocalServer, caller: Caller) -> None:
    found = crowd(caller, CROWD, stat_cells=2)
    routine, stat = found[:CROWD], found[CROWD:]
    outcomes = Counter(one.outcome for one in routine)
    assert set(outcomes) == {ANSWERED, REFUSED}, [one.why for one in found]
    assert outcomes[ANSWERED] >= 2
    assert outcomes[REFUSED] >= 2
    assert [one.outcome for one in stat] == [ANSWERED] * 2, stat
    # a refused request was decoded by nobody; it has waited for those that were, not for their scores
    assert all(OVERLOADED in one.why for one in routine if one.outcome == REFUSED)
    assert max(one.seconds for one in stat) < max(one.seconds for one in routine if one.outcome == ANSWERED)
    assert under_way(server) == 0.0


@pytest.mark.integration
def test_requests_that_fail_are_not_counted_afterwards(server: LocalServer, caller: Caller) -> None:
    with Target(server.grpc_url).channel() as channel:
        infer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        bad_field = images_request("smear_analysis", [b"no picture"], 0.0, 10)
        bad_budget = images_request("cell_analysis", caller._pictures.some(2, 0), 0.2, 10)
        bad_budget.parameters["classes"].string_param = "none that is known"
        too_late = images_request("cell_analysis", caller._pictures.some(16, 0), 0.2, 0.15)
        for request in (bad_field, bad_budget, too_late):
            with pytest.raises(grpc.RpcError):
                infer(request, timeout=20)
    assert under_way(server) == 0.0


@pytest.mark.integration
def test_a_caller_that_hangs_up_is_forgotten(server: LocalServer, caller: Caller) -> None:
    with Target(server.grpc_url).channel() as channel:
        infer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        request = images_request("cell_analysis", caller._pictures.some(16, 0), 0.2, 60)
        calls = [infer.future(request, timeout=60) for _ in range(3)]
        time.sleep(0.4)
        for call in calls:
            call.cancel()
    until = time.monotonic() + 30
    while under_way(server):
        assert time.monotonic() < until, under_way(server)
        time.sleep(0.2)
    assert caller.send(STAT_CELL, 1, 0, time.perf_counter(), 0.0)[0].outcome == ANSWERED


@pytest.mark.integration
def test_a_deadline_that_cannot_be_kept_is_refused_not_missed(server: LocalServer, caller: Caller) -> None:
    short = Caller(Target(server.grpc_url), pictures(), 0.3)
    try:
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(crowd, caller, 12)
            time.sleep(0.2)
            now = time.perf_counter()
            late = short.send(BIG, 16, 0, now, 0.0)[0]
            busy.result()
    finally:
        short.close()
    assert late.outcome in (REFUSED, LATE)
    assert late.seconds < 0.3 + 0.5
