"""Run a command where every way out is watched: a proxy that writes down, strace on ``connect``, an empty home."""

from __future__ import annotations

import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cytoserve_client.loopback import is_loopback

CYTOSERVE = (sys.executable, "-m", "cytoserve_cli.main")
PROXIED = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
CONNECT = re.compile(r'connect\(.*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"')


class LoggingProxy:
    """A proxy on loopback that keeps the first line of every connection and lets nothing through."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        lines = self.lines

        class Handler(socketserver.StreamRequestHandler):
            timeout = 5

            def handle(self) -> None:
                try:
                    lines.append(self.rfile.readline(2000).decode("latin-1").strip() or "(a connection)")
                except OSError:
                    lines.append("(a silent connection)")
                self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        socketserver.ThreadingTCPServer.daemon_threads = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def logging_proxy() -> Iterator[LoggingProxy]:
    proxy = LoggingProxy()
    try:
        yield proxy
    finally:
        proxy.close()


def traceable() -> bool:
    """Return whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0
    )


@dataclass
class Watch:
    """What commands did: lines the proxy got, addresses that were not loopback (None: not traced), files at home."""

    folder: Path
    proxy: LoggingProxy
    traced: bool
    done: list[subprocess.CompletedProcess[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        """An operator's: a proxy and nothing else, above all no ``CI``, no ``no_proxy`` and no opt-out."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "CYTOSERVE_DATA") if name in os.environ}
        places = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / ".cache"), "TMPDIR": str(self.folder / "t")}
        return {**kept, **places, **dict.fromkeys(PROXIED, self.proxy.url)}

    def command(self, words: Sequence[object]) -> list[str]:
        """Return the command line, under strace where it is here."""
        log = self.folder / "connects" / str(len(list((self.folder / "connects").iterdir())))
        log.touch()
        # with --seccomp-bpf only the traced call stops the process: Triton keeps its speed
        strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-o", str(log)] if self.traced else []
        return [*strace, *map(str, words)]

    def run(self, *words: object, seconds: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {**self.environment, **variables}
        done = subprocess.run(
            self.command(words), env=env, cwd=self.folder, capture_output=True, text=True, timeout=seconds, check=False
        )
        self.done.append(done)
        return done

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(words), env=self.environment, cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def went_out(self) -> list[str]:
        """Return the addresses other than loopback that were connected to, UDP (name servers) included."""
        text = "".join(log.read_text(errors="replace") for log in (self.folder / "connects").iterdir())
        return [address for address in CONNECT.findall(text) if not is_loopback(address)]

    def calls_seen(self) -> int:
        """Return how many internet connects were seen at all: none would mean that nothing was watched."""
        return sum(len(CONNECT.findall(log.read_text())) for log in (self.folder / "connects").iterdir())

    def left_at_home(self) -> list[str]:
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*"))


@contextmanager
def watch(folder: Path) -> Iterator[Watch]:
    for name in ("home", "t", "connects"):
        (folder / name).mkdir(parents=True)
    with logging_proxy() as proxy:
        yield Watch(folder, proxy, traceable())
