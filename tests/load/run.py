"""Put one shape of load on a server for a bounded time, and write a report: ``make load SHAPE=steady SECONDS=60``.

Without ``--url`` a server is started on loopback and stopped again. Exit code 0: every request was answered within its
deadline with an answer that the contract allows (refusals count as failures unless the shape expects them).

Another machine is loaded only where its name is repeated, see ``--yes-load-this-host``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from load_report import write_report
from load_samples import Sample
from load_shapes import SEED, SHAPES, STREAMS
from load_target import MAX_RATE_ELSEWHERE, MAX_SECONDS, Target
from load_watch import Watch, server

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
MEASURE_S = 240
"""Bound of the time for connecting and for measuring capacities."""

PAGE_PORT = 8089
LOOPBACK = "127.0.0.1"


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    shapes = "; ".join(f"{name}: {shape.meaning}" for name, shape in SHAPES.items())
    parser = argparse.ArgumentParser(description=f"{__doc__}\nShapes: {shapes}.")
    parser.add_argument("--shape", choices=SHAPES, default="steady")
    parser.add_argument("--seconds", type=float, default=60.0, help=f"duration of the load, at most {MAX_SECONDS}")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds that every request has")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument(
        "--capacity",
        action="append",
        default=[],
        metavar="STREAM=RATE",
        help="requests a second that the server does of a stream alone; measured when not given",
    )
    parser.add_argument("--max-rate", type=float, help="most requests a second; on another machine 50 if not given")
    parser.add_argument("--url", help="HOST:PORT of a server that runs already")
    parser.add_argument("--metrics-url", default="", help="its metrics, for the plot of waiting requests")
    parser.add_argument("--server-pid", type=int, help="its process on this machine, for the plot of memory")
    parser.add_argument("--yes-load-this-host", default="", metavar="NAME", help="the host of --url once more")
    parser.add_argument("--tls-ca", default="", help="PEM file of the authority to trust; switches TLS on")
    parser.add_argument("--tls-cert", default="", help="PEM file of the client's certificate")
    parser.add_argument("--tls-key", default="", help="PEM file of its key")
    parser.add_argument("--tls-server-name", default="", help="name in the server's certificate")
    parser.add_argument("--out", type=Path, default=Path("out/load"), help="folder of the report")
    parser.add_argument("--page", action="store_true", help=f"locust's page on {LOOPBACK}:{PAGE_PORT}, no report")
    found = parser.parse_args(words)
    if not 1 <= found.seconds <= MAX_SECONDS:
        parser.error(f"--seconds must lie between 1 and {MAX_SECONDS}")
    if not 0 < found.deadline <= MAX_SECONDS:
        parser.error(f"--deadline must be above 0 and at most {MAX_SECONDS}")
    if found.max_rate is not None and found.max_rate <= 0:
        parser.error("--max-rate must be positive")
    found.capacity = _capacities(parser, found.capacity)
    return found


def _capacities(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, rate = text.partition("=")
        try:
            found[name] = float(rate)
        except ValueError:
            parser.error(f"--capacity {text}: write STREAM=RATE")
        if name not in STREAMS or not found[name] > 0:
            parser.error(f"--capacity {text}: a positive rate of one of {', '.join(STREAMS)}")
    return found


def plan_of(chosen: argparse.Namespace, target: Target, out: str) -> dict[str, Any]:
    """Return the plan that the locust file reads."""
    rate = chosen.max_rate if chosen.max_rate is not None else 0.0 if target.is_here else MAX_RATE_ELSEWHERE
    return {
        "shape": chosen.shape,
        "seconds": chosen.seconds,
        "seed": chosen.seed,
        "callers": chosen.callers,
        "deadline_s": chosen.deadline,
        "capacity": chosen.capacity,
        "max_rate": rate,
        "out": out,
        "repeat": chosen.page,
        "target": {one.name: getattr(target, one.name) for one in fields(target) if one.name != "address"},
    }


def locust_command(chosen: argparse.Namespace, address: str) -> list[str]:
    """Return the command that runs locust."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", address, "--loglevel", "WARNING"]
    wind_down = ["--stop-timeout", f"{chosen.deadline + 10:.0f}"]
    if chosen.page:
        page = ["--web-host", LOOPBACK, "--web-port", str(PAGE_PORT), "--autostart", "--users", "1"]
        return [*command, *page, *wind_down, "--run-time", f"{MAX_SECONDS}s"]
    bounds = ["--users", "1", "--spawn-rate", "1", "--run-time", f"{max(1, round(chosen.seconds))}s"]
    return [*command, "--headless", "--only-summary", *bounds, *wind_down]


def put_load(address: str, chosen: argparse.Namespace, target: Target, out: str) -> int:
    """Run locust; return its exit code."""
    environment = {**os.environ, "CYTOSERVE_LOAD_PLAN": json.dumps(plan_of(chosen, target, out))}
    limit = (MAX_SECONDS if chosen.page else chosen.seconds) + MEASURE_S + chosen.deadline
    try:
        return subprocess.run(locust_command(chosen, address), env=environment, timeout=limit, check=False).returncode
    except subprocess.TimeoutExpired:
        print("locust did not end in time and was stopped", file=sys.stderr)
        return 1


def main(words: list[str] | None = None) -> int:
    """Run the load, write the report and return the exit code."""
    chosen = arguments(words)
    tls = {"ca": chosen.tls_ca, "cert": chosen.tls_cert, "key": chosen.tls_key, "server_name": chosen.tls_server_name}
    target = Target(chosen.url or LOOPBACK, yes_host=chosen.yes_load_this_host, **tls)
    if chosen.page:
        print(f"locust's page: http://{LOOPBACK}:{PAGE_PORT} (at most {MAX_SECONDS} s; end it with Ctrl-C)", flush=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        server(chosen.url, chosen.server_pid, chosen.metrics_url) as (address, pid, metrics_url),
        Watch(pid, metrics_url) as watch,
    ):
        file = Path(scratch) / "samples.json"
        code = put_load(address, chosen, target, str(file))
        if not file.exists():
            return code or (0 if chosen.page else 1)
        found = json.loads(file.read_text(encoding="utf-8"))
        readings = watch.since(found["began"])
    samples = [Sample(**one) for one in found["samples"]]
    settings = {name: getattr(chosen, name) for name in ("shape", "seconds", "deadline", "seed", "callers")}
    page = write_report(chosen.out, settings, found["capacity"], samples, readings)
    print(f"report: {page}")
    return code


if __name__ == "__main__":
    sys.exit(main())
