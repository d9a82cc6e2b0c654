"""Start NVIDIA's real ``tritonserver`` on a model repository, on loopback, and leave nothing behind.

with LocalServer() as server:
    client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from cytoserve_contract.manifest import ENV_SKIP
from cytoserve_contract.names import ENV_ADMISSION_FILE, ENV_DRAIN_FILE

from cytoserve_deploy.errors import ServerDied, ServerNotReady, ServerNotStopped, ServerProblem
from cytoserve_deploy.launch import channel, repository, runtime, supervisor, warmup
from cytoserve_deploy.launch.layout import Layout, environment, lay_out
from cytoserve_deploy.launch.options import LOOPBACK, ServerOptions, truth
from cytoserve_deploy.launch.triton_arguments import triton_arguments
from cytoserve_deploy.verification import verify_files

__all__ = ["LocalServer", "ServerOptions", "important_lines"]

logger = logging.getLogger(__name__)

START_ATTEMPTS: Final = 3
"""Another process can take a free port between choosing it and the server's bind: choose again."""

LOG_LINES: Final = 12
NOISE: Final = re.compile(r"CUDA driver version|CudaDriverHelper|pinned|^[|+]|which has no loaded version")
"""What the server, built for GPUs, logs as an error on every machine without one; what it says again in a table; and
the ensembles that cannot load because one of their steps did not."""

TELLING: Final = re.compile(r"^\S+Z [EF] |^error: |Traceback|\w+Error\b|^\s+File \"|in use")
STUB_TRACE: Final = "\\n\\nAt:\\n"
"""Where the stub's trace begins in a line of the log; what went wrong stands before it."""


