"""``cytoserve report serve``: films of a folder, for this machine alone."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cytoserve_cli.report_serve import film_server
from cytoserve_reports.page import PageSettings
from cytoserve_reports.page.shelf import Shelf
from page_samples import sample, written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    films = tmp_path / "films"
    films.mkdir()
    written(sample(tmp_path / "one"), films / "a.json")
    (tmp_path / "secret.json").write_text("{}")
    return films


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with film_server(Shelf(folder, PageSettings()), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def asked(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in answer.getheaders()}


def test_the_list_leads_to_the_pages(port: int) -> None:
    status, text, headers = asked(port, "/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    (link,) = re.findall(r'href="([^"]+)"', text)
    status, page, headers = asked(port, link)
    assert status == 200
    assert "S-1" in page
    assert headers["cache-control"] == "no-store"
    assert asked(port, link, "HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    ["/film/", "/film/0000000000000000", "/film/../secret.json", "/secret.json", "/film/%2e%2e", "/a.json"],
)
def test_nothing_else_is_given_out(port: int, path: str) -> None:
    status, text, _ = asked(port, path)
    assert status == 404
    assert "S-1" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(port: int, method: str) -> None:
    assert asked(port, "/", method)[0] == 501


def test_another_hosts_page_cannot_read_it_through_the_browser(port: int) -> None:
    """A name of a stranger's that leads to this machine (DNS rebinding) is not this server's name."""
    status, text, _ = asked(port, "/", host=f"evil.example:{port}")
    assert status == 403
    assert "S-1" not in text
    assert asked(port, "/", host=f"localhost:{port}")[0] == 200


def test_the_command_listens_on_loopback_alone_and_ends_with_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "cytoserve_cli.main", "report", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "400"}) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        number = int(found.group(1))
        assert asked(number, "/")[0] == 200
        with socket.socket() as other:
            other.settimeout(2)
            assert other.connect_ex(("127.0.0.2", number)) != 0
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
