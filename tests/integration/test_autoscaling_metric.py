"""What the chart scales on rises on the real Triton when clients wait; the denoiser's own queue never could tell."""

from __future__ import annotations

import re
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from cytoserve_client import Client
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import cell_png
from triton_calls import OWN_SERVER, ROOT

sys.path.insert(0, str(ROOT / "tests" / "helm"))

from chart import Helm, session_helm

pytestmark = OWN_SERVER

PENDING = re.compile(r'^(nv_inference_pending_request_count)\{.*?model="(\w+)".*?\} (\S+)$', re.MULTILINE)
CLIENTS, SCORERS = 10, 2


@pytest.fixture
def query(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, float]:
    """Return metric, the model left out, and the threshold of the chart's rule."""
    helm: Helm = session_helm(request, tmp_path_factory)
    trigger = helm.one("ScaledObject", autoscaling__enabled=True)["spec"]["triggers"][0]["metadata"]
    found = re.fullmatch(r'sum\(sum by \(pod\) \((\w+)\{model!="(\w+)",.*\}\)\)', trigger["query"])
    assert found, trigger["query"]
    return found[1], found[2], float(trigger["threshold"])


def test_waiting_clients_exceed_the_threshold(query: tuple[str, str, float]) -> None:
    metric, left_out, threshold = query
    counted, of_denoiser, done = [], [], threading.Event()

    with LocalServer(model_repository=ROOT / "model_repository", scorer_instances=SCORERS, max_wait_s=600) as server:

        def watch() -> None:
            while not done.is_set():
                with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
                    found = {model: float(value) for _, model, value in PENDING.findall(answer.read().decode())}
                counted.append(sum(value for model, value in found.items() if model != left_out))
                of_denoiser.append(found[left_out])
                time.sleep(0.1)

        def work(_: int) -> None:
            with Client(server.grpc_url) as client:
                client.classify([cell_png()] * 4, 0.18)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(work, range(CLIENTS)))
        done.set()
        watcher.join()
    assert metric == "nv_inference_pending_request_count"
    assert max(counted) > threshold
    assert max(of_denoiser) <= SCORERS < threshold
