"""How a measurement is described, run and written: one result, one stamp.

A benchmark module declares a `Benchmark` (its arguments, its inputs, its work) and hands it to `run`. `write_result`
is the only function that writes into ``docs/results``; what it adds is the *stamp*: the weights, the data, the commit,
the date, the command line, the environment and the seeds that a stranger needs to repeat the measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cytoserve_files import NotWritable, check_output, write_text

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "docs" / "results"
REPOSITORY: Final = Path("model_repository")
WRITTEN_BY_US: Final = ("docs", "README.md", "models/reference/MODEL_CARD.md")
"""What measuring and rendering change themselves: no reason to call a checkout changed."""

PACKAGES: Final = ("numpy", "scipy", "onnxruntime", "torch")


@dataclass(frozen=True)
class DataRead:
    """Files that a measurement reads, in the order in which it reads them.

    Attributes
    ----------
    name : str
        Name of the data set and part, for example ``pbc/test``.
    root : Path
        File names count relative to it.
    files : tuple of Path
    """

    name: str
    root: Path
    files: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path, files: Iterable[Path]) -> DataRead:
        """Return the source of a folder, named by its path below a folder called ``data``."""
        parts = folder.resolve().parts
        start = len(parts) - parts[::-1].index("data") if "data" in parts[:-1] else -1
        return cls("/".join(parts[start:]), folder, tuple(files))

    @classmethod
    def by_class(cls, folder: Path, each: int | None = None) -> DataRead:
        """Return the files of a folder with one folder per class; at most ``each`` of a class, the first by name."""
        homes = sorted(home for home in folder.iterdir() if home.is_dir())
        return cls.of(folder, (file for home in homes for file in sorted(home.iterdir())[:each]))

    def json(self) -> dict[str, Any]:
        """Return name, number of files, and one hash over their names and contents in order."""
        whole = hashlib.sha256()
        for file in self.files:
            name = file.relative_to(self.root).as_posix()
            whole.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return {"name": self.name, "files": len(self.files), "sha256": whole.hexdigest()}


@dataclass(frozen=True)
class Inputs:
    """What a measurement depends on besides the code.

    Attributes
    ----------
    weights : dict or None
        Name and SHA-256 of the weights; None where they are random.
    data : tuple of DataRead
    seeds : mapping of str to int
        Of every random number generator that the measurement seeds, by what it draws.
    """

    weights: dict[str, str] | None
    data: tuple[DataRead, ...] = ()
    seeds: Mapping[str, int] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the part of the stamp that they make."""
        return {"weights": self.weights, "data": [source.json() for source in self.data], "seeds": dict(self.seeds)}


