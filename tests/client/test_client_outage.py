"""A server that goes away during a call and comes back: what waits, what is sent again, and when it is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from cytoserve_client import RetryPolicy, errors
from cytoserve_client._retry import Loss, Outage, loss_of
from cytoserve_client.errors import error_from_status
from cytoserve_scoring.serving.admission import OVERLOADED
from fake_server import Call, FakeServer, Refuse, smear

Open = Callable[..., Any]
FOR_GOOD = 1e6
STOPPING = "in ensemble 'smear_analysis', Server is stopping, scheduler for model has stopped accepting new requests"
WORDS = {
    "Triton's word": STOPPING,
    "our word": "in ensemble 'smear_analysis', [cytoserve:unavailable] the server is stopping; send it again",
    "unloaded": "Request for unknown model: 'smear_analysis' has no available versions",
}


class Restart:
    """Behaviour: refuse everything from the second field on, for some seconds."""

    def __init__(self, server: FakeServer, details: str, seconds: float, change: Callable[[], None] | None = None):
        self.server, self.details, self.seconds, self.change = server, details, seconds, change
        self.began: float | None = None

    def __call__(self, call: Call) -> dict[str, Any]:
        fake = self.server.fake
        with fake.lock:
            if self.began is None and len(fake.calls) >= 2:
                self.began = time.monotonic()
                fake.is_ready = False
                if self.seconds < FOR_GOOD:
                    threading.Timer(self.seconds, self.come_back).start()
        if self.began is None:
            return smear([6])
        if not fake.is_ready:
            raise Refuse(grpc.StatusCode.UNAVAILABLE, self.details)
        return smear([6])

    def come_back(self) -> None:
        if self.change is not None:
            self.change()
        self.server.fake.is_ready = True


@pytest.fixture
def restart(server: FakeServer) -> Callable[..., Restart]:
    def make(details: str = STOPPING, seconds: float = 0.6, change: Callable[[], None] | None = None) -> Restart:
        server.fake.on_smear = made = Restart(server, details, seconds, change)
        return made

    return make


@pytest.mark.parametrize("word", WORDS)
def test_a_restart_loses_nothing_and_what_is_queued_waits(
    server: FakeServer, open_client: Open, restart: Callable[..., Restart], word: str
) -> None:
    restart(WORDS[word])
    client = open_client(server.url, timeout=20.0, max_in_flight=4)
    result = client.analyze([b"x%d" % i for i in range(30)])
    assert not result.failures
    assert len(result.fields) == 30
    # each of the four under way was refused at most once; the queued ones were not sent to be refused
    assert server.fake.attempts["smear_analysis"] <= 30 + 4


def test_a_restart_loses_no_cells(server: FakeServer, open_client: Open) -> None:
    refused: list[Call] = []

    def judge(call: Call) -> dict[str, Any]:
        if len(refused) < 2:
            refused.append(call)
            raise Refuse(grpc.StatusCode.UNAVAILABLE, STOPPING)
        from fake_server import cells

        return cells([6] * len(call.files))

    server.fake.on_cells = judge
    result = open_client(server.url, cells_per_request=2).classify([b"x%d" % i for i in range(12)])
    assert len(result.cells) == 12


def with_another_calibration(sites: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{**site, "content_sha256": "ef" * 32} if site["site"] == name else site for site in sites]


@pytest.mark.parametrize("changed", ["weights", "calibration", "site"])
def test_another_model_after_the_restart_ends_the_call(
    server: FakeServer, open_client: Open, restart: Callable[..., Restart], changed: str
) -> None:
    changes = {
        "weights": {"weights_sha256": "cd" * 32},
        "calibration": {"calibration": {"site": "s"}},
        "site": {"sites": with_another_calibration(server.fake.info["sites"], "north")},
    }
    restart(change=lambda: server.fake.info.update(changes[changed]))
    client = open_client(server.url, timeout=20.0)
    with pytest.raises(errors.ContractMismatch, match="another model"):
        client.analyze([b"x%d" % i for i in range(12)], site="north")
    assert client.analyze([b"x%d" % i for i in range(3)]).fields  # a call of its own takes what is served now


def test_another_calibration_of_another_site_concerns_nobody(
    server: FakeServer, open_client: Open, restart: Callable[..., Restart]
) -> None:
    sites = with_another_calibration(server.fake.info["sites"], "north")
    restart(change=lambda: server.fake.info.update(sites=sites))
    result = open_client(server.url, timeout=20.0).analyze([b"x%d" % i for i in range(12)])
    assert len(result.fields) == 12
    assert not result.failures


def test_a_site_that_is_gone_after_the_restart_is_told(
    server: FakeServer, open_client: Open, restart: Callable[..., Restart]
) -> None:
    restart(change=lambda: server.fake.info.update(sites=server.fake.info["sites"][:1]))
    result = open_client(server.url, timeout=20.0).analyze([b"x%d" % i for i in range(12)], site="north")
    assert {failure.error for failure in result.failures} == {"bad_parameter"}
    assert "no site 'north'; choose from home" in result.failures[0].message


def test_what_was_lost_in_work_is_sent_again_once(server: FakeServer, open_client: Open) -> None:
    """It may be the request that ends the server: it must not end it for ever."""

    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    server.fake.on_smear = judge
    with pytest.raises(errors.ServerUnavailable) as caught:
        open_client(server.url).analyze(b"x")
    assert server.fake.attempts["smear_analysis"] == 2
    assert caught.value.request_id
    assert len({call.request_id for call in server.fake.calls}) == 1


def test_a_server_that_stays_away_is_given_up_for_all_at_once(
    server: FakeServer, open_client: Open, restart: Callable[..., Restart]
) -> None:
    restart(seconds=FOR_GOOD)
    client = open_client(server.url, timeout=30.0, retry=RetryPolicy(outage=0.8))
    began = time.monotonic()
    result = client.analyze([b"x%d" % i for i in range(40)])
    assert time.monotonic() - began < 4
    assert {failure.error for failure in result.failures} == {"unavailable"}
    assert len(result.fields) + len(result.failures) == 40
    assert result.fields


def test_the_requests_own_deadline_ends_the_wait(
    server: FakeServer, open_client: Open, restart: Callable[..., Restart]
) -> None:
    restart(seconds=FOR_GOOD)
    client = open_client(server.url, max_in_flight=4)
    began = time.monotonic()
    result = client.analyze([b"x%d" % i for i in range(6)], timeout=0.7)
    assert time.monotonic() - began < 3
    assert {failure.error for failure in result.failures} == {"unavailable"}


@pytest.mark.parametrize("policy", [RetryPolicy(max_attempts=1), RetryPolicy(outage=0)])
def test_waiting_can_be_switched_off(server: FakeServer, open_client: Open, policy: RetryPolicy) -> None:
    def judge(call: Call) -> dict[str, Any]:
        raise Refuse(grpc.StatusCode.UNAVAILABLE, STOPPING)

    server.fake.on_smear = judge
    with pytest.raises(errors.ServerUnavailable):
        open_client(server.url, retry=policy).analyze(b"x")
    assert server.fake.attempts["smear_analysis"] == 1


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("[x] Exceeds maximum queue size", Loss.BUSY),
        (f"in ensemble 'a', {OVERLOADED}: about 5.0 s of it", Loss.OVERLOADED),
        ("failed to connect to all addresses", Loss.UNREACHABLE),
        ("Connection refused", Loss.UNREACHABLE),
        (STOPPING, Loss.STOPPING),
        ("GOAWAY received", Loss.STOPPING),
        ("Socket closed", Loss.VANISHED),
        ("recvmsg:Connection reset by peer", Loss.VANISHED),
    ],
)
def test_how_a_request_was_lost(text: str, loss: Loss) -> None:
    assert loss_of(errors.error_from_status("UNAVAILABLE", text)) is loss
    assert loss_of(errors.error_from_status("INTERNAL", text)) is None


def overloaded_for(times: int) -> Callable[[Call], dict[str, Any]]:
    """Return a server's behaviour that refuses so many requests because too much waits, then answers."""
    left = [times]

    def judge(call: Call) -> dict[str, Any]:
        left[0] -= 1
        if left[0] >= 0:
            raise Refuse(grpc.StatusCode.UNAVAILABLE, f"[cytoserve:unavailable] {OVERLOADED}: about 5.0 s of it")
        return smear([6])

    return judge


