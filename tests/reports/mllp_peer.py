"""A receiver of HL7 over MLLP that answers as a test wishes: in pieces, late, wrongly, or not at all."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[[socket.socket, bytes], None]


def framed(text: str) -> bytes:
    return b"\x0b" + text.encode("utf-8") + b"\x1c\r"


def control_id_of(message: bytes) -> str:
    return message.decode("utf-8").split("\r")[0].split("|")[9]


def acknowledging(code: str = "AA", text: str = "", control_id: str | None = None, end: str = "\r") -> Answer:
    def answer(peer: socket.socket, message: bytes) -> None:
        about = control_id_of(message) if control_id is None else control_id
        head = r"MSH|^~\&|LIS||CytoServe||20261126123016+0000||ACK^R01^ACK|1|P|2.5.1"
        peer.sendall(framed(f"{head}{end}MSA|{code}|{about}|{text}{end}"))

    return answer


def byte_by_byte(peer: socket.socket, message: bytes) -> None:
    """Acknowledge in the smallest pieces that a network can make, behind some noise."""
    for byte in b"\r\n" + framed(f"MSH|^~\\&|LIS\rMSA|AA|{control_id_of(message)}\r"):
        peer.sendall(bytes([byte]))
        time.sleep(0.001)


def silence(peer: socket.socket, _message: bytes) -> None:
    """Take the message and say nothing until the sender gives up."""
    with contextlib.suppress(OSError):
        peer.recv(1)


def half(peer: socket.socket, message: bytes) -> None:
    """Begin an acknowledgement and stop."""
    peer.sendall(b"\x0bMSH|^~\\&|LIS\rMSA|AA|")
    silence(peer, message)


def hang_up(_peer: socket.socket, _message: bytes) -> None:
    """Close without an answer."""


def drip(peer: socket.socket, _message: bytes) -> None:
    """Send something all the time, and never the end of it."""
    with contextlib.suppress(OSError):
        peer.sendall(b"\x0b")
        while True:
            peer.sendall(b"x")
            time.sleep(0.02)


def flood(peer: socket.socket, _message: bytes) -> None:
    """Send without an end."""
    with contextlib.suppress(OSError):
        while True:
            peer.sendall(b"\x0b" + b"x" * 65536)


@dataclass
class MllpPeer:
    """What arrived, connection by connection."""

    address: str
    received: list[bytes] = field(default_factory=list)


def _message(peer: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\x1c\r"):
        piece = peer.recv(7)
        if not piece:
            break
        data += piece
    assert data.startswith(b"\x0b"), data
    return data[1:-2]


@contextmanager
def listening(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[MllpPeer]:
    """Listen on a free port of loopback; the n-th connection is answered by the n-th answer, the rest by the last."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = MllpPeer(f"127.0.0.1:{listener.getsockname()[1]}")

        def serve() -> None:
            number = 0
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), peer if tls is None else tls.wrap_socket(peer, True) as connection:
                    connection.settimeout(20)
                    found.received.append(_message(connection))
                    answers[min(number, len(answers) - 1)](connection, found.received[-1])
                number += 1

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield found
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(20)