class LocalServer:
    """The bundled Triton server as a context manager.

    `changes` are fields of `ServerOptions` that differ from `options`. ``is_ready`` is True from the first answered
    inference until `stop`.

    Examples
    --------
    >>> with LocalServer(grpc_port=8001) as server:  # doctest: +SKIP
    ...     print(server.grpc_url)
    """

    def __init__(self, options: ServerOptions | None = None, **changes: Any) -> None:
        self.options = replace(options or ServerOptions(), **changes)
        self.is_ready = False
        self._layout: Layout | None = None
        self._supervisor: subprocess.Popen[str] | None = None
        self._pid: int | None = None

    def __repr__(self) -> str:
        state = f"pid {self._pid}, gRPC {self.grpc_url}" if self.is_alive() else "not running"
        return f"<LocalServer {state}>"

    def __enter__(self) -> LocalServer:
        return self if self.is_ready else self.start()

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of ``tritonserver``, which is also its process group."""
        if self._pid is None:
            raise ServerProblem("the server was not started")
        return self._pid

    @property
    def layout(self) -> Layout:
        """Where the server lies: ports, folders, names."""
        if self._layout is None:
            raise ServerProblem("the server was not started")
        return self._layout

    @property
    def grpc_url(self) -> str:
        """Address of the gRPC service, ``HOST:PORT``."""
        return f"{LOOPBACK}:{self.layout.grpc_port}"

    @property
    def http_url(self) -> str:
        """Address of the HTTP service, with its scheme."""
        return f"http://{LOOPBACK}:{self.layout.http_port}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{LOOPBACK}:{self.layout.metrics_port}/metrics"

    @property
    def log_path(self) -> Path:
        """File that takes the server's log."""
        return self.layout.log

    def start(self) -> LocalServer:
        """Start the server and return when it has answered a first inference.

        Raises
        ------
        DeployError
            One of its subclasses; nothing is left running.
        """
        if self._supervisor is not None:
            raise ServerProblem("this server was already started; stop it first")
        if self.options.address != LOOPBACK:
            raise ServerProblem(
                f"the local server is for this machine only: it cannot be bound to {self.options.address}"
            )
        found = runtime.find_runtime()
        folders = [repository.find_repository(self.options.model_repository)]
        if self.options.with_synthesis:
            folders.append(repository.find_synthesis_repository(folders[0]))
        for folder in folders:
            repository.check_repository(folder)
        self._verify(folders)
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._launch(found, folders)
                self._wait_until_ready()
                self._tell_ready()
                break
            except BaseException as error:
                lost_race = isinstance(error, ServerDied) and "in use" in str(error)
                self.stop()
                if not lost_race or attempt == START_ATTEMPTS:
                    raise
        return self

    def stop(self) -> None:
        """Stop the server, its stubs and the supervisor; remove shared memory and scratch files. Safe to repeat.

        Raises
        ------
        ServerNotStopped
            If a process is still there.
        """
        atexit.unregister(self.stop)
        self.is_ready = False
        process, self._supervisor = self._supervisor, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended already
                process.stdin.close()
        try:
            # the requests under way and then the server itself have this time each
            process.wait(2 * self.options.exit_timeout_s + 20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if self._pid is None:
            return
        # the supervisor has done this; once more in case it was killed itself
        left = supervisor.sweep(self._pid, self.layout.shm_prefix, str(self.layout.scratch))
        if left:
            raise ServerNotStopped(f"server processes {left} are still there after SIGKILL")

    def is_alive(self) -> bool:
        """Return True while the server process runs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def check(self) -> None:
        """Raise `ServerDied` if the server was started and has ended by itself."""
        if self._supervisor is None or self._supervisor.poll() is None:
            return
        status = self._supervisor.returncode
        signalled = status - supervisor.SIGNALLED
        how = f"was ended by signal {signalled}" if signalled > 0 else f"ended with status {status}"
        raise ServerDied(f"tritonserver {how}; its log says:\n{self._last_words()}")

    def log_lines(self, from_end: bool = False) -> Iterator[str]:
        """Yield the log's lines as they come, until the server ends; `from_end`: only those from now on."""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            if from_end:
                log.seek(0, os.SEEK_END)
            while True:
                alive = self.is_alive()
                line = log.readline()
                if line:
                    yield line.rstrip("\n")
                elif not alive:
                    return
                else:
                    time.sleep(0.1)

    def _verify(self, folders: list[Path]) -> None:
        """Refuse models that are not those of their manifests, unless the caller or the environment says otherwise."""
        skip = self.options.skip_verification
        if truth(ENV_SKIP, os.environ.get(ENV_SKIP)) if skip is None else skip:
            names = ", ".join(map(str, folders))
            logger.warning("the hashes of %s are NOT checked (skip_verification or %s is set)", names, ENV_SKIP)
            return
        for folder in folders:
            verify_files(folder)

    def _launch(self, found: runtime.TritonRuntime, folders: list[Path]) -> None:
        """Start supervisor and server."""
        layout = self._layout = lay_out(self.options, found, folders)
        plan = supervisor.Plan(
            command=[str(found.binary), *triton_arguments(self.options, layout.repositories, layout)],
            log=str(layout.log),
            scratch=str(layout.scratch),
            shm_prefix=layout.shm_prefix,
            drain_file=str(layout.drain_file),
            admission_file=str(layout.admission_file),
            drain_s=float(self.options.exit_timeout_s),
            grace_s=self.options.exit_timeout_s + 5.0,
            parent=os.getpid(),
        )
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "cytoserve_deploy.launch.supervisor", plan.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **environment(self.options, found, os.environ),
                ENV_DRAIN_FILE: str(layout.drain_file),
                ENV_ADMISSION_FILE: str(layout.admission_file),
            },
            start_new_session=True,
        )
        atexit.register(self.stop)
        assert self._supervisor.stdout is not None
        first = self._supervisor.stdout.readline().strip()
        if not first:
            raise ServerDied("the supervisor of tritonserver did not start; see the error output above")
        self._pid = int(first)

    def _wait_until_ready(self) -> None:
        """Return when the server is ready and has answered; raise otherwise."""
        until = time.monotonic() + self.options.ready_timeout_s
        while not channel.loopback_get_ok(f"{self.http_url}/v2/health/ready"):
            self.check()
            if time.monotonic() > until:
                raise ServerNotReady(
                    f"tritonserver was not ready after {self.options.ready_timeout_s:.0f} s; its log says:\n"
                    f"{self._last_words()}"
                )
            time.sleep(0.05)
        if self.options.warm_up:
            warmup.warm_up(self.grpc_url, max(1.0, until - time.monotonic()))

    def _tell_ready(self) -> None:
        """Note that the server has answered, and tell the supervisor: from now on there may be work to wait for."""
        self.is_ready = True
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        with contextlib.suppress(OSError):  # it has just ended: the next `check` says so
            self._supervisor.stdin.write("r")
            self._supervisor.stdin.flush()

    def _last_words(self) -> str:
        """Return the lines of the log that matter."""
        return important_lines(self.log_path.read_text(encoding="utf-8", errors="replace"))


def important_lines(log: str, count: int = LOG_LINES) -> str:
    """Return the last `count` lines of a Triton log that say why it ended: errors and tracebacks, else its end."""
    lines = [line for line in log.splitlines() if line.strip() and not NOISE.search(line)]
    telling = [line.split(STUB_TRACE)[0] for line in lines if TELLING.search(line)]
    return "\n".join((telling or lines)[-count:]) or "(the log is empty)"
