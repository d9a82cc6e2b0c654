"""The caller's trace context travels with every request, from whatever thread or task it is sent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cytoserve_client import EncodedImage
from fake_server import FakeServer
from opentelemetry import propagate, trace

Open = Callable[..., Any]
TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
EXPECTED = f"00-{TRACE:032x}-{SPAN:016x}-01"


@pytest.fixture
def span() -> Iterator[None]:
    assert propagate.__name__ in sys.modules
    context = trace.SpanContext(TRACE, SPAN, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield


def sent(server: FakeServer) -> list[str | None]:
    return [call.metadata.get("traceparent") for call in server.fake.calls]


@pytest.mark.usefixtures("span")
def test_one_field_many_fields_cells_and_a_stream(server: FakeServer, open_client: Open) -> None:
    client = open_client(server.url)
    images = [EncodedImage(f"f{number}", b"field %d" % number) for number in range(5)]
    client.analyze(b"one")
    client.analyze(images)
    client.classify(images)
    with client.analyze_stream(images) as stream:
        assert len(list(stream)) == 5
    assert set(sent(server)) == {EXPECTED}
    assert len(sent(server)) >= 12


@pytest.mark.usefixtures("span")
def test_a_header_of_the_callers_own_goes_before(server: FakeServer, open_client: Open) -> None:
    open_client(server.url, headers={"traceparent": "00-mine"}).analyze(b"one")
    assert sent(server) == ["00-mine"]


def test_without_a_span_nothing_is_added(server: FakeServer, open_client: Open) -> None:
    open_client(server.url).analyze([b"one", b"two"])
    assert sent(server) == [None, None]


def test_the_client_imports_no_opentelemetry() -> None:
    code = "import sys, cytoserve_client; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
