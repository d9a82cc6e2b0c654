"""Load on both ensembles over plain gRPC, for locust. ``make load`` (run.py) starts a server and runs this.

Open model: requests arrive at random moments (a Poisson process with a fixed seed) whether or not earlier ones were
answered, as microscopes and analysers do, and the response time counts from the moment of arrival. A closed loop would
send less when the server is slow, and so hide the slowness. What cannot be sent, because too much is under way, counts
as a failure instead of being delayed.

Settings come from the environment, so that plain ``locust -f tests/load/locustfile.py --host 127.0.0.1:8001`` works:

=================================  ========  ======================================================
CYTOSERVE_LOAD_IMAGE               (demo)    the field to send; the demo field, else a drawn one
CYTOSERVE_LOAD_FIELDS_PER_S        (measure) mean rate of ``smear_analysis``
CYTOSERVE_LOAD_CELLS_PER_S         (measure) mean rate of ``cell_analysis`` requests
CYTOSERVE_LOAD_CELLS               4         cells in each of them
CYTOSERVE_LOAD_DEADLINE_S          30        deadline of every request, seconds
=================================  ========  ======================================================

A rate that is not given is measured: one request is timed on the idle server, and each model gets a quarter of what the
server could do of it alone, so that the load fits any machine. The first arrival of each is at once.

Only this machine may be the target: the script refuses any other, so that nobody floods a laboratory's server.
"""

from __future__ import annotations

import functools
import io
import os
import random
import time
from pathlib import Path
from typing import Any

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
import numpy as np
from cytoserve_client import _wire
from cytoserve_client._answers import cell_answers, field_analysis
from cytoserve_client._config import ClientConfig
from cytoserve_client._contract import parse_info
from cytoserve_client._transport import channel_options
from cytoserve_client.images import EncodedImage, encode_array
from cytoserve_client.results import ModelInfo
from gevent.pool import Pool
from locust import User, events, task
from PIL import Image, ImageDraw

grpc_gevent.init_gevent()  # before any channel: otherwise one call blocks every greenlet

DEMO_FIELD = Path(__file__).resolve().parents[2] / "examples" / "synthetic_field.png"
SHARE = 0.25
"""Part of the server's measured capacity that each of the two models is loaded with: half of it in all."""
CELLS = int(os.environ.get("CYTOSERVE_LOAD_CELLS", "4"))
DEADLINE_S = float(os.environ.get("CYTOSERVE_LOAD_DEADLINE_S", "30"))
MAX_UNDER_WAY = 64
SEED = 7


def drawn(width: int, height: int, white: int, red: int, diameter: int) -> bytes:
    """Return a drawn stand-in for a smear as PNG: pale red discs, and white cells with a dark nucleus."""
    place = random.Random(SEED)
    image = Image.new("RGB", (width, height), (232, 226, 230))
    draw = ImageDraw.Draw(image)
    for number in range(red + white):
        radius = diameter // 2 if number < red else diameter * 4 // 5
        x, y = place.randint(radius, width - radius), place.randint(radius, height - radius)
        is_red = number < red
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=(205, 150, 160) if is_red else (190, 170, 215)
        )
        if not is_red:
            nucleus = radius * 3 // 5
            draw.ellipse((x - nucleus, y - nucleus, x + nucleus, y + nucleus), fill=(95, 50, 145))
    return encode_array(np.asarray(image))


def field_file() -> bytes:
    """Return the field to send: the one asked for, the committed demo field, or a drawn one."""
    asked = os.environ.get("CYTOSERVE_LOAD_IMAGE")
    if asked:
        return Path(asked).read_bytes()
    return DEMO_FIELD.read_bytes() if DEMO_FIELD.exists() else drawn(640, 480, 2, 60, 50)


def cell_files() -> list[bytes]:
    """Return single-cell images, each another orientation of the same drawn cell."""
    with Image.open(io.BytesIO(drawn(96, 96, 1, 0, 40))) as cell:
        return [encode_array(np.asarray(cell.rotate(90 * (i % 4)))) for i in range(CELLS)]


def refuse_other_machines(address: str) -> str:
    """Return the address without scheme if it is this machine; end the program otherwise."""
    config = ClientConfig(address.removeprefix("http://"))
    if not config.loopback:
        raise SystemExit(f"load is only put on this machine, not on {config.host}: give --host 127.0.0.1:PORT")
    return config.authority


@functools.cache
def connect(address: str) -> tuple[Any, ModelInfo]:
    """Return the inference call over one channel for everybody, and what is served."""
    channel = grpc.insecure_channel(address, options=channel_options(ClientConfig(address)))
    infer = channel.unary_unary(
        _wire.INFER.path, _wire.INFER.request.SerializeToString, _wire.INFER.response.FromString
    )
    return infer, parse_info(infer(_wire.info_request("load-info"), timeout=DEADLINE_S)).model


