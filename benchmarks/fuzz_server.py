"""Requests that no client of ours sends, to the real server: none may end a model, none may be called internal.

    python -m benchmarks.fuzz_server --requests 20000 --out docs/results/fuzz_server.json
    make fuzz CASES=1000000 REQUESTS=20000

Hypothesis makes them (`benchmarks.fuzz_requests`) and makes the first bad one small before it is shown. Each must be
answered, or refused as the caller's mistake or for its time, within seconds. In the end the server is the same
processes, and a cell gets the answer that it got before.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any, Final

import grpc
import hypothesis
import numpy as np
from cytoserve_client import Client
from cytoserve_client.errors import error_from_status
from cytoserve_contract.limits import MAX_MESSAGE_BYTES
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.model_processes import dead, model_processes
from cytoserve_deploy.launch.warmup import cell_png
from cytoserve_scoring.serving.admission import OVERLOADED
from hypothesis import HealthCheck, given, settings
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from benchmarks.fuzz_requests import requests
from benchmarks.results import Benchmark, Inputs, run, served_weights
from benchmarks.server_state import state_of

SEED: Final = 16
LIMIT_S: Final = 30.0
MAY_BE: Final = ("INVALID_ARGUMENT", "CANCELLED")
"""How a request may be refused: the caller's mistake, or a time that is over. UNAVAILABLE too, before any work, where
the first step by itself was asked before: it lets a request in whose end no last step tells."""


def fuzz(server: LocalServer, count: int, seed: int = SEED) -> dict[str, Any]:
    """Send so many requests one after another; return what came of them.

    Raises
    ------
    AssertionError
        One was refused otherwise than it may, or the server is not what it was.
    """
    outcomes: Counter[str] = Counter()
    models: Counter[str] = Counter()
    slowest = 0.0
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    channel = grpc.insecure_channel(server.grpc_url, options=[*options, ("grpc.enable_http_proxy", 0)])
    stub = pb_grpc.GRPCInferenceServiceStub(channel)

    @hypothesis.seed(seed)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
    )
    @given(requests())
    def each(request: Any) -> None:
        nonlocal slowest
        began = time.monotonic()
        models[request.model_name] += 1
        try:
            stub.ModelInfer(request, timeout=LIMIT_S)
            outcomes["answered"] += 1
        except grpc.RpcError as refused:
            status, details = refused.code().name, refused.details() or ""
            assert status in MAY_BE or (status == "UNAVAILABLE" and OVERLOADED in details), (status, details)
            outcomes[error_from_status(status, details).code] += 1
        slowest = max(slowest, time.monotonic() - began)

    with Client(server.grpc_url, timeout=60) as client, channel:
        pids, before, known = model_processes(server.pid), state_of(server), _answer(client)
        each()
        assert model_processes(server.pid) == pids
        assert dead(pids) == []
        assert _answer(client) == known
        after = state_of(server)
    return {
        "requests": sum(models.values()),
        "models": dict(models.most_common()),
        "outcomes": dict(outcomes.most_common()),
        "model_processes_died": 0,
        "internal": 0,
        "slowest_s": round(slowest, 2),
        "before": vars(before),
        "after": vars(after),
    }


def _answer(client: Client) -> tuple[Any, ...]:
    (cell,) = client.classify([cell_png()], 0.18, one_sample=False).cells
    return cell.label, cell.decision, tuple(np.round(list((cell.probability or {}).values()), 4))


def measure(count: int, seed: int) -> dict[str, Any]:
    """Fuzz a server of our own."""
    with LocalServer() as server:
        return fuzz(server, count, seed)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=SEED)


BENCHMARK = Benchmark(
    __doc__,
    _arguments,
    lambda args: Inputs(served_weights(), seeds={"requests": args.seed}),
    lambda args: measure(args.requests, args.seed),
)

if __name__ == "__main__":
    run(BENCHMARK)
