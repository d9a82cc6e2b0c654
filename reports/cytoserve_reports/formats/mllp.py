"""HL7 v2 over MLLP: send one message, wait for its acknowledgement, try again where none came.

A message is framed as ``0x0B ... 0x1C 0x0D`` (HL7 v2, Transport Specification: MLLP, Release 1). What is sent again is
the same message under the same control ID (MSH-10), so a receiver can recognise a repeat. Any answer is final: only
timeouts and broken connections are tried again, up to the number of attempts asked for.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from cytoserve_reports.formats.errors import (
    MessageRefused,
    NotAcknowledged,
    NotAMessage,
    PeerUnreachable,
    UnusableAddress,
)
from cytoserve_reports.formats.hl7v2 import SEGMENT_END

START: Final = b"\x0b"
END: Final = b"\x1c\x0d"

DEFAULT_TIMEOUT_S: Final = 10.0
"""Seconds for one attempt, from connecting to the whole acknowledgement."""
DEFAULT_ATTEMPTS: Final = 3
PAUSE_S: Final = 1.0
"""Seconds before the second attempt; doubled before each further one, up to `LONGEST_PAUSE_S`."""
LONGEST_PAUSE_S: Final = 30.0
MOST_ANSWER_BYTES: Final = 1 << 20
"""An acknowledgement is some hundred bytes; a peer that sends more than this without an end is given up."""

_ACCEPTED: Final = frozenset({"AA", "CA"})
_REFUSED: Final = frozenset({"AE", "AR", "CE", "CR"})
_SEGMENT: Final = re.compile(r"[A-Z][A-Z0-9]{2}(?:\W|$)")


@dataclass(frozen=True)
class Acknowledgement:
    """The peer's answer to a message that it accepted."""

    code: str
    """MSA-1: ``AA`` or ``CA``."""
    control_id: str
    """MSA-2: the message that it is about."""
    text: str
    """MSA-3, often empty."""
    attempts: int
    """How often the message was sent, this time included."""


