"""``cytoserve send-hl7``: one message of a file, over MLLP, with its acknowledgement."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

import typer
from cytoserve_client.loopback import is_loopback
from cytoserve_files import read_bytes
from cytoserve_reports.formats import ReportFormatError, mllp
from rich.console import Console

from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.terminal import plain

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(name="send-hl7")
@exit_on_error("send-hl7")
def send_hl7(
    file: Annotated[Path, typer.Argument(help="The message, as `cytoserve analyze --hl7` writes it.")],
    to: Annotated[str, typer.Option("--mllp", help="The receiver, HOST:PORT.")],
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds for one attempt, the acknowledgement included.")
    ] = mllp.DEFAULT_TIMEOUT_S,
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, max=20, help="Most attempts; an answer ends them, whatever it says.")
    ] = mllp.DEFAULT_ATTEMPTS,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", help="PEM of the authority to trust; switches TLS on.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="PEM of our certificate (mutual TLS).")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM of our key (mutual TLS).")] = None,
    tls_server_name: Annotated[
        str | None, typer.Option("--tls-server-name", help="Name in the receiver's certificate, if not its host.")
    ] = None,
) -> None:
    """Send an HL7 v2 message over MLLP and wait for its acknowledgement.

    Exit codes: 0 accepted, 2 no such message or address, 5 unreachable, 6 not acknowledged, 7 refused.
    """
    notes = Console(stderr=True)
    message = mllp.Hl7Message.of(read_bytes(file))
    address = mllp.MllpAddress.of(to)
    tls = _context(tls_ca, tls_cert, tls_key, tls_server_name)
    if tls is None and not is_loopback(address.host):
        notes.print(plain(f"{address}: the message is sent in the clear; --tls-ca encrypts it", "yellow"))
    answer = mllp.send(message, address, timeout=timeout, attempts=attempts, tls=tls, server_name=tls_server_name)
    times = "" if answer.attempts == 1 else f", at attempt {answer.attempts}"
    text = f": {answer.text}" if answer.text else ""
    notes.print(plain(f"{address} accepted message {answer.control_id} ({answer.code}{times}){text}"))


def _context(ca: Path | None, cert: Path | None, key: Path | None, name: str | None) -> ssl.SSLContext | None:
    """Return what the TLS options ask for; None without any.

    They have no environment variables: those of the client are of another server.
    """
    if ca is None and cert is None:
        if key is not None or name is not None:
            raise ReportFormatError("--tls-key and --tls-server-name need --tls-ca, or --tls-cert")
        return None
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    if cert is not None:
        context.load_cert_chain(str(cert), None if key is None else str(key))
    return context
