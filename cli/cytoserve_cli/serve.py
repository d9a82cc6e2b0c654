"""``cytoserve serve``: the local Triton in the foreground."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.options import ServerOptions
from rich.console import Console

from cytoserve_cli.errors import exit_on_error

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@exit_on_error("serve")
def serve(
    model_repository: Annotated[
        Path | None,
        typer.Option(envvar="CYTOSERVE_MODEL_REPOSITORY", help="Model repository. Default: the checkout's."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            envvar="CYTOSERVE_CALIBRATION",
            help="Folder with the calibrations of sites, one file each. Default: the model's own calibration alone.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    grpc_port: Annotated[int, typer.Option(help="gRPC port; 0 takes a free one.", min=0, max=65535)] = 8001,
    http_port: Annotated[int, typer.Option(help="HTTP port; 0 takes a free one.", min=0, max=65535)] = 8000,
    metrics_port: Annotated[int, typer.Option(help="Metrics port; 0 takes a free one.", min=0, max=65535)] = 8002,
    log_file: Annotated[Path | None, typer.Option(help="Write the server's log to this file as well.")] = None,
    with_synthesis: Annotated[
        bool, typer.Option("--with-synthesis", help="Load decoder and noise predictor as well.")
    ] = False,
    onnx_threads: Annotated[
        int | None,
        typer.Option(
            envvar="CYTOSERVE_ONNX_THREADS", help="Threads of one ONNX session. Default: the usable CPUs.", min=1
        ),
    ] = None,
    scorer_instances: Annotated[
        int | None, typer.Option(help="Requests scored at the same time. Default: the repository's.", min=1)
    ] = None,
    skip_verification: Annotated[
        bool | None,
        typer.Option(
            "--skip-verification/--verify",
            envvar="CYTOSERVE_SKIP_VERIFICATION",
            help="Whether to compare the models with their manifest. Default: compare.",
        ),
    ] = None,
) -> None:
    """Serve the models on this machine (loopback only) until Ctrl-C or SIGTERM.

    For research use; not a medical device.
    """
    console = Console(highlight=False, soft_wrap=True)
    server = LocalServer(
        ServerOptions(
            model_repository=model_repository,
            calibration=calibration,
            with_synthesis=with_synthesis,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            log_file=log_file,
            onnx_threads=onnx_threads,
            scorer_instances=scorer_instances,
            skip_verification=skip_verification,
        )
    )
    stop = threading.Event()

    def request_stop(signum: int, _frame: FrameType | None) -> None:
        if stop.is_set() or not server.is_ready:
            raise KeyboardInterrupt(f"signal {signum}")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, request_stop)
    console.print("Starting Triton ...")
    with server:
        threading.Thread(target=_print_log, args=(server, console), daemon=True).start()
        console.print(
            f"[bold green]Ready.[/] gRPC {server.grpc_url}   HTTP {server.http_url}   metrics {server.metrics_url}"
        )
        console.print(f"Log: {server.log_path}   Stop: Ctrl-C", markup=False)
        while not stop.wait(0.2):
            server.check()
        console.print("Stopping ...")
    console.print("Stopped; nothing is left running.")


def _print_log(server: LocalServer, console: Console) -> None:
    """Print what the server logs from now on."""
    for line in server.log_lines(from_end=True):
        console.print(line, markup=False)


if __name__ == "__main__":
    app()
