"""A real gRPC server that speaks the contract with canned tensors, delays, failures and kills.

Not a mock: requests cross a socket through grpc's own server, so deadlines, message sizes, cancellation and dead peers
are the real thing. Only the picture analysis is canned.

Run as a program (``python fake_server.py PORT_FILE``) it serves until it is killed.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cytoserve_contract.limits import MAX_FILE_BYTES, MAX_MESSAGE_BYTES
from cytoserve_contract.models import CELL_ANALYSIS, SCORER, SMEAR_ANALYSIS, STAT_CELL_ANALYSIS
from cytoserve_contract.parameters import HOME_SITE
from cytoserve_contract.tensors import DATATYPES, TensorSpec
from cytoserve_contract.values import FLAG_SEGMENTED_WHITE_CELL, NOT_COMPUTED
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature_granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
INFO = {
    "name": "reference",
    "version": "1.2.3",
    "classes": list(CLASSES),
    "weights_sha256": "ab" * 32,
    "procedure_sha256": "cd" * 32,
    "probes": 24,
    "default_budget": 16,
    "default_alpha": 0.01,
    "sites": [
        {
            "site": site,
            "created": "2026-11-26T12:00:00Z",
            "content_sha256": digest * 32,
            "promise": {"tolerated_error": 0.01, "confidence": 0.95, "n": 500},
            "expected_referral": {"value": 0.15, "low": 0.05, "high": 0.27, "cells": 500},
            "familiar_cells": 500,
            "default_budget": 16,
            "calibrated_budgets": [8, 16],
        }
        for site, digest in ((HOME_SITE, "01"), ("north", "23"))
    ],
    "limits": {"max_file_bytes": MAX_FILE_BYTES},
}
INPUTS = {spec.name: spec.datatype for spec in SMEAR_ANALYSIS.inputs}
OUTPUTS = {
    model.name: {spec.name: spec.datatype for spec in model.outputs}
    for model in (SMEAR_ANALYSIS, CELL_ANALYSIS, STAT_CELL_ANALYSIS)
}


def declared(specs: Sequence[TensorSpec], sizes: dict[str, int], values: dict[str, Any]) -> dict[str, Any]:
    """Return tensors as the contract declares them: the values given, and zeros (or the least) for all others."""
    answer: dict[str, Any] = {}
    for spec in specs:
        shape = spec.shape(sizes)
        if spec.is_text:
            answer[spec.name] = values.get(spec.name, [b""] * int(shape[0]))
        else:
            answer[spec.name] = np.asarray(values.get(spec.name, np.full(shape, max(spec.low, 0.0))), spec.dtype)
    return answer


def scored(labels: list[int], reviews: dict[int, str] | None = None) -> dict[str, Any]:
    """Return consistent scorer outputs for cells with these labels; ``reviews`` maps a row to its reasons."""
    m, c = len(labels), len(CLASSES)
    reviews = reviews or {}
    posterior = np.full((m, c), 0.01, np.float32)
    for row, label in enumerate(labels):
        posterior[row, label] = 1 - 0.01 * (c - 1)
    values = {
        "LABEL": labels,
        "POSTERIOR": posterior,
        "POSTERIOR_INTERVAL": np.tile([0.75, 0.99], (m, 1)),
        "SCORES": np.ones((m, c)),
        "UNCERTAINTY": np.linspace(0.1, 0.9, m),
        "ANOMALY": np.tile([1.5, NOT_COMPUTED, NOT_COMPUTED, NOT_COMPUTED], (m, 1)),
        "DECISION": [int(row in reviews) for row in range(m)],
        "REASONS": [reviews.get(row, "").encode() for row in range(m)],
        "EVALUATIONS": np.full(m, 192),
        "CONFORMAL": np.where(posterior > 0.5, 0.6, 0.02),
        "DOMAIN": np.tile([1.0, 0.5, 0.5, 200], (m, 1)),
        "DOMAIN_CAUSE": [b"noise+"] * m,
    }
    return declared(SCORER.outputs, {"M": m, "C": c}, values)


def unfamiliar(
    answer: dict[str, Any], rows: int, p_value: float = 0.002, cause: str = "nucleus_red+"
) -> dict[str, Any]:
    """Make the pictures of the first ``rows`` cells unfamiliar, with the p-value given, and refer those cells."""
    answer["DOMAIN"][:rows] = [9.0, p_value, p_value, 500]
    for row in range(rows):
        answer["DOMAIN_CAUSE"][row] = cause.encode()
        answer["DECISION"][row] = 1
        answer["REASONS"][row] = b",".join(filter(None, (answer["REASONS"][row], b"unfamiliar_image")))
    return answer


def distant(answer: dict[str, Any], p_value: float = 0.02, cause: str = "nucleus_red+") -> dict[str, Any]:
    """Make every picture a little unlike the calibration's: no cell is unfamiliar by itself, forty are together."""
    answer["DOMAIN"][:] = [2.5, p_value, p_value, 500]
    answer["DOMAIN_CAUSE"] = [cause.encode()] * len(answer["DOMAIN_CAUSE"])
    return answer


def smear(labels: list[int], reviews: dict[int, str] | None = None, red: int = 3, platelets: int = 1) -> dict[str, Any]:
    """Return the outputs of ``smear_analysis``: red cells first, then the scored cells, then platelets."""
    m = len(labels)
    kinds = [1] * red + [0] * m + [2] * platelets
    n = len(kinds)
    values = {
        "FIELD_SIZE": [640, 480],
        "BOX": (np.arange(n)[:, None] * 10 + np.array([0, 0, 8.5, 9.25])).reshape(n, 4),
        "KIND": kinds,
        "DETECTION_SCORE": np.full(n, 0.9),
        "SCALE": [0.15, 7.4],
        "SCALE_SOURCE": [b"red_cells"],
        "CELL_INDEX": np.arange(red, red + m),
        "CELL_FLAGS": np.full(m, FLAG_SEGMENTED_WHITE_CELL),
        **scored(labels, reviews),
    }
    return declared(SMEAR_ANALYSIS.outputs, {"N": n, "M": m, "C": len(CLASSES)}, values)


