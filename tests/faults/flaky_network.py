"""A TCP proxy on loopback that stands for a network: it can be cut, stalled, slowed down, and healed."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

PIECE = 65_536
POLL_S = 0.05
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes ``close`` send a reset, as a router does that has forgotten the connection."""


@dataclass
class Link:
    """One connection through the proxy: to the client, and to the server (None: the network was already dead)."""

    near: socket.socket
    far: socket.socket | None
    dead: threading.Event = field(default_factory=threading.Event)
    forgotten: bool = False

    def end(self, reset: bool) -> None:
        """Close both sides, once; with a reset, or as a program does that has ended."""
        if self.dead.is_set():
            return
        self.dead.set()
        for side in filter(None, (self.near, self.far)):
            with contextlib.suppress(OSError):
                if reset:
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    side.shutdown(socket.SHUT_RDWR)  # wakes a thread that sends
                side.close()


class FlakyNetwork:
    """A proxy to ``HOST:PORT``; a context manager. All switches may be used while calls are under way.

    ``per_second``: bytes that the client's side takes from the server a second, None for no limit; with it, the
    sockets' buffers are small, so that the server's sending really has to wait.
    """

    def __init__(self, target: str, per_second: int | None = None) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._per_second = per_second
        self._silent = False
        self._refusing = False
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(POLL_S)
        self._open = True
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0

    def __enter__(self) -> FlakyNetwork:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self.cut()
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def cut(self) -> None:
        """Reset every connection and each new one, until `heal`."""
        self._refusing = True
        self._end_all(reset=True)

    def go_silent(self) -> None:
        """Deliver nothing any more, in either direction, without closing anything: a cable is pulled."""
        self._silent = True

    def heal(self, forget: bool = False) -> None:
        """Let everything through again.

        ``forget``: connections made before are half open. The far side does not know them any more, and says so by a
        reset to whoever sends on one; nobody is told before.
        """
        if forget:
            with self._lock:
                for link in self._links:
                    link.forgotten = True
        self._silent = self._refusing = False

    def _end_all(self, reset: bool) -> None:
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.end(reset)

    def _start(self, work: object, *words: object) -> None:
        thread = threading.Thread(target=work, args=words, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._open:
            try:
                near, _ = self._listener.accept()
            except OSError:
                continue
            self.accepted += 1
            if self._refusing:
                Link(near, None).end(reset=True)
                continue
            if self._silent:
                with self._lock:
                    self._links.append(Link(near, None))
                continue
            far = socket.socket()
            if self._per_second is not None:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                far.connect(self._target)
            except OSError:
                Link(near, None).end(reset=True)
                continue
            link = Link(near, far)
            with self._lock:
                self._links.append(link)
            self._start(self._pump, link, near, far, None)
            self._start(self._pump, link, far, near, self._per_second)

    def _pump(self, link: Link, source: socket.socket, sink: socket.socket, per_second: int | None) -> None:
        """Carry bytes one way until either side ends."""
        piece = PIECE if per_second is None else max(1, int(per_second * POLL_S))
        try:
            while self._open and not link.dead.is_set():
                if self._silent or not select.select([source], [], [], POLL_S)[0]:
                    time.sleep(POLL_S if self._silent else 0)
                    continue
                if link.forgotten:
                    break
                data = source.recv(piece)
                while self._silent and self._open and not link.dead.is_set():
                    time.sleep(POLL_S)  # what was on its way when the cable was pulled arrives after it is back
                if not data or link.dead.is_set():
                    break
                sink.sendall(data)
                if per_second is not None:
                    time.sleep(len(data) / per_second)
        except (OSError, ValueError):  # ValueError: closed under the call of select
            pass
        link.end(reset=link.forgotten)