def test_an_overloaded_server_is_asked_again_until_it_takes_the_request(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = overloaded_for(12)  # more than attempts and throttle allow of other losses
    policy = RetryPolicy(first_delay=0.01, max_delay=0.02)
    assert open_client(server.url, retry=policy).analyze(b"x").fields
    assert server.fake.attempts["smear_analysis"] == 13


def test_an_overloaded_server_is_asked_no_longer_than_the_deadline(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = overloaded_for(10**6)
    began = time.monotonic()
    with pytest.raises((errors.ServerUnavailable, errors.DeadlineExceeded)):
        open_client(server.url, retry=RetryPolicy(first_delay=0.05, max_delay=0.1), timeout=0.8).analyze(b"x")
    assert time.monotonic() - began < 2.0
    assert server.fake.attempts["smear_analysis"] > 4


def test_an_overloaded_server_is_asked_once_by_a_caller_of_one_attempt(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = overloaded_for(5)
    with pytest.raises(errors.ServerUnavailable):
        open_client(server.url, retry=RetryPolicy(max_attempts=1)).analyze(b"x")
    assert server.fake.attempts["smear_analysis"] == 1


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("in ensemble 'cell_analysis', Stub process 'scorer_0_0' is not healthy", Loss.CRIPPLED),
        ("[cytoserve:unavailable] denoiser is not healthy: its process has died", Loss.CRIPPLED),
        ("Failed to increase the shared memory pool size for key 'k' to 8388608 bytes", Loss.BUSY),
        ("[cytoserve:unavailable] scorer has no shared memory left (/dev/shm is full)", Loss.BUSY),
    ],
)
def test_what_triton_calls_internal_and_passes_is_unavailable(text: str, loss: Loss) -> None:
    error = errors.error_from_status("INTERNAL", text)
    assert isinstance(error, errors.ServerUnavailable)
    assert error.retryable
    assert loss_of(error) is loss


def test_a_request_that_may_have_killed_a_model_is_sent_again_once_and_not_at_once(
    server: FakeServer, open_client: Open
) -> None:
    sent: list[float] = []

    def judge(call: Call) -> dict[str, Any]:
        sent.append(time.monotonic())
        raise Refuse(grpc.StatusCode.INTERNAL, "in ensemble 'smear_analysis', Stub process 'scorer_0_0' is not healthy")

    server.fake.on_smear = judge
    with pytest.raises(errors.ServerUnavailable):
        open_client(server.url, timeout=20.0).analyze(b"x")
    assert len(sent) == 2
    assert sent[1] - sent[0] >= 1, "the server needs a moment to notice"


def test_an_outage_counts_from_its_beginning_and_ends_with_an_answer() -> None:
    now = [100.0]
    outage = Outage(RetryPolicy(outage=10), clock=lambda: now[0], uniform=lambda low, high: high)
    lost = errors.ServerUnavailable(STOPPING)
    assert outage.worth_waiting(lost, 0)
    outage.begin(lost)
    now[0] += 9
    outage.begin(errors.ServerUnavailable("later"))
    assert outage.error is lost
    assert outage.worth_waiting(lost, 1)
    assert not outage.worth_waiting(lost, 2)
    now[0] += 1
    assert outage.error is None
    assert not outage.worth_waiting(lost, 0)
    outage.end()
    assert outage.worth_waiting(lost, 0)
    assert [outage.pause(n) for n in (1, 2, 3)] == [0.1, 0.2, 0.4]


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_an_outage_without_end_is_refused(seconds: float) -> None:
    with pytest.raises(errors.ConfigurationError, match="outage"):
        RetryPolicy(outage=seconds)


@pytest.mark.parametrize("status", ["UNAVAILABLE", "NOT_FOUND"])
def test_a_model_that_is_being_unloaded_is_no_other_contract(status: str) -> None:
    """Triton 2.51, while it stops, says the same under either status; the call is to wait for its return."""
    found = error_from_status(status, WORDS["unloaded"])
    assert isinstance(found, errors.ServerUnavailable)
    unknown = error_from_status("NOT_FOUND", "Request for unknown model: 'x' is not found")
    assert isinstance(unknown, errors.ContractMismatch)
