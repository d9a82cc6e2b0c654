"""Stat before routine: a request of priority 1 is taken before those that wait, through the ensemble."""

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


@pytest.mark.integration
@pytest.mark.usefixtures("own_server")
def test_a_stat_request_overtakes_the_routine_ones_that_wait() -> None:
    order: list[str] = []
    ended = threading.Semaphore(0)

    def send(client: grpc.InferenceServerClient, name: str, cells: int, budget: int, priority: int) -> object:
        def note(result: object, error: object) -> None:
            order.append(name if error is None else f"{name}: {error}")
            ended.release()

        work = {"budget": budget, "alpha": 0.0}
        return client.async_infer("cell_analysis", inputs(cells), note, priority=priority, parameters=work)

    with (
        LocalServer(
            model_repository=ROOT / "model_repository", scorer_instances=1, onnx_threads=1, max_wait_s=600
        ) as server,
        grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        # each is seconds of scoring, so that they wait however slowly the steps before hand them on
        calls = [send(client, f"routine {index}", 64, 8, (0, ROUTINE)[index % 2]) for index in range(8)]
        until = time.monotonic() + 60
        while pending(server) < 5:
            assert time.monotonic() < until, order
            time.sleep(0.02)
        send(client, "stat", 1, 1, STAT)
        while "stat" not in order:
            assert ended.acquire(timeout=120)
        came = order.index("stat")
        for call in calls:
            call.cancel()  # type: ignore[attr-defined]
    # one is being scored when it comes, and a second may be by the time it has passed decoder and encoder
    assert came <= 4, order
    assert all(name.startswith("routine") for name in order[:came])
