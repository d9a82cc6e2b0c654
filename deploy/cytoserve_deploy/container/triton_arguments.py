"""The arguments of ``tritonserver`` in the container, from one value object.

Flags: Triton's ``docs/customization_guide/deploy.md`` ("Secure Deployment Considerations"), ``inference_protocols.md``.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import Final

from cytoserve_deploy.errors import DeployError

RESTRICTED: Final = ("shared-memory", "model-config", "model-repository", "statistics", "trace", "logging")
"""Calls that change the server or reveal what it did; health, metadata and inference stay open."""

QUANTILES: Final = "0.5:0.05,0.95:0.001,0.99:0.001"
STUB_TIMEOUT_S: Final = 120


@dataclass(frozen=True)
class ServeOptions:
    """What one server is started with.

    Attributes
    ----------
    model_repository : tuple of str
        Folders, each checked against its manifest.
    http_port, grpc_port, metrics_port : int
        Ports.
    address : str
        What the ports are bound to.
    http_inference : bool
        Also offer inference over plain HTTP; otherwise HTTP answers health only.
    restricted_header : str
        Clients send the key of the restricted calls as ``triton-grpc-protocol-<this>``.
    restricted_key : str
        Empty: one is drawn and told to nobody, so that the calls are closed.
    tls_cert, tls_key, tls_client_ca : str
        PEM files; a client CA asks for a client's certificate.
    exit_timeout : int
        Seconds for requests in flight at the end.
    rate_limit : str
        ``off`` or ``execution_count``.
    log_verbose : int
        Triton's verbose level.
    latency_quantiles : bool
        Export latency summaries as metrics.
    model_config_name : str
        Name of ``configs/<name>.pbtxt``; empty for ``config.pbtxt``.
    otel_url, otel_service : str
        OTLP over HTTP; empty url: no tracing.
    otel_rate : int
        0 traces only requests that bring a trace context.
    extra : tuple of str
        Further arguments of ``tritonserver``.
    """

    model_repository: tuple[str, ...]
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    address: str = "0.0.0.0"
    http_inference: bool = False
    restricted_header: str = "cytoserve-admin"
    restricted_key: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    exit_timeout: int = 60
    rate_limit: str = "off"
    log_verbose: int = 0
    latency_quantiles: bool = False
    model_config_name: str = ""
    otel_url: str = ""
    otel_service: str = "cytoserve"
    otel_rate: int = 0
    extra: tuple[str, ...] = ()


def triton_arguments(options: ServeOptions) -> list[str]:
    """Return the arguments of ``tritonserver``, without the executable.

    Raises
    ------
    DeployError
        TLS files do not go together.
    """
    return [
        *(f"--model-repository={folder}" for folder in options.model_repository),
        f"--http-address={options.address}",
        f"--http-port={options.http_port}",
        f"--grpc-address={options.address}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-address={options.address}",
        f"--metrics-port={options.metrics_port}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        f"--exit-timeout-secs={options.exit_timeout}",
        f"--rate-limit={options.rate_limit}",
        f"--log-verbose={options.log_verbose}",
        "--log-format=ISO8601",
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_S}",
        *_restrictions(options),
        *_tls(options),
        *_observability(options),
        *([f"--model-config-name={options.model_config_name}"] if options.model_config_name else []),
        *options.extra,
    ]


def _restrictions(options: ServeOptions) -> list[str]:
    key = options.restricted_key or secrets.token_urlsafe(32)
    calls = ",".join(RESTRICTED)
    arguments = [
        f"--grpc-restricted-protocol={calls}:{options.restricted_header}={key}",
        f"--http-restricted-api={calls}:{options.restricted_header}={key}",
    ]
    if not options.http_inference:
        # HTTP has no TLS and is there for the kubelet's health checks: everything else gets a key that nobody knows
        arguments.append(f"--http-restricted-api=inference,metadata:closed={secrets.token_urlsafe(32)}")
    return arguments


def _tls(options: ServeOptions) -> list[str]:
    if not options.tls_cert and not options.tls_key:
        if options.tls_client_ca:
            raise DeployError(
                "--tls-client-ca needs --tls-cert and --tls-key: a client is asked for its certificate over TLS only"
            )
        return []
    if not (options.tls_cert and options.tls_key):
        raise DeployError("--tls-cert and --tls-key go together; one of them is missing")
    for path in filter(None, (options.tls_cert, options.tls_key, options.tls_client_ca)):
        if not os.access(path, os.R_OK):
            raise DeployError(
                f"{path} cannot be read; see that the secret holds tls.crt, tls.key and, for clients, ca.crt"
            )
    arguments = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={options.tls_cert}",
        f"--grpc-server-key={options.tls_key}",
    ]
    if options.tls_client_ca:
        arguments += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={options.tls_client_ca}"]
    return arguments


def _observability(options: ServeOptions) -> list[str]:
    arguments = []
    if options.latency_quantiles:
        arguments += ["--metrics-config=summary_latencies=true", f"--metrics-config=summary_quantiles={QUANTILES}"]
    if options.otel_url:
        # level TIMESTAMPS and no other: TENSORS would put pixels into the traces
        arguments += [
            "--trace-config=mode=opentelemetry",
            f"--trace-config=opentelemetry,url={options.otel_url}",
            f"--trace-config=opentelemetry,resource=service.name={options.otel_service}",
            "--trace-config=level=TIMESTAMPS",
            f"--trace-config=rate={options.otel_rate}",
            "--trace-config=count=-1",
        ]
    return arguments