@dataclass(frozen=True)
class MllpAddress:
    """Where a receiver listens."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> MllpAddress:
        """Return the address in ``HOST:PORT`` or ``[IPV6]:PORT``.

        Raises
        ------
        UnusableAddress
            The text is no such address.
        """
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]\s/]+)):([0-9]{1,5})", text)
        if found is None or not 0 < int(found[3]) < 65536:
            raise UnusableAddress(f"--mllp takes HOST:PORT (or [IPV6]:PORT), not {text!r}")
        return cls(found[1] or found[2], int(found[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Hl7Message:
    """One message, ready to be framed."""

    data: bytes
    control_id: str

    @classmethod
    def of(cls, data: bytes) -> Hl7Message:
        """Return the message in a file's bytes; line ends that an editor changed are put right.

        Raises
        ------
        NotAMessage
            Not UTF-8, not HL7 v2, without a control ID, or more than one message.
        """
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotAMessage(f"this is not HL7 v2 in UTF-8: {error}") from error
        segments = [line for line in re.split(r"\r\n|\r|\n", text) if line]
        if not segments or not segments[0].startswith("MSH") or not all(map(_SEGMENT.match, segments)):
            raise NotAMessage("this is not an HL7 v2 message: it must begin with MSH, and each line be a segment")
        if sum(line.startswith("MSH") for line in segments) > 1:
            raise NotAMessage("this file holds more than one message; send them one by one")
        if START.decode() in text or END[:1].decode() in text:
            raise NotAMessage("this message holds a control character of MLLP (0x0B or 0x1C); send it without a frame")
        head = segments[0].split(segments[0][3:4] or "|")
        if len(head) < 10 or not head[9]:
            raise NotAMessage("this message has no control ID (MSH-10), so no acknowledgement could be told to be its")
        return cls("".join(line + SEGMENT_END for line in segments).encode("utf-8"), head[9])


def send(
    message: Hl7Message,
    address: MllpAddress,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    attempts: int = DEFAULT_ATTEMPTS,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> Acknowledgement:
    """Send a message and return its acknowledgement.

    Parameters
    ----------
    message : Hl7Message
    address : MllpAddress
    timeout : float
        Seconds for one attempt.
    attempts : int
        Most attempts, at least 1. The pause between them doubles, from `PAUSE_S` to `LONGEST_PAUSE_S`.
    tls : ssl.SSLContext, optional
        Encrypts the connection; without it the message is sent in the clear.
    server_name : str, optional
        Name in the peer's certificate, where it is not the host.

    Raises
    ------
    MessageRefused
        The peer answered AE, AR, CE or CR, or about another message. Not tried again.
    NotAcknowledged
        Connected at the last attempt, but no whole acknowledgement came in time.
    PeerUnreachable
        The last attempt failed before that.
    """
    attempt = 1
    while True:
        try:
            answer = _exchange(message, address, timeout, tls, server_name)
        except (NotAcknowledged, PeerUnreachable) as error:
            if attempt >= attempts:
                raise type(error)(f"{error} ({attempt} attempt(s))") from error
            time.sleep(min(PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S))
            attempt += 1
        else:
            return _judged(answer, message, address, attempt)


def _exchange(
    message: Hl7Message, address: MllpAddress, timeout: float, tls: ssl.SSLContext | None, server_name: str | None
) -> bytes:
    """Send once and return what stands between the marks of the answer."""
    end = time.monotonic() + timeout
    sent = False
    try:
        with contextlib.ExitStack() as stack:
            peer = stack.enter_context(socket.create_connection((address.host, address.port), timeout))
            if tls is not None:
                peer.settimeout(_left(end))
                peer = stack.enter_context(tls.wrap_socket(peer, server_hostname=server_name or address.host))
            peer.settimeout(_left(end))
            peer.sendall(START + message.data + END)
            sent = True
            return _answer(peer, end)
    except TimeoutError as error:
        if sent:
            raise NotAcknowledged(f"{address} took the message and gave no acknowledgement in {timeout:g} s") from error
        raise PeerUnreachable(f"{address} did not take the message in {timeout:g} s") from error
    except (OSError, UnicodeError) as error:
        raise PeerUnreachable(f"{address}: {_reason(error)}") from error


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _left(end: float) -> float:
    """Return the seconds until ``end``; `TimeoutError` where none are left (zero would mean: do not wait at all)."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _answer(peer: socket.socket, end: float) -> bytes:
    """Return the first whole frame that arrives, in however many pieces; what comes before its start is ignored."""
    received = b""
    while True:
        start = received.find(START)
        stop = received.find(END, start + 1) if start >= 0 else -1
        if stop >= 0:
            return received[start + 1 : stop]
        if len(received) > MOST_ANSWER_BYTES:
            raise ConnectionError(f"it answered with more than {MOST_ANSWER_BYTES} bytes and no end of a message")
        peer.settimeout(_left(end))
        piece = peer.recv(65536)
        if not piece:
            raise ConnectionError("it closed the connection before an acknowledgement")
        received += piece


def _judged(answer: bytes, message: Hl7Message, address: MllpAddress, attempt: int) -> Acknowledgement:
    """Return a good acknowledgement; raise for any other answer."""
    segments = re.split(r"\r\n|\r|\n", answer.decode("utf-8", errors="replace"))
    separator = segments[0][3:4] if segments[0].startswith("MSH") else "|"
    found = next((line.split(separator or "|") for line in segments if line.startswith("MSA")), None)
    if found is None or len(found) < 3 or found[1] not in _ACCEPTED | _REFUSED:
        raise MessageRefused(
            f"{address} answered with something that is no HL7 acknowledgement: {segments[0][:80]!r}", ""
        )
    code, control_id = found[1], found[2]
    text = found[3] if len(found) > 3 else ""
    if code in _REFUSED:
        details = text or next((line for line in segments if line.startswith("ERR")), "no reason given")
        raise MessageRefused(f"{address} refused the message ({code}): {details[:300]}", code)
    if control_id != message.control_id:
        raise MessageRefused(
            f"{address} acknowledged another message ({control_id[:40]!r} instead of {message.control_id!r})", code
        )
    return Acknowledgement(code, control_id, text, attempt)
