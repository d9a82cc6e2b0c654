"""One server of the wheel: its ports, its scratch folder with links and backends, its environment."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cytoserve_contract import telemetry
from cytoserve_contract.names import ENV_CALIBRATION, ENV_MAX_WAIT_S
from cytoserve_files import NotWritable, check_output, is_regular_or_new

from cytoserve_deploy.errors import BadLogFile, PortTaken
from cytoserve_deploy.launch import repository, runtime
from cytoserve_deploy.launch.options import LOOPBACK, ServerOptions

ENV_ONNX_THREADS: Final = "CYTOSERVE_ONNX_THREADS"
"""Read by the Python-based ``onnxruntime`` backend: threads of one ONNX session."""


@dataclass(frozen=True)
class Layout:
    """Ports and files of one started server.

    ``scratch`` is its private folder: links to the models, backends, and the log if no other place was given;
    ``shm_prefix`` begins the names of its files in ``/dev/shm``.
    """

    grpc_port: int
    http_port: int
    metrics_port: int
    scratch: Path
    shm_prefix: str
    log: Path

    @property
    def repositories(self) -> tuple[Path, ...]:
        """Its links to the models, a folder for each repository; their paths have no blanks."""
        return tuple(sorted(self.scratch.glob("models*")))

    @property
    def backends(self) -> Path:
        """Triton's Python backend with its stub, and ours."""
        return self.scratch / "backends"

    @property
    def drain_file(self) -> Path:
        """File whose existence makes the models refuse new requests (`cytoserve_deploy.launch.drain`)."""
        return self.scratch / "draining"

    @property
    def admission_file(self) -> Path:
        """File in which the models keep what is under way (`cytoserve_contract.names.ENV_ADMISSION_FILE`)."""
        return self.scratch / "under_way"


def lay_out(options: ServerOptions, found: runtime.TritonRuntime, folders: list[Path]) -> Layout:
    """Choose the ports and fill a new scratch folder with links to the models and with the backends.

    Raises
    ------
    PortTaken
    """
    grpc, http, metrics = choose_ports(options.grpc_port, options.http_port, options.metrics_port)
    name = f"cytoserve-{uuid.uuid4().hex[:12]}"
    scratch = _scratch_folder(name)
    try:
        log = Path(options.log_file or scratch / "tritonserver.log").absolute()
        check_log(log)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        _gather_backends(found, scratch / "backends")
        instances = {"scorer": options.scorer_instances} if options.scorer_instances else {}
        for index, folder in enumerate(folders):
            repository.lay_out(folder, scratch / f"models{index}", instances)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return Layout(grpc, http, metrics, scratch=scratch, shm_prefix=f"{name}-", log=log)


def check_log(log: Path) -> None:
    """Refuse a log that cannot be written, or not be read again: its last lines say why a server ended."""
    try:
        check_output(log)
    except NotWritable as error:
        raise BadLogFile(str(error)) from error
    if not is_regular_or_new(log):
        raise BadLogFile(f"the log {log} is no file (a device or a pipe); give the name of a file")


def environment(options: ServerOptions, found: runtime.TritonRuntime, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the server and its stubs, made from `base`; without telemetry."""
    env = telemetry.without_telemetry(base)
    env["LD_LIBRARY_PATH"] = os.pathsep.join((str(found.libraries), str(found.libpython)))
    # see runtime.find_interpreter
    env["PATH"] = os.pathsep.join((str(found.interpreter), env.get("PATH", os.defpath)))
    for variable in ("PYTHONPATH", "PYTHONHOME"):
        env.pop(variable, None)
    env["PYTHONUNBUFFERED"] = "1"
    # each model is a process; pools of BLAS threads in all of them would only compete with the ONNX sessions
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        env.setdefault(variable, "1")
    if options.onnx_threads:
        env[ENV_ONNX_THREADS] = str(options.onnx_threads)
    if options.max_wait_s is not None:
        env[ENV_MAX_WAIT_S] = str(options.max_wait_s)
    if options.calibration is not None:
        # the models run in another folder than who started the server
        env[ENV_CALIBRATION] = os.path.abspath(options.calibration)
    return env


def choose_ports(*wanted: int) -> tuple[int, ...]:
    """Return usable loopback ports: the wanted ones, and free ones where 0 was given.

    Raises
    ------
    PortTaken
        If a wanted port is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for port in wanted:
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sockets.append(probe)
            # as the server does: a port in TIME_WAIT is free, one that is listened on is not
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
                probe.listen()
            except (OSError, OverflowError) as error:
                raise PortTaken(f"port {port} on {LOOPBACK} cannot be used ({error}); give another, or 0") from None
        return tuple(probe.getsockname()[1] for probe in sockets)
    finally:
        for probe in sockets:
            probe.close()


def _scratch_folder(name: str) -> Path:
    """Create the server's private folder, at a path without blanks (see `repository.lay_out`)."""
    parent = tempfile.gettempdir()
    folder = Path("/tmp" if re.search(r"[^\w/.+-]", parent) else parent) / name
    folder.mkdir(mode=0o700)
    return folder


def _gather_backends(found: runtime.TritonRuntime, target: Path) -> None:
    """Build the backend folder: Triton's Python backend with its stub, and ours."""
    python = target / "python"
    python.mkdir(parents=True)
    for part in found.python_backend.iterdir():
        if part.is_file():
            shutil.copy2(part, python / part.name)
    shutil.copy2(found.stub, python / runtime.STUB_NAME)
    (python / runtime.STUB_NAME).chmod(0o755)
    for ours in runtime.OUR_BACKENDS.iterdir():
        if (ours / "model.py").is_file():
            (target / ours.name).mkdir()
            shutil.copy2(ours / "model.py", target / ours.name / "model.py")
