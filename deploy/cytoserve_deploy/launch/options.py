"""What a server is started with: one set of options for the local server and for the container."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cytoserve_deploy.errors import DeployError

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class ServerOptions:
    """How to start a server. The defaults are the local server's; `CONTAINER` has those of a server on a network.

    Attributes
    ----------
    model_repository : path or None
        None: environment ``CYTOSERVE_MODEL_REPOSITORY``, else the checkout's ``model_repository``. (The container is
        given folders by its entrypoint.)
    calibration : path or None
        Folder with the calibrations of sites, one file each. None: environment ``CYTOSERVE_CALIBRATION``, else the
        model's own calibration alone. (The container is told by that variable.)
    with_synthesis : bool
        Also load the models of ``model_repository_synthesis`` (decoder, noise predictor).
    skip_verification : bool or None
        Serve models that are not those of their ``manifest.json``; a warning is logged. None: environment
        ``CYTOSERVE_SKIP_VERIFICATION``, else False.
    model_config_name : str
        Name of ``configs/<name>.pbtxt``; empty for ``config.pbtxt``.
    grpc_port, http_port, metrics_port : int
        0: a free port chosen by the system (local server only).
    address : str
        What the ports are bound to.
    http_inference : bool
        Also offer inference over plain HTTP; otherwise HTTP answers health only.
    restricted_header : str
        Clients send the key of the restricted calls as ``triton-grpc-protocol-<this>``. Empty: no call is restricted.
    restricted_key : str
        Empty: one is drawn and told to nobody, so that the restricted calls are closed.
    tls_cert, tls_key, tls_client_ca : str
        PEM files; a client CA asks for a client's certificate.
    log_file : path or None
        Server log, appended to. None: a scratch file that goes with the local server.
    log_verbose : int
        Triton's verbose level.
    onnx_threads : int or None
        Threads of one ONNX session. None: environment ``CYTOSERVE_ONNX_THREADS``, else the usable CPUs.
    scorer_instances : int or None
        Processes of the scorer, which is how many requests are scored at a time. None: as the repository says.
    max_wait_s : float or None
        Longest wait that a routine request is let in to. None: environment ``CYTOSERVE_MAX_WAIT_S``, else as the
        repository says.
    rate_limit : str
        ``off`` or ``execution_count``.
    warm_up : bool
        Run a first inference through both ensembles before calling the local server ready.
    ready_timeout_s : float
        Seconds until the local server is ready, warm inference included.
    exit_timeout_s : int
        Seconds that requests under way get when the server is stopped; new ones are refused meanwhile.
    latency_quantiles : bool
        Export latency summaries as metrics.
    otel_url, otel_service : str
        OTLP over HTTP; empty url: no tracing.
    otel_rate : int
        0 traces only requests that bring a trace context.
    extra : tuple of str
        Further arguments of ``tritonserver``.
    """

    model_repository: str | os.PathLike[str] | None = None
    calibration: str | os.PathLike[str] | None = None
    with_synthesis: bool = False
    skip_verification: bool | None = None
    model_config_name: str = ""
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    address: str = LOOPBACK
    http_inference: bool = True
    restricted_header: str = ""
    restricted_key: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    log_file: str | os.PathLike[str] | None = None
    log_verbose: int = 0
    onnx_threads: int | None = None
    scorer_instances: int | None = None
    max_wait_s: float | None = None
    rate_limit: str = "off"
    warm_up: bool = True
    ready_timeout_s: float = 120.0
    exit_timeout_s: int = 10
    latency_quantiles: bool = False
    otel_url: str = ""
    otel_service: str = "cytoserve"
    otel_rate: int = 0
    extra: tuple[str, ...] = ()


CONTAINER: Final = ServerOptions(
    grpc_port=8001,
    http_port=8000,
    metrics_port=8002,
    address="0.0.0.0",
    http_inference=False,
    restricted_header="cytoserve-admin",
    exit_timeout_s=60,
)
"""The defaults of a server that others reach."""


def truth(variable: str, value: str | None) -> bool:
    """Return what the environment `variable` says when it is set to `value` (None: not set, which is False).

    Raises
    ------
    DeployError
        It is neither true nor false.
    """
    known = {None: False, "": False, "0": False, "false": False, "1": True, "true": True}
    key = value.lower() if value else value
    if key not in known:
        raise DeployError(f"{variable} is {value!r}; give true or false")
    return known[key]
