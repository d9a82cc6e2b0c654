"""Deadlines, what is sent again and what is not, closing, and what the log says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from cytoserve_client import EncodedImage, errors
from fake_server import Call, FakeServer, Refuse, sleeping, smear

Open = Callable[..., Any]


def test_a_sleeping_server_meets_the_deadline(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    client.analyze(b"x")
    server.fake.on_smear = sleeping(3)
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        client.analyze(EncodedImage("a.png", b"x"), timeout=0.5)
    assert 0.45 < time.monotonic() - started < 1.0
    assert (caught.value.source, caught.value.retryable) == ("a.png", True)
    assert server.fake.attempts["smear_analysis"] == 2  # not sent again


def test_the_servers_own_deadline_answer_is_a_deadline(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.CANCELLED, "[cytoserve:deadline] stopped after 3 rounds; give more time")

    server.fake.on_smear = judge
    with pytest.raises(errors.DeadlineExceeded, match="3 rounds"):
        open_client(server.url).analyze(b"x")
    assert open_client(server.url).analyze([b"x"]).failures[0].error == "deadline"


@pytest.mark.parametrize(
    ("status", "details", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:too_small] no", errors.TooSmall),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", errors.InvalidInput),
        (grpc.StatusCode.INTERNAL, "boom", errors.ServerError),
        (grpc.StatusCode.DATA_LOSS, "boom", errors.ServerError),
        (grpc.StatusCode.UNAUTHENTICATED, "who are you", errors.AccessDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too large", errors.ServerError),
    ],
)
def test_what_the_server_answered_is_never_sent_again(
    server: FakeServer, open_client: Open, status: grpc.StatusCode, details: str, kind: type[Exception]
) -> None:
    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(status, details)

    server.fake.on_smear = judge
    with pytest.raises(kind):
        open_client(server.url).analyze(b"x")
    assert server.fake.attempts["smear_analysis"] == 1


def test_a_full_queue_is_tried_again_with_the_same_request_id(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        if len(server.fake.calls) < 3:
            raise Refuse(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")
        return smear([6])

    server.fake.on_smear = judge
    assert open_client(server.url).analyze(b"x").fields
    assert len(server.fake.calls) == 3
    assert len({call.request_id for call in server.fake.calls}) == 1
    left = [call.parameters["deadline_ms"] for call in server.fake.calls]
    assert left == sorted(left, reverse=True)


def test_attempts_on_a_server_that_is_always_full_are_bounded(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")

    server.fake.on_smear = judge
    client = open_client(server.url)
    with pytest.raises(errors.ServerUnavailable):
        client.analyze(b"x")
    assert server.fake.attempts["smear_analysis"] == 4
    result = client.analyze([b"%d" % i for i in range(20)])
    assert {failure.error for failure in result.failures} == {"unavailable"}
    # The throttle is spent by now: hardly more requests than images.
    assert server.fake.attempts["smear_analysis"] <= 4 + 20 + 5


def test_no_server_is_told_soon(open_client: Open) -> None:
    client = open_client("127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(errors.ServerUnavailable, match="cytoserve serve") as caught:
        client.analyze(b"x")
    assert time.monotonic() - started < 5
    assert caught.value.retryable
    assert client.ready() is False
    with pytest.raises(errors.ServerUnavailable, match="not ready within"):
        client.wait_until_ready(0.3)


def test_ready(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    client.wait_until_ready(5)
    server.fake.is_ready = False
    assert client.ready() is False


def test_a_closed_client_says_so(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    client.analyze(b"x")
    client.close()
    client.close()
    assert client.closed
    for call in (lambda: client.analyze(b"x"), lambda: client.classify([b"x"]), client.info, client.ready):
        with pytest.raises(errors.ClientClosed, match="make a new one"):
            call()


def test_a_client_never_used_closes(open_client: Open) -> None:
    client = open_client("localhost:1")
    client.close()
    assert client.closed


def test_the_log_holds_no_pixels_no_names_no_secrets(
    server: FakeServer, open_client: Open, caplog: pytest.LogCaptureFixture
) -> None:
    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")

    server.fake.on_smear = judge
    client = open_client(server.url, token=lambda: "SECRET")
    with caplog.at_level(logging.DEBUG):
        client.analyze([EncodedImage("PATIENT-NAME.png", b"PIXELS")], sample="SAMPLE-ID")
    assert "UNAVAILABLE" in caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name == "cytoserve_client"]
    assert len(ours) >= 4
    for word in ("SECRET", "PATIENT-NAME", "PIXELS", "SAMPLE-ID"):
        assert word not in "\n".join(ours)