@dataclass(frozen=True)
class Benchmark:
    """One measurement.

    Attributes
    ----------
    doc : str
        The module's docstring; its first line and command are the help text.
    arguments : callable
        Adds the arguments, but for ``--out``, to a parser.
    inputs : callable
        Parsed arguments -> `Inputs`. It reads files, and computes nothing else.
    measure : callable
        Parsed arguments -> the result, which JSON can hold.
    """

    doc: str | None
    arguments: Callable[[argparse.ArgumentParser], None]
    inputs: Callable[[argparse.Namespace], Inputs]
    measure: Callable[[argparse.Namespace], dict[str, Any]]

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Return the parsed command line."""
        parser = argparse.ArgumentParser(description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.arguments(parser)
        parser.add_argument("--out", type=output_path, help="file of the result; without it, it is only printed")
        return parser.parse_args(argv)


def run(benchmark: Benchmark) -> None:
    """Run a benchmark from the command line: measure, print, write with its stamp."""
    args = benchmark.parse()
    checkout, date, began = state_of_checkout(), now(), time.monotonic()
    inputs = benchmark.inputs(args).json()
    body = benchmark.measure(args)
    print(json.dumps(body, indent=1))
    if args.out:
        seconds = round(time.monotonic() - began)
        write_result(args.out, body, {**inputs, **checkout, "date": date, "seconds": seconds})


def write_result(path: Path, body: Mapping[str, Any], stamp: Mapping[str, Any]) -> None:
    """Write a result with its stamp.

    Parameters
    ----------
    path : Path
    body : mapping
        The figures.
    stamp : mapping
        ``weights``, ``data``, ``seeds`` (`Inputs.json`), ``commit``, ``clean`` (`state_of_checkout`), ``date``,
        ``seconds``. Command line and environment are added here.
    """
    whole = {**body, "stamp": {**stamp, "command": command_line(sys.argv), "environment": environment()}}
    write_text(path, json.dumps(whole, indent=1) + "\n")


def output_path(text: str) -> Path:
    """Return the path of ``--out``, checked before the work, which may take hours; for ``argparse``.

    Raises
    ------
    ArgumentTypeError
        It cannot be written.
    """
    try:
        check_output(text)
    except NotWritable as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def served_weights(repository: Path = REPOSITORY) -> dict[str, str]:
    """Return name and SHA-256 of the weights that a model repository was exported from."""
    service = json.loads((repository / "service_info" / "1" / "service.json").read_text(encoding="utf-8"))
    return {"name": service["name"], "sha256": service["weights_sha256"]}


def now() -> str:
    """Return the time in UTC, to the second, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """Run git on this checkout."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)


def state_of_checkout() -> dict[str, Any]:
    """Return the commit, and whether the measured tree was as committed; None outside a git checkout."""
    commit = git("rev-parse", "HEAD").stdout.strip() or None
    changed = git("status", "--porcelain", "--", ".", *(f":!{path}" for path in WRITTEN_BY_US)).stdout.strip()
    return {"commit": commit, "clean": commit is not None and not changed}


def on_first_cells(
    doc: str | None,
    measure: Callable[[list[Path], argparse.Namespace], dict[str, Any]],
    each: int,
    rounds: int | None = None,
) -> Benchmark:
    """Return a measurement by the served weights on the first ``each`` cells of each class of a folder.

    ``measure`` is given their files and the parsed arguments; ``rounds`` is the default of an argument of that name,
    which None leaves out.
    """

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, nargs="?", default=Path("../shared/data/pbc/val"))
        parser.add_argument("--each", type=int, default=each, help="cells of each class, the first by name")
        if rounds is not None:
            parser.add_argument("--rounds", type=int, default=rounds)

    def cells(args: argparse.Namespace) -> DataRead:
        return DataRead.by_class(args.folder, args.each)

    def result(args: argparse.Namespace) -> dict[str, Any]:
        source = cells(args)
        return {"data": source.name, **measure(list(source.files), args)}

    return Benchmark(doc, add_arguments, lambda args: Inputs(served_weights(), (cells(args),)), result)


def same_code_as(commit: str) -> bool:
    """Return whether the working tree differs from a commit only in what measuring writes itself."""
    unchanged = git("diff", "--quiet", commit, "--", ".", *(f":!{path}" for path in WRITTEN_BY_US)).returncode == 0
    return unchanged and bool(state_of_checkout()["clean"])


def command_line(argv: Sequence[str]) -> str:
    """Return the command as typed, without this machine's paths."""
    return " ".join(["python -m", f"benchmarks.{Path(argv[0]).stem}", *(neutral(word) for word in argv[1:])])


def neutral(word: str) -> str:
    """Return an argument with an absolute path made relative to the checkout, or cut down to its name."""
    if not os.path.isabs(word):
        return word
    relative = os.path.relpath(word, ROOT)
    return relative if relative.count("..") <= 1 else Path(word).name


def environment() -> dict[str, Any]:
    """Return what figures, and above all speeds, depend on. No name of the machine."""
    packages = {}
    for name in PACKAGES:
        if name in sys.modules or name != "torch":
            try:
                packages[name] = version(name)
            except PackageNotFoundError:
                continue
    return {
        "python": platform.python_version(),
        "packages": packages,
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "os": operating_system(),
        "machine": platform.machine(),
    }


def cpu_model() -> str:
    """Return the processor's name as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def operating_system() -> str:
    """Return name and version of the distribution."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()
