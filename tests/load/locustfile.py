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
import json
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
import numpy as np
from cytoserve_client.images import encode_array
from cytoserve_contract.limits import MAX_MESSAGE_BYTES
from cytoserve_contract.models import CELL_ANALYSIS, SERVICE_INFO, SMEAR_ANALYSIS, ModelSpec
from cytoserve_contract.tensors import shape_problem
from cytoserve_contract.values import NOT_COMPUTED
from gevent.pool import Pool
from locust import User, events, task
from PIL import Image, ImageDraw
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

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
    bare = address.removeprefix("http://")
    host = bare.rpartition(":")[0]
    if host not in ("127.0.0.1", "localhost", "[::1]"):
        raise SystemExit(f"load is only put on this machine, not on {host}: give --host 127.0.0.1:PORT")
    return bare


def request_for(model: ModelSpec, values: list[Any]) -> Any:
    """Return a request with the model's inputs, as the contract declares them, and the deadline."""
    request = pb.ModelInferRequest(model_name=model.name, id=f"load-{model.name}")
    for spec, value in zip(model.inputs, values, strict=True):
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[len(value)])
        texts = (struct.pack("<I", len(item)) + item for item in value) if spec.is_text else ()
        request.raw_input_contents.append(b"".join(texts) if spec.is_text else np.asarray(value, spec.dtype).tobytes())
    request.parameters["deadline_ms"].int64_param = int(1000 * DEADLINE_S)
    return request


def texts_of(raw: bytes) -> list[bytes]:
    """Return the items of a BYTES tensor."""
    items = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        items.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return items


def read(model: ModelSpec, response: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the outputs of an answer by name; raise if one is missing, NaN, or not as the contract declares it."""
    raw = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
    shapes = {output.name: tuple(output.shape) for output in response.outputs}
    problem = shape_problem(model.outputs, shapes, sizes)
    found: dict[str, Any] = {}
    for spec in model.outputs:
        found[spec.name] = texts_of(raw[spec.name]) if spec.is_text else np.frombuffer(raw[spec.name], spec.dtype)
        if not spec.is_text:
            there = found[spec.name]
            known = there[there != NOT_COMPUTED] if spec.may_lack else there
            problem = problem or spec.value_problem(known)
            problem = problem or ("" if np.isfinite(there).all() else f"{spec.name} is not finite")
    if problem:
        raise ValueError(f"{model.name}: {problem}")
    return found


@functools.cache
def connect(address: str) -> tuple[Any, int]:
    """Return the inference call over one channel for everybody, and how many classes are served."""
    size = MAX_MESSAGE_BYTES
    options = [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
    channel = grpc.insecure_channel(address, options=[*options, ("grpc.enable_http_proxy", 0)])
    infer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer
    answer = read(SERVICE_INFO, infer(request_for(SERVICE_INFO, [[b"info"]]), timeout=DEADLINE_S), {})
    return infer, len(json.loads(answer["INFO"][0])["classes"])


@events.init.add_listener
def _check_target(environment: Any, **_: Any) -> None:
    """Refuse other machines; connect and measure before locust's clock starts."""
    if environment.host:
        address = refuse_other_machines(environment.host)
        try:
            for kind in (Fields, Cells):
                kind.rate = rate(kind, address)
                print(f"{kind.model.name}: {kind.rate:.3g} requests/s", flush=True)
        except grpc.RpcError as error:
            raise SystemExit(f"no server at {environment.host}: {error.details()}") from None


@events.quitting.add_listener
def _nothing_sent_is_a_failure(environment: Any, **_: Any) -> None:
    for name in (SMEAR_ANALYSIS.name, CELL_ANALYSIS.name):
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
    model: ModelSpec
    rate_variable = ""
    rate = 0.0

    def on_start(self) -> None:
        """Build the request once."""
        self._infer, self._classes = connect(refuse_other_machines(self.host or ""))
        self._request = self.request()
        self._under_way = Pool(MAX_UNDER_WAY)
        self._arrivals = random.Random(f"{SEED}{self.model.name}")
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
        return request_for(cls.model, [files, [0.0] if cls.model is SMEAR_ANALYSIS else [0.25] * len(files)])

    def check(self, response: Any) -> None:
        """Raise for an answer that is not what the contract declares: NaN or a missing tensor is a failure."""
        read(self.model, response, {"C": self._classes})

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
            name=self.model.name,
            response_time=1000 * (time.perf_counter() - arrived),
            response_length=length,
            exception=error,
            context={},
        )


class Fields(Ensemble):
    """Fields of view."""

    model = SMEAR_ANALYSIS
    rate_variable = "CYTOSERVE_LOAD_FIELDS_PER_S"

    @staticmethod
    def files() -> list[bytes]:
        """Return one field."""
        return [field_file()]


class Cells(Ensemble):
    """Single cells, as an analyser sends them."""

    model = CELL_ANALYSIS
    rate_variable = "CYTOSERVE_LOAD_CELLS_PER_S"

    @staticmethod
    def files() -> list[bytes]:
        """Return some cells."""
        return cell_files()

    def check(self, response: Any) -> None:
        """Raise if the answer, or any cell of it, is not what was asked for."""
        answer = read(self.model, response, {"C": self._classes, "M": CELLS})
        refused = [error for error in answer["CELL_ERROR"] if error]
        if refused:
            raise ValueError(refused[0].decode("utf-8", "replace"))