@events.init.add_listener
def _check_target(environment: Any, **_: Any) -> None:
    """Refuse other machines; connect and measure before locust's clock starts."""
    if environment.host:
        address = refuse_other_machines(environment.host)
        try:
            for kind in (Fields, Cells):
                kind.rate = rate(kind, address)
                print(f"{kind.model}: {kind.rate:.3g} requests/s", flush=True)
        except grpc.RpcError as error:
            raise SystemExit(f"no server at {environment.host}: {error.details()}") from None


@events.quitting.add_listener
def _nothing_sent_is_a_failure(environment: Any, **_: Any) -> None:
    for name in (_wire.SMEAR_MODEL, _wire.CELL_MODEL):
        entry = environment.stats.get(name, "grpc")
        if entry.num_requests == entry.num_failures:
            print(f"{name}: not one request was answered")
            environment.process_exit_code = 1


def rate(kind: type[Ensemble], address: str) -> float:
    """Return the mean arrivals per second: as asked for, else `SHARE` of what the idle server does."""
    asked = os.environ.get(kind.rate_variable)
    if asked:
        return float(asked)
    infer, _ = connect(address)
    infer(kind.request(), timeout=2 * DEADLINE_S)  # warm
    started = time.perf_counter()
    infer(kind.request(), timeout=2 * DEADLINE_S)
    return SHARE / (time.perf_counter() - started)


class Ensemble(User):  # type: ignore[misc]
    """One stream of arrivals at one model; ``fixed_count`` keeps it to one user per model."""

    abstract = True
    fixed_count = 1
    model = ""
    rate_variable = ""
    rate = 0.0

    def on_start(self) -> None:
        """Build the request once."""
        self._infer, self._served = connect(refuse_other_machines(self.host or ""))
        self._request = self.request()
        self._under_way = Pool(MAX_UNDER_WAY)
        self._arrivals = random.Random(f"{SEED}{self.model}")
        self._next = time.perf_counter()

    def on_stop(self) -> None:
        """Wait for what is under way; its deadline bounds the wait."""
        self._under_way.join(timeout=DEADLINE_S)

    @staticmethod
    def files() -> list[bytes]:
        """Return the images of a request."""
        raise NotImplementedError

    @classmethod
    def request(cls) -> Any:
        """Return the request, deadline included."""
        files = cls.files()
        scales = [0.0] if cls.model == _wire.SMEAR_MODEL else [0.25] * len(files)
        request = _wire.image_request(cls.model, files, scales, f"load-{cls.model}")
        _wire.set_time_left(request, int(1000 * DEADLINE_S))
        return request

    def check(self, response: Any) -> None:
        """Read the answer as the client does, so that NaN or a missing tensor is a failure."""
        raise NotImplementedError

    @task
    def arrive(self) -> None:
        """Wait for the next arrival and send it, whatever became of the ones before."""
        gevent.sleep(max(0.0, self._next - time.perf_counter()))
        arrived, self._next = self._next, self._next + self._arrivals.expovariate(self.rate)
        if self._under_way.free_count() == 0:
            self._tell(arrived, 0, RuntimeError(f"more than {MAX_UNDER_WAY} requests under way"))
            return
        self._under_way.spawn(self._send, arrived)

    def _send(self, arrived: float) -> None:
        error: Exception | None = None
        length = 0
        try:
            response = self._infer(self._request, timeout=DEADLINE_S)
            length = response.ByteSize()
            self.check(response)
        except grpc.RpcError as failed:
            error = RuntimeError(f"{failed.code().name}: {failed.details()}")
        except Exception as refused:
            error = refused
        self._tell(arrived, length, error)

    def _tell(self, arrived: float, length: int, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="grpc",
            name=self.model,
            response_time=1000 * (time.perf_counter() - arrived),
            response_length=length,
            exception=error,
            context={},
        )


class Fields(Ensemble):
    """Fields of view."""

    model = _wire.SMEAR_MODEL
    rate_variable = "CYTOSERVE_LOAD_FIELDS_PER_S"

    @staticmethod
    def files() -> list[bytes]:
        """Return one field."""
        return [field_file()]

    def check(self, response: Any) -> None:
        """Raise if the client would refuse the answer."""
        field_analysis(_wire.read_tensors(self.model, response), self._served, EncodedImage("field", b""))


class Cells(Ensemble):
    """Single cells, as an analyser sends them."""

    model = _wire.CELL_MODEL
    rate_variable = "CYTOSERVE_LOAD_CELLS_PER_S"

    @staticmethod
    def files() -> list[bytes]:
        """Return some cells."""
        return cell_files()

    def check(self, response: Any) -> None:
        """Raise if the client would refuse the answer, or any cell of it."""
        images = [EncodedImage(f"cell-{i}", b"") for i in range(CELLS)]
        for answer in cell_answers(_wire.read_tensors(self.model, response), self._served, images, "load"):
            if isinstance(answer, Exception):
                raise answer
