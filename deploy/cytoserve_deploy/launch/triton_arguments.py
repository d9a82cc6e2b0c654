"""The arguments of ``tritonserver``, for the local server and for the container.

Flags: Triton's ``docs/customization_guide/deploy.md`` ("Secure Deployment Considerations"), ``inference_protocols.md``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from typing import Final

from cytoserve_deploy.errors import DeployError
from cytoserve_deploy.launch.layout import Layout
from cytoserve_deploy.launch.options import ServerOptions

RESTRICTED: Final = ("shared-memory", "model-config", "model-repository", "statistics", "trace", "logging")
"""Calls that change the server or reveal what it did; health, metadata and inference stay open."""

QUANTILES: Final = "0.5:0.05,0.95:0.001,0.99:0.001"
STUB_TIMEOUT_S: Final = 120
"""How long a Python model may take to load; a cold disk under load takes longer than Triton's 30 s."""


def triton_arguments(
    options: ServerOptions, repositories: Iterable[str | os.PathLike[str]], layout: Layout | None = None
) -> list[str]:
    """Return the arguments of ``tritonserver``, without the executable.

    With `layout` they are for the server of the wheel and name its ports and backends; NVIDIA's container has its own
    backends.

    Raises
    ------
    DeployError
        TLS files do not go together.
    """
    ports = layout or options
    return [
        *(f"--model-repository={folder}" for folder in repositories),
        f"--http-address={options.address}",
        f"--http-port={ports.http_port}",
        f"--grpc-address={options.address}",
        f"--grpc-port={ports.grpc_port}",
        f"--metrics-address={options.address}",
        f"--metrics-port={ports.metrics_port}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--rate-limit={options.rate_limit}",
        f"--log-verbose={options.log_verbose}",
        "--log-format=ISO8601",
        *(_wheel(layout) if layout else [_stub_timeout("python")]),
        *_restrictions(options),
        *_tls(options),
        *_observability(options),
        *([f"--model-config-name={options.model_config_name}"] if options.model_config_name else []),
        *options.extra,
    ]


def _stub_timeout(backend: str) -> str:
    return f"--backend-config={backend},stub-timeout-seconds={STUB_TIMEOUT_S}"


def _wheel(layout: Layout) -> list[str]:
    """Return what the server of the wheel, built for GPUs, needs besides."""
    arguments = [
        f"--backend-directory={layout.backends}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
    ]
    for backend in sorted(folder.name for folder in layout.backends.iterdir()):
        # one prefix per backend: the regions of one must not take the names of another's
        arguments.append(f"--backend-config={backend},shm-region-prefix-name={layout.shm_prefix}{backend}-")
        arguments.append(_stub_timeout(backend))
    return arguments


def _restrictions(options: ServerOptions) -> list[str]:
    if not options.restricted_header:
        return []
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


def _tls(options: ServerOptions) -> list[str]:
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


def _observability(options: ServerOptions) -> list[str]:
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
