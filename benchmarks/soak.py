"""Mixed work on one server for a bounded time: every answer checked, what the server holds, the trend of its memory.

    python -m benchmarks.soak ../shared/data/pbc/val --seconds 300 --out docs/results/soak.json
    make soak SECONDS=3600

The work: requests of one to eight cells, with all kinds of faults between them (files that are no image, deadlines of
milliseconds, callers that leave). An answer other than the undisturbed server's is an error at once. Afterwards the
server must hold no more files, threads and shared memory than before, and its memory must not grow with the requests.

A second, short run on a server with a leak planted on purpose shows that the test of the slope catches one.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cytoserve_client import CellAnswer, Client, EncodedImage, errors
from cytoserve_contract import manifest
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.repository import find_repository
from cytoserve_files import write_text
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL

from benchmarks.results import Benchmark, DataRead, Inputs, run, served_weights
from benchmarks.server_state import ServerState, state_of, wait_for
from benchmarks.trend import TOLERATED, Trend

EACH: Final = 4
SEED: Final = 16
SETTLE_S: Final = 10.0
SAMPLES: Final = 120
THREADS_KEPT: Final = 8
"""Threads that gRPC and ONNX Runtime make on demand and may keep."""

EXAMPLES: Final = Path("examples/cells")
CONTROL_LEAK: Final = 50_000
"""Bytes a request that the control leaks: two crops of a cell. A smaller leak takes a longer run to be told."""

LEAK: Final = """

_KEPT = []
_answer = TritonPythonModel.answer


def _leaking(self, tensors, request):
    _KEPT.append(bytes([len(_KEPT) % 250 + 1]) * {size})
    return _answer(self, tensors, request)


