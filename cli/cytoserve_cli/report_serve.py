"""``cytoserve report serve``: the films of a folder with their review pages, on loopback."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from cytoserve_files import shown
from cytoserve_reports.page import LANGUAGES, PageSettings
from cytoserve_reports.page.errors import PageError
from cytoserve_reports.page.language import PageTexts

from cytoserve_cli.errors import exit_on_error
from cytoserve_cli.film import stored_picture
from cytoserve_cli.mounts import need
from cytoserve_cli.terminal import consoles, plain

if TYPE_CHECKING:
    from cytoserve_reports.page.shelf import Shelf

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Review pages of many films. For research use; not a medical device.",
)

LOOPBACK: Final = "127.0.0.1"
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@app.callback()
def commands() -> None:
    """Keep `serve` a word of its own, though it is the only command."""


@app.command(name="serve")
@exit_on_error("verdicts")
def serve(
    folder: Annotated[
        Path, typer.Argument(help="Folder with the JSON of `analyze --json`.", exists=True, file_okay=False)
    ],
    port: Annotated[int, typer.Option(help="HTTP port on loopback; 0 takes a free one.", min=0, max=65535)] = 8090,
    language: Annotated[str, typer.Option("--language", help=f"Of the pages: {', '.join(LANGUAGES)}.")] = LANGUAGES[0],
    blinded: Annotated[bool, typer.Option("--blinded", help="Pages without label and probability.")] = False,
) -> None:
    """List the films of a folder with their state, and show the review page of each; until Ctrl-C.

    Only this machine can reach it. Verdicts are exported by the page as a file; put it into the folder, and the list
    says who has read what.
    """
    _, notes = consoles()
    need("jinja2", "report", "report serve")
    PageTexts(language)
    from cytoserve_reports.page.shelf import Shelf

    shelf = Shelf(folder, PageSettings(language, blinded, read=stored_picture))
    with film_server(shelf, port) as server:
        notes.print(plain(f"Films of {shown(folder)}: http://{LOOPBACK}:{server.server_port}/ (Ctrl-C ends it)"))
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            notes.print(plain("ended"))


def film_server(shelf: Shelf, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of the shelf's pages on loopback; it serves when told to.

    It answers GET and HEAD of the list and of pages, nothing else, and only to who calls it by its own name: another
    host's page must not read it through the reader's browser.

    Raises
    ------
    OSError
        The port is taken.
    """
    lock = threading.Lock()  # one page is made at a time: each may hold hundreds of pictures

    class Handler(http.server.BaseHTTPRequestHandler):
        server_version, sys_version = "cytoserve", ""

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            own = server.server_port
            if self.headers.get("Host") not in (f"{LOOPBACK}:{own}", f"localhost:{own}"):
                return self._send(403, "This server answers to this machine alone.", body)
            with lock:
                status, text = page_at(shelf, self.path)
            return self._send(status, text, body)

        def _send(self, status: int, text: str, body: bool) -> None:
            data = text.encode("utf-8")
            self.send_response(status)
            kind = "text/html" if status == 200 else "text/plain"
            headers = {**HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(data))}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the list is asked for again and again, and names may be patients'."""

    server = http.server.ThreadingHTTPServer((LOOPBACK, port), Handler)
    return server


def page_at(shelf: Shelf, path: str) -> tuple[int, str]:
    """Return status and text of an address: the list at ``/``, a film's page at ``/film/KEY``."""
    if path == "/":
        return 200, shelf.index()
    head, _, key = path.rpartition("/")
    if head != "/film" or not key.isalnum():
        return 404, "There is no such page."
    try:
        page = shelf.page(key)
    except (PageError, OSError) as error:
        return 500, str(error)
    return (404, "The folder holds no such analysis any more.") if page is None else (200, page)
