"""Fields answered as they come: what is read ahead, what is yielded, what it adds up to, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cytoserve_client import EncodedImage, Failure, FieldAnalysis, errors
from cytoserve_reports import summarise
from fake_server import Call, FakeServer, Refuse, distant, smear

Open = Callable[..., Any]


def images(count: int) -> list[EncodedImage]:
    return [EncodedImage(f"f{number}", b"field %d" % number) for number in range(count)]


def number_of(call: Call) -> int:
    return int(call.files[0].split()[1])


def test_a_stream_adds_up_to_what_the_call_answers(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: smear([number_of(call) % 8] * 2)
    client = open_client(server.url)
    with client.analyze_stream(iter(images(9)), 0.15) as stream:
        sources = [answer.source for answer in stream]
    assert sorted(sources) == sorted(f"f{number}" for number in range(9))
    assert stream.result("s-1") == client.analyze(images(9), 0.15, sample="s-1")


def test_answers_come_as_they_are_ready_and_the_result_is_in_order(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        time.sleep(0.5 if number_of(call) == 0 else 0.0)
        return smear([6])

    server.fake.on_smear = judge
    with open_client(server.url, max_in_flight=2).analyze_stream(images(4)) as stream:
        assert [answer.source for answer in stream] == ["f1", "f2", "f3", "f0"]
        assert [field.source for field in stream.result().fields] == ["f0", "f1", "f2", "f3"]


def test_what_an_earlier_stream_was_told_is_not_asked_again(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: smear([number_of(call) % 8] * 2)
    client = open_client(server.url)
    with client.analyze_stream(images(3), 0.15) as first:
        answered = {answer.source: answer for answer in first}
    server.fake.calls.clear()
    with client.analyze_stream(images(6), 0.15, answered=answered) as stream:
        assert sorted(answer.source for answer in stream) == [f"f{number}" for number in range(6)]
    assert sorted(number_of(call) for call in server.fake.calls) == [3, 4, 5]
    assert stream.result() == client.analyze(images(6), 0.15)


def test_no_more_is_read_ahead_than_travels(server: FakeServer, open_client: Open) -> None:
    """A generator of a million fields costs what is under way."""
    read = 0

    def endless() -> Iterator[EncodedImage]:
        nonlocal read
        while True:
            read += 1
            yield EncodedImage(f"f{read}", b"field %d" % read)

    with open_client(server.url, max_in_flight=3).analyze_stream(endless()) as stream:
        for taken in range(1, 8):
            next(stream)
            assert read <= taken + 3
    assert len(stream.result().fields) == 7


def test_one_that_fails_is_yielded_as_a_failure(server: FakeServer, open_client: Open, tmp_path: Path) -> None:
    def judge(call: Call) -> dict[str, Any]:
        if number_of(call) == 1:
            raise Refuse(grpc.StatusCode.INVALID_ARGUMENT, "[cytoserve:not_an_image] is no image")
        return smear([6])

    server.fake.on_smear = judge
    given = [*images(3), tmp_path / "missing.png", 7]
    with open_client(server.url).analyze_stream(given) as stream:
        answers = {answer.source: answer for answer in stream}
    codes = {source: answer.error for source, answer in answers.items() if isinstance(answer, Failure)}
    assert codes == {"f1": "not_an_image", str(tmp_path / "missing.png"): "unreadable", "item[4]": "invalid_argument"}
    result = stream.result()
    assert [field.source for field in result.fields] == ["f0", "f2"]
    assert [failure.source for failure in result.failures] == ["f1", str(tmp_path / "missing.png"), "item[4]"]


def test_equal_contents_count_once(server: FakeServer, open_client: Open) -> None:
    again = EncodedImage("again", b"field 0")
    with open_client(server.url).analyze_stream([*images(2), again]) as stream:
        assert sorted(answer.source for answer in stream) == ["f0", "f1"]
    (skipped,) = stream.result().skipped
    assert (skipped.source, skipped.reason) == ("again", "duplicate")
    assert "f0" in skipped.message


def test_the_sample_is_judged_as_a_whole(server: FakeServer, open_client: Open) -> None:
    """No cell is unfamiliar by itself; together they are, and then all are referred."""
    server.fake.on_smear = lambda call: distant(smear([6] * 10))
    with open_client(server.url).analyze_stream(images(4)) as stream:
        first = next(stream)
        assert isinstance(first, FieldAnalysis)
        assert all(cell.decision != "review" for cell in first.cells)
        list(stream)
    result = stream.result()
    assert result.familiarity is not None
    assert result.familiarity.rejected
    assert summarise(result).differential["neutrophil"].accepted == 0


def test_cells_that_count_elsewhere_are_left_out_before_it_is_judged(server: FakeServer, open_client: Open) -> None:
    server.fake.on_smear = lambda call: distant(smear([6] * 10))
    with open_client(server.url).analyze_stream(images(4)) as stream:
        list(stream)
    result = stream.result(placed=lambda field: field.model_copy(update={"cells": field.cells[:4]}))
    assert [len(field.cells) for field in result.fields] == [4] * 4
    assert result.familiarity is None or result.familiarity.cells <= 16


def test_a_closed_stream_sends_nothing_more(server: FakeServer, open_client: Open) -> None:
    held = threading.Event()

    def judge(call: Call) -> dict[str, Any]:
        held.wait(5)
        return smear([6])

    server.fake.on_smear = lambda call: smear([6])
    client = open_client(server.url, max_in_flight=2)
    stream = client.analyze_stream(images(50))
    next(stream)
    server.fake.on_smear = judge
    stream.close()
    stream.close()
    sent = len(server.fake.calls)
    held.set()
    time.sleep(0.2)
    assert len(server.fake.calls) <= sent + 2
    assert client.analyze(b"another").fields
    with pytest.raises(StopIteration):
        next(stream)


def test_wrong_arguments_are_told_before_anything_is_read(server: FakeServer, open_client: Open) -> None:
    def touched() -> Iterator[EncodedImage]:
        raise AssertionError("was read")
        yield

    client = open_client(server.url)
    for wrong, error in (
        ({"budget": 0}, errors.BadParameter),
        ({"um_per_pixel": -1.0}, errors.BadScale),
        ({"site": "nowhere"}, errors.BadParameter),
    ):
        with pytest.raises(error):
            client.analyze_stream(touched(), **wrong)


def test_a_server_without_the_contract_ends_the_stream(server: FakeServer, open_client: Open) -> None:
    def judge(call: Call) -> dict[str, Any]:
        answer = smear([6])
        answer["BOX"] = answer["BOX"].astype(np.float64)
        return answer

    server.fake.on_smear = judge
    with open_client(server.url).analyze_stream(images(3)) as stream, pytest.raises(errors.ContractMismatch):
        list(stream)


def test_an_error_of_the_callers_generator_reaches_the_caller(server: FakeServer, open_client: Open) -> None:
    def broken() -> Iterator[EncodedImage]:
        yield images(1)[0]
        raise OSError("the disk is gone")

    with open_client(server.url).analyze_stream(broken()) as stream, pytest.raises(OSError, match="the disk is gone"):
        list(stream)
