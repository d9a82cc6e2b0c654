"""Start the local server, put a bounded load on it, print locust's table, stop everything: ``make load``.

Exit code 0: every request was answered in its deadline with an answer that the client accepts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
MAX_SECONDS = 600
MEASURE_S = 240
"""Bound of the time for the two warm and two timed requests before the load."""

WIND_DOWN_S = 45
"""Time after the load for requests under way (their deadline is 30 s) and for locust to report."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help=f"duration of the load, at most {MAX_SECONDS}")
    parser.add_argument("--fields-per-s", type=float, help="mean rate of fields; measured when not given")
    parser.add_argument("--cells-per-s", type=float, help="mean rate of requests of several cells; measured likewise")
    parser.add_argument("--url", help="a server on this machine that runs already")
    found = parser.parse_args(words)
    if not 1 <= found.seconds <= MAX_SECONDS:
        parser.error(f"--seconds must lie between 1 and {MAX_SECONDS}")
    if any(rate is not None and rate <= 0 for rate in (found.fields_per_s, found.cells_per_s)):
        parser.error("rates must be positive")
    return found


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """Yield the address of the server: the one given, or one of our own for as long as the load lasts."""
    if url:
        yield url
        return
    from cytoserve_deploy.launch.local_server import LocalServer

    with LocalServer() as local:
        yield local.grpc_url


def put_load(address: str, chosen: argparse.Namespace) -> int:
    """Run locust without its web page; return its exit code."""
    environment = dict(os.environ)
    for name, rate in (("FIELDS", chosen.fields_per_s), ("CELLS", chosen.cells_per_s)):
        if rate is not None:
            environment[f"CYTOSERVE_LOAD_{name}_PER_S"] = str(rate)
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--host", address, "--users", "2", "--spawn-rate", "2", "--run-time", f"{chosen.seconds}s"]
    command += ["--stop-timeout", str(WIND_DOWN_S), "--loglevel", "WARNING"]
    try:
        return subprocess.run(
            command, env=environment, timeout=chosen.seconds + MEASURE_S + WIND_DOWN_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        print("locust did not end in time and was stopped", file=sys.stderr)
        return 1


def main() -> int:
    """Run the load and return the exit code."""
    chosen = arguments()
    with server(chosen.url) as address:
        return put_load(address, chosen)


if __name__ == "__main__":
    sys.exit(main())
