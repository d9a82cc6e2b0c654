"""MLLP against real sockets: python-hl7's own receiver, and a peer that does everything a peer may do wrong."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hl7
import pytest
from cytoserve_reports.formats import hl7v2, mllp
from cytoserve_reports.formats.errors import (
    MessageRefused,
    NotAcknowledged,
    NotAMessage,
    PeerUnreachable,
    UnusableAddress,
)
from format_samples import usual
from hl7.mllp import start_hl7_server
from mllp_peer import (
    Answer,
    acknowledging,
    byte_by_byte,
    drip,
    flood,
    half,
    hang_up,
    listening,
    silence,
)

MESSAGE = mllp.Hl7Message.of(hl7v2.message(usual(sample="Müller|1", patient="4711")).encode())


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllp, "PAUSE_S", 0.01)


def send(address: str, timeout: float = 5.0, attempts: int = 1, **more: object) -> mllp.Acknowledgement:
    where = mllp.MllpAddress.of(address)
    return mllp.send(MESSAGE, where, timeout=timeout, attempts=attempts, **more)  # type: ignore[arg-type]


@contextmanager
def python_hl7() -> Iterator[tuple[str, list[hl7.Message]]]:
    """Run python-hl7's own MLLP receiver, which acknowledges with its own words."""
    received: list[hl7.Message] = []
    ready, stop, port = threading.Event(), threading.Event(), [0]

    async def handle(reader: hl7.mllp.HL7StreamReader, writer: hl7.mllp.HL7StreamWriter) -> None:
        message = await reader.readmessage()
        received.append(message)
        writer.writemessage(message.create_ack())
        await writer.drain()
        writer.close()

    async def serve() -> None:
        async with await start_hl7_server(handle, host="127.0.0.1", port=0, encoding="utf-8") as server:
            port[0] = server.sockets[0].getsockname()[1]
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"127.0.0.1:{port[0]}", received
    stop.set()
    thread.join(20)


def test_python_hl7s_receiver_takes_and_acknowledges_it() -> None:
    with python_hl7() as (address, received):
        answer = send(address)
    assert (answer.code, answer.control_id, answer.attempts) == ("AA", MESSAGE.control_id, 1)
    (message,) = received
    assert message.unescape(str(message["SPM"][0][2])) == "Müller|1"
    assert str(message["PID"][0][3]) == "4711"


@pytest.mark.parametrize("answer", [acknowledging("AA", "thanks"), acknowledging("CA"), byte_by_byte])
def test_an_acknowledgement_however_it_arrives(answer: Answer) -> None:
    with listening(answer) as peer:
        found = send(peer.address)
    assert found.code in ("AA", "CA")
    assert peer.received == [MESSAGE.data]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_line_ends_of_other_systems_are_understood(end: str) -> None:
    with listening(acknowledging(text="ok", end=end)) as peer:
        assert send(peer.address).text == "ok"


@pytest.mark.parametrize("code", ["AE", "AR", "CE", "CR"])
def test_a_refusal_is_final(code: str) -> None:
    with listening(acknowledging(code, "unknown sample")) as peer:
        with pytest.raises(MessageRefused, match=f"{code}.*unknown sample") as refused:
            send(peer.address, attempts=3)
        assert refused.value.acknowledgement == code
    assert len(peer.received) == 1


def test_an_answer_about_another_message_is_no_acknowledgement() -> None:
    with listening(acknowledging(control_id="other")) as peer, pytest.raises(MessageRefused, match="another message"):
        send(peer.address, attempts=3)
    assert len(peer.received) == 1


def test_an_answer_that_is_no_hl7() -> None:
    answer: Answer = lambda peer, _: peer.sendall(b"\x0bHTTP/1.1 400 Bad Request\x1c\r")  # noqa: E731
    with listening(answer) as peer, pytest.raises(MessageRefused, match="is no HL7 acknowledgement"):
        send(peer.address)


@pytest.mark.parametrize("never", [silence, half, drip])
def test_a_peer_that_never_acknowledges_ends_in_time(never: Answer) -> None:
    with listening(never) as peer:
        begun = time.monotonic()
        with pytest.raises(NotAcknowledged, match=r"no acknowledgement in 0.3 s \(2 attempt"):
            send(peer.address, timeout=0.3, attempts=2)
        assert 0.6 <= time.monotonic() - begun < 5
    assert peer.received == [MESSAGE.data] * 2


def test_a_peer_that_floods_is_given_up() -> None:
    with listening(flood) as peer, pytest.raises(PeerUnreachable, match="no end of a message"):
        send(peer.address, timeout=20)


def test_it_is_sent_again_under_its_number_until_there_is_an_answer() -> None:
    with listening(hang_up, silence, acknowledging()) as peer:
        found = send(peer.address, timeout=0.5, attempts=3)
    assert found.attempts == 3
    assert peer.received == [MESSAGE.data] * 3


def test_a_peer_that_hangs_up() -> None:
    with listening(hang_up) as peer, pytest.raises(PeerUnreachable, match="closed the connection before"):
        send(peer.address, attempts=2)
    assert len(peer.received) == 2


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PeerUnreachable, match="refused"):
        send(f"127.0.0.1:{port}", attempts=2)


@pytest.mark.parametrize("wrong", ["host", "host:", ":1", "host:0", "host:65536", "host:x", "http://h:1", "a:b:1", ""])
def test_an_address_that_is_none(wrong: str) -> None:
    with pytest.raises(UnusableAddress, match="HOST:PORT"):
        mllp.MllpAddress.of(wrong)


def test_an_address_of_ipv6() -> None:
    found = mllp.MllpAddress.of("[::1]:2575")
    assert (found.host, found.port, str(found)) == ("::1", 2575, "[::1]:2575")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "must begin with MSH"),
        (b"PID|1\r", "must begin with MSH"),
        (b"{}", "must begin with MSH"),
        (b"\xff\xfe", "UTF-8"),
        (MESSAGE.data + MESSAGE.data, "more than one message"),
        (MESSAGE.data + b"not a segment\r", "each line be a segment"),
        (MESSAGE.data.replace(b"S-1", b"S") + b"NTE|1|L|a\x1cb\r", "control character of MLLP"),
        (b"MSH|^~\\&|a\r", "no control ID"),
    ],
)
def test_what_is_no_message_is_not_sent(data: bytes, words: str) -> None:
    with pytest.raises(NotAMessage, match=words):
        mllp.Hl7Message.of(data)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_that_an_editor_changed_are_put_right(end: bytes) -> None:
    assert mllp.Hl7Message.of(MESSAGE.data.replace(b"\r", end)) == MESSAGE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_encrypted(tmp_path: Path) -> None:
    words = ["-subj", "/CN=lis.test", "-addext", "subjectAltName=DNS:lis.test", "-days", "2", "-nodes"]
    files = ["-newkey", "rsa:2048", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", *files, *words], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with listening(acknowledging(), tls=own) as peer:
        assert send(peer.address, tls=trusting, server_name="lis.test").code == "AA"
        for tls, name in ((trusting, "other.test"), (ssl.create_default_context(), "lis.test")):
            with pytest.raises(PeerUnreachable, match=r"(?i)certificate"):
                send(peer.address, tls=tls, server_name=name)
    assert len(peer.received) == 1