TritonPythonModel.answer = _leaking
"""


class WrongAnswer(RuntimeError):
    """An answer that is not that of the undisturbed server."""


@dataclass
class Work:
    """The work of one soak and what came of it."""

    client: Client
    known: dict[str, tuple[bytes, CellAnswer]]
    draw: random.Random
    requests: int = 0
    cells: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def one(self) -> None:
        """Send one request of the mixture and check what comes back."""
        kind = self.draw.choices(("cells", "bad file", "short deadline", "new caller"), (80, 8, 8, 4))[0]
        names = self.draw.sample(sorted(self.known), self.draw.choice((1, 1, 2, 4, 8)))
        images = [EncodedImage(name, self.known[name][0]) for name in names]
        self.requests += 1
        if kind == "new caller":
            with Client(self.client.config.url, timeout=60) as other:
                self._classify(other, images)
        elif kind == "bad file":
            self._classify(self.client, [*images, EncodedImage("bad", self.draw.randbytes(200))])
        elif kind == "short deadline":
            self._classify(self.client, images, timeout=self.draw.uniform(0.001, 0.05))
        else:
            self._classify(self.client, images)

    def _classify(self, client: Client, images: list[EncodedImage], **settings: Any) -> None:
        try:
            result = client.classify(images, PBC_UM_PER_PIXEL, one_sample=False, **settings)
        except errors.DeadlineExceeded:
            self.outcomes["deadline"] += 1
            return
        named = [cell.source for cell in result.cells] + [failure.source for failure in result.failures]
        if sorted(named) != sorted(image.name for image in images):
            raise WrongAnswer("an image was lost without being named")
        for failure in result.failures:
            self.outcomes[failure.error] += 1
        for cell in result.cells:
            if substance(cell) != substance(self.known[cell.source][1]):
                raise WrongAnswer(f"another answer than before: {substance(cell)}")
            self.outcomes["answered"] += 1


def substance(cell: CellAnswer) -> tuple[Any, ...]:
    """Return what makes two answers about a cell the same."""
    return cell.label, cell.decision, cell.reasons


def soak(
    server: LocalServer,
    files: list[Path],
    seconds: float,
    seed: int = SEED,
    tolerated: float = TOLERATED,
    least_requests: int = 0,
) -> dict[str, Any]:
    """Work on a server for some seconds; return what it was asked, what it holds, and the trend of its memory.

    ``tolerated`` is the growth in bytes a request that is no leak yet; a run of seconds cannot tell as little as one of
    minutes. It takes longer than ``seconds`` where fewer than ``least_requests`` were sent.

    Raises
    ------
    WrongAnswer
        An answer was wrong, swapped or lost.
    """
    with Client(server.grpc_url, timeout=60) as client:
        contents = {f"cell {index}": file.read_bytes() for index, file in enumerate(files)}
        images = [EncodedImage(name, data) for name, data in contents.items()]
        answers = client.classify(images, PBC_UM_PER_PIXEL, one_sample=False).cells
        work = Work(client, {cell.source: (contents[cell.source], cell) for cell in answers}, random.Random(seed))
        for _ in range(20):
            work.one()
        before, began = state_of(server), time.monotonic()
        requests, memory = list[float](), list[float]()
        while (past := time.monotonic() - began) < seconds or work.requests < least_requests:
            work.one()
            if past >= len(requests) * seconds / SAMPLES:
                requests.append(work.requests)
                memory.append(state_of(server).memory)
        worked = time.monotonic() - began
        wait_for(lambda: not state_of(server).more_than(before, THREADS_KEPT), SETTLE_S)
        after = state_of(server)
    found = Trend.of(requests, memory)
    return {**_result(work, worked, before, after, found), "is_leak": found.is_leak(tolerated)}


def _result(work: Work, seconds: float, before: ServerState, after: ServerState, trend: Trend) -> dict[str, Any]:
    return {
        "seconds": round(seconds),
        "requests": work.requests,
        "outcomes": dict(work.outcomes.most_common()),
        "wrong_or_lost": 0,
        "before": vars(before),
        "after": vars(after),
        "still_held": after.more_than(before, THREADS_KEPT),
        "bytes_per_request": round(trend.slope),
        "bytes_per_request_interval": [round(trend.low), round(trend.high)],
    }


def with_a_leak(folder: Path, size: int = CONTROL_LEAK) -> Path:
    """Copy the served repository into a folder, with a first step that keeps some bytes of each request."""
    copy = folder / "models"
    shutil.copytree(find_repository(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    model = copy / "cell_decoder" / "1" / "model.py"
    write_text(model, model.read_text(encoding="utf-8") + LEAK.replace("{size}", str(size)))
    names = manifest.describe((name, copy / name) for name in manifest.tree(copy))
    write_text(copy / manifest.NAME, json.dumps({"schema": manifest.SCHEMA, "files": names}))
    return copy


def measure(files: list[Path], seconds: float, control_seconds: float, seed: int) -> dict[str, Any]:
    """Soak the served repository, then one with a leak."""
    with LocalServer() as server:
        found = soak(server, files, seconds, seed)
    with (
        tempfile.TemporaryDirectory(prefix="cytoserve-soak-") as folder,
        LocalServer(model_repository=with_a_leak(Path(folder))) as server,
    ):
        control = soak(server, files, control_seconds, seed)
    if found["is_leak"] or found["still_held"] or not control["is_leak"]:
        print(json.dumps({"served": found, "control": control}, indent=1))
        raise SystemExit("the server leaks, or the control's leak was not caught")
    return {
        "tolerated_bytes_per_request": round(TOLERATED),
        "served": found,
        "control": {"leaked_bytes_per_request": CONTROL_LEAK, **control},
    }


def _files(args: argparse.Namespace) -> DataRead:
    folder = args.folder if args.folder.is_dir() else EXAMPLES
    return DataRead.by_class(folder, EACH)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/pbc/val"))
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--control-seconds", type=float, default=120.0, help="for the server with a leak")
    parser.add_argument("--seed", type=int, default=SEED)


BENCHMARK = Benchmark(
    __doc__,
    _arguments,
    lambda args: Inputs(served_weights(), (_files(args),), {"work": args.seed}),
    lambda args: measure(list(_files(args).files), args.seconds, args.control_seconds, args.seed),
)

if __name__ == "__main__":
    run(BENCHMARK)