def cells(labels: list[int], reviews: dict[int, str] | None = None) -> dict[str, Any]:
    """Return the outputs of ``cell_analysis``."""
    m = len(labels)
    values = {"SCALE": np.full(m, 0.25), **scored(labels, reviews)}
    return declared(CELL_ANALYSIS.outputs, {"M": m, "C": len(CLASSES)}, values)


def pack(items: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def unpack(raw: bytes) -> list[bytes]:
    items, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        items.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return items


def kind_of(parameter: Any) -> str:
    """Return which member of an ``InferParameter`` is set: ``int64_param``, ``string_param`` ..."""
    return str(parameter.WhichOneof("parameter_choice"))


class Refuse(Exception):
    """Raised by a behaviour to answer with a gRPC status."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.status, self.details = status, details


@dataclass
class Call:
    """What a request looked like when it arrived."""

    model: str
    files: list[bytes]
    um_per_pixel: list[float]
    parameters: dict[str, int | float | str]
    parameter_types: dict[str, str]
    request_id: str
    metadata: dict[str, str]
    time_remaining: float
    requested: list[str]


Behaviour = Callable[[Call], "dict[str, Any]"]


@dataclass
class Fake(pb_grpc.GRPCInferenceServiceServicer):
    """The service; tests set ``on_smear``, ``on_cells``, ``info`` and ``outputs`` to change what it answers."""

    on_smear: Behaviour = lambda call: smear([6, 6, 4])
    on_cells: Behaviour = lambda call: cells([6] * len(call.files))
    info: Any = field(default_factory=lambda: json.loads(json.dumps(INFO)))
    outputs: dict[str, dict[str, str]] = field(default_factory=lambda: {k: dict(v) for k, v in OUTPUTS.items()})
    is_ready: bool = True
    calls: list[Call] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ServerReady(self, request: Any, context: Any) -> Any:
        self.attempts["ready"] += 1
        return pb.ServerReadyResponse(ready=self.is_ready)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        self.attempts["metadata"] += 1
        if request.name not in self.outputs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        answer = pb.ModelMetadataResponse(name=request.name)
        for side, tensors in ((answer.inputs, INPUTS), (answer.outputs, self.outputs[request.name])):
            for name, datatype in tensors.items():
                side.add(name=name, datatype=datatype, shape=[-1])
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:
        with self.lock:
            self.attempts[request.model_name] += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            return self._infer(request, context)
        except Refuse as refused:
            context.abort(refused.status, refused.details)
        finally:
            with self.lock:
                self.running -= 1

    def _infer(self, request: Any, context: Any) -> Any:
        if request.model_name == "service_info":
            text = self.info if isinstance(self.info, bytes) else json.dumps(self.info).encode()
            return self._answer(request, {"INFO": [text]})
        raw = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
        call = Call(
            model=request.model_name,
            files=unpack(raw["IMAGE"]),
            um_per_pixel=np.frombuffer(raw["UM_PER_PIXEL"], "<f4").tolist(),
            parameters={name: getattr(value, kind_of(value)) for name, value in request.parameters.items()},
            parameter_types={name: kind_of(value) for name, value in request.parameters.items()},
            request_id=request.id,
            metadata={key: value for key, value in context.invocation_metadata()},
            time_remaining=context.time_remaining(),
            requested=[output.name for output in request.outputs],
        )
        with self.lock:
            self.calls.append(call)
        behaviour = self.on_smear if request.model_name == "smear_analysis" else self.on_cells
        return self._answer(request, behaviour(call))

    @staticmethod
    def _answer(request: Any, tensors: dict[str, Any]) -> Any:
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        for name, value in tensors.items():
            if isinstance(value, list):
                answer.outputs.add(name=name, datatype="BYTES", shape=[len(value)])
                answer.raw_output_contents.append(pack(value))
            else:
                answer.outputs.add(name=name, datatype=DATATYPES[value.dtype.name], shape=value.shape)
                answer.raw_output_contents.append(value.tobytes())
        return answer


class FakeServer:
    """Serves a `Fake` on a free loopback port; a context manager."""

    def __init__(self, fake: Fake | None = None, port: int = 0) -> None:
        self.fake = fake or Fake()
        limit = MAX_MESSAGE_BYTES
        self._server = grpc.server(
            ThreadPoolExecutor(48),
            options=[("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)],
        )
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(self.fake, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"127.0.0.1:{self.port}"

    def __enter__(self) -> FakeServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.stop(None).wait(5)


def sleeping(seconds: float) -> Behaviour:
    """Answer late."""

    def behaviour(call: Call) -> dict[str, Any]:
        time.sleep(seconds)
        return smear([6]) if call.model == "smear_analysis" else cells([6] * len(call.files))

    return behaviour


def main() -> None:
    """Serve, sleeping 30 s in every field: the parent kills this process during a call."""
    fake = Fake()

    def announce(call: Call) -> dict[str, Any]:
        if call.files[0] == b"die":
            Path(sys.argv[1] + ".called").write_text("called")
            time.sleep(30)
        return smear([6])

    fake.on_smear = announce
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with FakeServer(fake, port) as server:
        aside = Path(sys.argv[1] + ".part")
        aside.write_text(str(server.port))
        aside.rename(sys.argv[1])
        threading.Event().wait()


if __name__ == "__main__":
    main()
