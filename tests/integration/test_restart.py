"""The real server restarted on its port during a sample: every field is answered, and nothing is called internal."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from cytoserve_client import Client, RetryPolicy, SmearAnalysis
from cytoserve_deploy.launch.local_server import LocalServer
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from triton_calls import OWN_SERVER, ROOT
from tritonclient.utils import InferenceServerException

pytestmark = OWN_SERVER

FIELDS = 32
REFUSED_FIELDS = ("cytoserve_requests_refused_total{", 'model="field_decoder"', 'code="unavailable"')


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """A part of the demo's field with a white cell in it, at its own scale; each file another by its comment."""
    with Image.open(ROOT / "examples" / "synthetic_field.png") as field:
        part = field.crop((220, 240, 420, 440))
    return [numbered(part, number) for number in range(FIELDS)]


def numbered(image: Image.Image, number: int) -> bytes:
    """Return a PNG file that differs from its like: equal files count once in a sample."""
    comment, buffer = PngInfo(), io.BytesIO()
    comment.add_text("Comment", f"field {number}")
    image.save(buffer, "PNG", pnginfo=comment)
    return buffer.getvalue()


class Restartable:
    """A server that can be ended in several ways and started again on the same port."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = LocalServer(
            model_repository=ROOT / "model_repository", grpc_port=self.port, log_file=self.log
        ).start()
        self.port = self.server.layout.grpc_port

    def end(self, how: str) -> None:
        if how != "stop":
            os.kill(self.server.pid, getattr(signal, how))
            while self.server.is_alive():
                threading.Event().wait(0.05)
        self.server.stop()


@pytest.fixture(scope="module")
def restartable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restartable]:
    running = Restartable(tmp_path_factory.mktemp("restart") / "log")
    yield running
    running.server.stop()


def analysed(
    client: Client, pictures: list[bytes], running: Restartable, how: str, back: bool
) -> tuple[SmearAnalysis, int]:
    """Analyse a sample, and end the server when the fourth field is answered and another one is under way.

    Returns
    -------
    (SmearAnalysis, int) : and how many fields the server had begun before it was gone.
    """
    enough = threading.Event()
    found: list[SmearAnalysis] = []

    def work() -> None:
        progress = lambda done, _: enough.set() if done >= 4 else None  # noqa: E731
        found.append(client.analyze(pictures, 0.1446, budget=2, on_progress=progress))

    worker = threading.Thread(target=work)
    already = begun(running)
    worker.start()
    assert enough.wait(120)
    # Whether the next fields have left the client yet is chance: wait for the server to have begun one.
    until = time.monotonic() + 60
    counter = BegunCounter(running, already)
    counter.start()
    while counter.begun < 5:
        assert time.monotonic() < until
        time.sleep(0.01)
    running.end(how)
    counter.join(60)
    if back:
        running.start()
    worker.join(180)
    return found[0], counter.begun


def begun(running: Restartable) -> int:
    """Return how many fields have passed the first step of the ensemble, at least.

    Triton counts a field that the step refused as a success too (2.51), so our own count of refusals is taken off; it
    is read last, so that what comes in between cannot make the answer too high.
    """
    with grpcclient.InferenceServerClient(f"127.0.0.1:{running.port}") as triton:
        statistics = triton.get_inference_statistics("field_decoder")
    served = sum(int(model.inference_stats.success.count) for model in statistics.model_stats)
    with urllib.request.urlopen(running.server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    refused = [line for line in lines if all(part in line for part in REFUSED_FIELDS)]
    return served - sum(int(float(line.split()[-1])) for line in refused)


class BegunCounter(threading.Thread):
    """Counts the begun fields until the server is gone."""

    def __init__(self, running: Restartable, already: int) -> None:
        super().__init__(daemon=True)
        self.running, self.already, self.begun = running, already, 0

    def run(self) -> None:
        with contextlib.suppress(OSError, InferenceServerException):
            while True:
                self.begun = max(self.begun, begun(self.running) - self.already)
                time.sleep(0.02)


@pytest.mark.parametrize("how", ["stop", "SIGTERM", "SIGKILL"])
def test_every_field_is_answered(restartable: Restartable, pictures: list[bytes], how: str) -> None:
    """By `LocalServer.stop`, which lets what runs end; as a container's Triton is told to stop; and killed."""
    with Client(f"127.0.0.1:{restartable.port}", timeout=120) as client:
        result, _ = analysed(client, pictures, restartable, how, back=True)
    assert [failure.message for failure in result.failures] == []
    assert len(result.fields) == FIELDS
    assert any(cell.label for cell in result.fields[-1].cells)
    assert "scorer: RuntimeError" not in restartable.log.read_text()


def test_what_has_begun_is_finished_before_the_server_stops(restartable: Restartable, pictures: list[bytes]) -> None:
    """For a caller that sends nothing twice: a field is answered, or was refused before its first step."""
    policy = RetryPolicy(max_attempts=1)
    with Client(f"127.0.0.1:{restartable.port}", timeout=120, retry=policy) as client:
        result, begun_fields = analysed(client, pictures, restartable, "stop", back=False)
    restartable.start()
    assert {failure.error for failure in result.failures} == {"unavailable"}
    # in Triton's own words those that a slow client sends when the drain is over and the server is being ended
    refused = ("begins no new request", "Server is stopping", "failed to connect", "Socket closed")
    assert [f.message for f in result.failures if not any(text in f.message for text in refused)] == []
    assert any("begins no new request" in failure.message for failure in result.failures)
    assert 5 <= begun_fields <= len(result.fields)
