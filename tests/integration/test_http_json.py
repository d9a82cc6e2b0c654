"""Triton's HTTP endpoint answers JSON that every parser reads: no NaN, no infinity (RFC 8259, section 6)."""

from __future__ import annotations

import json
import struct
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import cell_png, field_png
from triton_calls import OWN_SERVER, ROOT

pytestmark = OWN_SERVER

NOT_COMPUTED = -1


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(model_repository=ROOT / "model_repository") as started:
        yield started


def ask(server: LocalServer, model: str, images: list[bytes], um_per_pixel: float, **parameters: object) -> Any:
    """Send images by HTTP (binary in, JSON out) and parse the answer strictly; return its outputs by name."""
    body = b"".join(struct.pack("<I", len(image)) + image for image in images)
    inputs = [
        {"name": "IMAGE", "datatype": "BYTES", "shape": [len(images)], "parameters": {"binary_data_size": len(body)}},
        {"name": "UM_PER_PIXEL", "datatype": "FP32", "shape": [1], "data": [um_per_pixel]},
    ]
    head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/{model}/infer",
        head + body,
        {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        text = answer.read().decode()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON: {text[:300]}")

    return {output["name"]: output["data"] for output in json.loads(text, parse_constant=refuse)["outputs"]}


def test_a_blank_field(server: LocalServer) -> None:
    answer = ask(server, "smear_analysis", [field_png()], 0)
    assert answer["SCALE"] == [NOT_COMPUTED, NOT_COMPUTED]
    assert answer["SCALE_SOURCE"] == ["none"]


def test_a_cell_that_could_not_be_read_and_one_probe(server: LocalServer) -> None:
    answer = ask(server, "cell_analysis", [b"no image", cell_png()], 0.18, budget=1)
    classes = len(answer["POSTERIOR"]) // 2
    assert answer["LABEL"][0] == -1
    for name, width in (("POSTERIOR", classes), ("SCORES", classes), ("CONFORMAL", classes), ("ANOMALY", 4)):
        assert answer[name][:width] == [NOT_COMPUTED] * width, name
        assert all(value >= 0 for value in answer[name][width:]), name
    assert answer["UNCERTAINTY"][0] == answer["SCALE"][0] == NOT_COMPUTED
    assert answer["POSTERIOR_INTERVAL"] == [NOT_COMPUTED] * 4


def test_a_decoder_by_itself_without_a_deadline(server: LocalServer) -> None:
    for model, picture, scale in (("cell_decoder", cell_png(), 0.18), ("field_decoder", field_png(33, 32), 0.15)):
        [ticket] = ask(server, model, [picture], scale)["DEADLINE"]
        assert ticket < NOT_COMPUTED, "no deadline, and the number of the request let in"
