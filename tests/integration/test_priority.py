"""Stat before routine: priority 1 is taken before what waits, and single cells have a lane that waits for nothing."""

from __future__ import annotations

import threading
import time
import urllib.request

import numpy as np
import pytest
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import cell_png
from triton_calls import ROOT, files, tensor
from tritonclient import grpc

STAT, ROUTINE = 1, 2


def inputs(cells: int) -> list[grpc.InferInput]:
    return [
        tensor("IMAGE", files([cell_png(120 + index % 60) for index in range(cells)])),
        tensor("UM_PER_PIXEL", np.full(1, 0.18, np.float32)),
    ]


@pytest.mark.integration
@pytest.mark.parametrize("priority", [0, STAT, ROUTINE, 9])
def test_any_priority_is_answered(connection: grpc.InferenceServerClient, priority: int) -> None:
    """0 is "not given"; a level that no model knows is served as routine."""
    result = connection.infer(
        "cell_analysis", inputs(1), priority=priority, parameters={"budget": 1}, client_timeout=60
    )
    assert result.as_numpy("LABEL").shape == (1,)


def pending(server: LocalServer) -> int:
    """Return how many requests wait for the scorer."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        int(float(line.split()[-1]))
        for line in lines
        if line.startswith("nv_inference_pending_request_count{") and 'model="scorer"' in line
    )


class Sender:
    """Sends requests whose scoring takes seconds, and notes in which order they come back."""

    def __init__(self, client: grpc.InferenceServerClient) -> None:
        self.client = client
        self.order: list[str] = []
        self._ended = threading.Semaphore(0)

    def send(self, name: str, cells: int, budget: int, priority: int, model: str = "cell_analysis") -> object:
        def note(result: object, error: object) -> None:
            self.order.append(name if error is None else f"{name}: {error}")
            self._ended.release()

        work = {"budget": budget, "alpha": 0.0}
        return self.client.async_infer(model, inputs(cells), note, priority=priority, parameters=work)

    def until(self, name: str) -> list[str]:
        """Wait for an answer; return those that came before it."""
        while name not in self.order:
            assert self._ended.acquire(timeout=120)
        return self.order[: self.order.index(name)]


def wait_for_pending(server: LocalServer, count: int) -> None:
    until = time.monotonic() + 60
    while pending(server) < count:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.integration
@pytest.mark.usefixtures("own_server")
def test_a_stat_request_overtakes_the_routine_ones_that_wait() -> None:
    with (
        LocalServer(
            model_repository=ROOT / "model_repository", scorer_instances=1, onnx_threads=1, max_wait_s=600
        ) as server,
        grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        sender = Sender(client)
        # each is seconds of scoring, so that they wait however slowly the steps before hand them on
        calls = [sender.send(f"routine {index}", 64, 8, (0, ROUTINE)[index % 2]) for index in range(8)]
        wait_for_pending(server, 5)
        sender.send("stat", 1, 1, STAT)
        before = sender.until("stat")
        for call in calls:
            call.cancel()  # type: ignore[attr-defined]
    # one is being scored when it comes, and a second may be by the time it has passed decoder and encoder
    assert len(before) <= 4, before
    assert all(name.startswith("routine") for name in before)


@pytest.mark.integration
@pytest.mark.usefixtures("own_server")
def test_the_stat_lane_waits_for_no_routine_request_that_runs() -> None:
    """Every scorer of the routine lane has the largest request that there is, and more of them wait."""
    with (
        LocalServer(model_repository=ROOT / "model_repository", max_wait_s=3600) as server,
        grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        sender = Sender(client)
        calls = [sender.send(f"routine {index}", 256, 8, ROUTINE) for index in range(4)]
        wait_for_pending(server, 1)
        for index in range(3):
            sender.send(f"stat {index}", 1, 8, STAT, "stat_cell_analysis")
            assert [name for name in sender.until(f"stat {index}") if name.startswith("routine")] == []
        for call in calls:
            call.cancel()  # type: ignore[attr-defined]


@pytest.mark.integration
def test_both_lanes_give_the_same_answer(connection: grpc.InferenceServerClient) -> None:
    usual, stat = (
        connection.infer(model, inputs(5), parameters={"budget": 4}, client_timeout=60)
        for model in ("cell_analysis", "stat_cell_analysis")
    )
    for output in usual.get_response().outputs:
        assert np.array_equal(usual.as_numpy(output.name), stat.as_numpy(output.name)), output.name
