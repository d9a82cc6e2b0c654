"""Errors, settings, deadlines and retries without a network."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from cytoserve_client import TLS, Client, RetryPolicy, errors
from cytoserve_client._config import ClientConfig
from cytoserve_client._retry import NEVER_STARTED, Attempts, Deadline, Throttle, loss_of
from cytoserve_client.errors import error_from_code, error_from_status

CONTRACT_CODES = {
    "empty": errors.EmptyImage,
    "not_an_image": errors.NotAnImage,
    "truncated": errors.TruncatedImage,
    "too_many_bytes": errors.TooManyBytes,
    "too_many_pixels": errors.TooManyPixels,
    "too_small": errors.TooSmall,
    "unsupported_mode": errors.UnsupportedMode,
    "bad_scale": errors.BadScale,
    "bad_shape": errors.BadShape,
    "bad_parameter": errors.BadParameter,
    "deadline": errors.DeadlineExceeded,
    "unavailable": errors.ServerUnavailable,
    "internal": errors.ServerError,
}


@pytest.mark.parametrize("code", CONTRACT_CODES)
def test_every_code_of_the_contract_has_its_class(code: str) -> None:
    text = f"in ensemble 'smear_analysis', [cytoserve:{code}] do this instead"
    error = error_from_status("INVALID_ARGUMENT", text, source="a.png", request_id="r1")
    assert type(error) is CONTRACT_CODES[code]
    assert (error.code, error.source, error.request_id) == (code, "a.png", "r1")
    assert str(error) == "a.png: do this instead"


def test_the_codes_are_those_of_the_scoring_room() -> None:
    scoring = pytest.importorskip("cytoserve_scoring.errors")

    def codes(kind: type) -> set[str]:
        return {kind.code, *(code for child in kind.__subclasses__() for code in codes(child))}  # type: ignore[attr-defined]

    assert codes(scoring.CytoserveError) <= set(CONTRACT_CODES)


def test_an_unknown_code_is_still_the_callers_input() -> None:
    error = error_from_code("[cytoserve:too_blue] use another stain", source=None)
    assert type(error) is errors.InvalidInput
    assert error.code == "too_blue"
    assert error_from_code("plain text", source=None) is None


@pytest.mark.parametrize(
    ("status", "details", "kind", "retryable"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", errors.ServerUnavailable, True),
        ("UNAVAILABLE", "Request for unknown model: 'x' is not found", errors.ContractMismatch, False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.DeadlineExceeded, True),
        ("INVALID_ARGUMENT", "unexpected shape", errors.InvalidInput, False),
        ("NOT_FOUND", "no model", errors.ContractMismatch, False),
        ("UNIMPLEMENTED", "", errors.ContractMismatch, False),
        ("UNAUTHENTICATED", "who", errors.AccessDenied, False),
        ("INTERNAL", "boom", errors.ServerError, False),
        ("DATA_LOSS", "boom", errors.ServerError, False),
    ],
)
def test_status_to_class(status: str, details: str, kind: type[errors.CytoserveClientError], retryable: bool) -> None:
    error = error_from_status(status, details)
    assert type(error) is kind
    assert error.retryable is retryable
    assert status in error.message


def test_errors_survive_pickling() -> None:
    error = errors.TooSmall("is 1 x 1", source="a.png", request_id="r", retryable=True)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.TooSmall
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"timeout": None},
        {"max_in_flight": 0},
        {"headers": {"X-Upper": "a"}},
        {"url": "http://localhost:8000"},
        {"url": ""},
        {"url": "server.example:8001", "token": lambda: "t"},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(errors.ConfigurationError):
        Client(**{"url": "localhost:1", **settings})  # type: ignore[arg-type]


def test_a_token_may_travel_encrypted_or_to_this_machine() -> None:
    for url, tls in (("localhost:1", None), ("[::1]:1", None), ("grpcs://server.example:1", None), ("s:1", TLS())):
        assert ClientConfig(url, token=lambda: "t", tls=tls).token is not None


def test_no_secret_in_a_repr(tmp_path: Path) -> None:
    config = ClientConfig(
        "localhost:1",
        headers={"x-api-key": "SECRET"},
        token=lambda: "SECRET",
        tls=TLS(private_key=b"SECRET", certificate_chain=b"SECRET"),
    )
    assert "SECRET" not in repr(config)
    with pytest.raises(errors.ConfigurationError, match="both"):
        TLS(private_key=b"x")
    with pytest.raises(errors.ConfigurationError, match="gone"):
        TLS(root_certificates=tmp_path / "gone.pem").material()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


REFUSED = error_from_status("UNAVAILABLE", "failed to connect to all addresses; Connection refused")


def attempts(policy: RetryPolicy, clock: Clock, seconds: float, throttle: Throttle | None = None) -> Attempts:
    return Attempts(policy, throttle or Throttle(), Deadline(seconds, clock), lambda low, high: high)


def test_attempts_waits_and_budget_are_bounded() -> None:
    clock = Clock()
    tries = attempts(RetryPolicy(max_attempts=4, first_delay=1, max_delay=3), clock, 60)
    assert [tries.next_delay(REFUSED) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(errors.ServerUnavailable):
        tries.next_delay(REFUSED)
    assert tries.failures == 4


def test_no_wait_is_begun_that_would_end_after_the_deadline() -> None:
    clock = Clock()
    tries = attempts(RetryPolicy(max_attempts=5, first_delay=1, max_delay=1), clock, 1.5)
    assert tries.next_delay(REFUSED) == 1
    clock.now += 1
    with pytest.raises(errors.ServerUnavailable):
        tries.next_delay(REFUSED)
    clock.now += 1
    with pytest.raises(errors.DeadlineExceeded, match=r"1\.5 s"):
        tries.remaining("a.png", None)


def test_the_throttle_bounds_what_many_callers_add_to_a_dead_server() -> None:
    throttle, sent = Throttle(), 0
    for _ in range(1000):
        tries = attempts(RetryPolicy(max_attempts=5, first_delay=0, max_delay=0), Clock(), 60, throttle)
        while True:
            sent += 1
            try:
                tries.next_delay(REFUSED)
            except errors.ServerUnavailable:
                break
    assert sent <= 1000 + 5
    for _ in range(100):
        throttle.success()
    assert throttle.failure()


@pytest.mark.parametrize(
    ("status", "details"),
    [
        ("UNAVAILABLE", "Socket closed"),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer"),
        ("INVALID_ARGUMENT", "failed to connect"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded"),
        ("INTERNAL", "boom"),
        ("UNAUTHENTICATED", ""),
    ],
)
def test_what_may_have_been_worked_on_is_never_retried(status: str, details: str) -> None:
    error = error_from_status(status, details)
    with pytest.raises(type(error)):
        attempts(RetryPolicy(), Clock(), 60).next_delay(error)


def test_a_full_queue_was_never_started() -> None:
    assert loss_of(error_from_status("UNAVAILABLE", "Exceeds maximum queue size")) in NEVER_STARTED


def test_policies_that_make_no_sense_are_refused() -> None:
    for settings in ({"max_attempts": 0}, {"first_delay": 3.0, "max_delay": 1.0}, {"multiplier": 0.5}):
        with pytest.raises(errors.ConfigurationError):
            RetryPolicy(**settings)  # type: ignore[arg-type]
