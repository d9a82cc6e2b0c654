"""A million spoilt image files through the decoder of the service, guided by coverage (libFuzzer through ``atheris``).

    python -m benchmarks.fuzz_decoder --cases 1000000 --out docs/results/fuzz_decoder.json
    make fuzz CASES=1000000

With ``--keep FOLDER`` the files that reached something new stay there, and the next run goes on with them and adds its
cases to those before (with another seed), so that long fuzzing can be done in parts.

Every case must end as a picture or as a refusal with a code, within seconds. An unexpected exception, a crash of a
native library or a case that takes too long ends the run with an error; the file that did it is shown.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from cytoserve_files import write_bytes

from benchmarks.fuzz_seeds import seeds
from benchmarks.fuzz_target import MAX_PIXELS
from benchmarks.results import ROOT, Benchmark, Inputs, run

SEED: Final = 16
MAX_FILE_BYTES: Final = 8192
CASE_LIMIT_S: Final = 20
COVERAGE: Final = re.compile(r"\bcov: (\d+) .*corp: (\d+)/")


def fuzz(cases: int, workers: int, seed: int, keep: Path | None) -> dict[str, Any]:
    """Run the fuzzer in some processes at a time; return what came of all cases, those of kept runs included.

    Raises
    ------
    SystemExit
        A case ended otherwise than it may.
    """
    with tempfile.TemporaryDirectory(prefix="cytoserve-fuzz-") as scratch:
        home = keep or Path(scratch)
        part = len(list(home.glob("*-0/counts.json")))
        folders = [_prepared(home, part, index) for index in range(workers)]
        share = [cases // workers + (index < cases % workers) for index in range(workers)]
        logs = [(folder / "log").open("ab") for folder in folders]
        jobs = [
            subprocess.Popen(_command(home, folder, runs, seed + 100 * part + index), cwd=ROOT, stdout=log, stderr=log)
            for index, (folder, runs, log) in enumerate(zip(folders, share, logs, strict=True))
        ]
        ended = [job.wait() for job in jobs]
        for log in logs:
            log.close()
        for folder, code in zip(folders, ended, strict=True):
            if code:
                raise SystemExit(_what_failed(folder))
        return _summed(sorted(folder.parent for folder in home.glob("*-*/counts.json")))


def _prepared(home: Path, part: int, worker: int) -> Path:
    """Return the folder of one process, and see that the corpus that all share has the seeds."""
    (home / "corpus").mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(seeds()):
        write_bytes(home / "corpus" / f"seed-{index}", data)
    folder = home / f"{part}-{worker}"
    folder.mkdir()
    return folder


def _command(home: Path, folder: Path, runs: int, seed: int) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.fuzz_target", str(folder / "counts.json"), str(home / "corpus")),
        *(f"-runs={runs}", f"-seed={seed}", f"-max_len={MAX_FILE_BYTES}", f"-timeout={CASE_LIMIT_S}"),
        *("-rss_limit_mb=4096", f"-artifact_prefix={folder}/failed-"),
    ]


def _what_failed(folder: Path) -> str:
    log = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [f"{file.name}: {file.read_bytes().hex()}" for file in folder.glob("failed-*")]
    return "\n".join([*log[-40:], *kept])


def _summed(folders: list[Path]) -> dict[str, Any]:
    found = [json.loads((folder / "counts.json").read_text(encoding="utf-8")) for folder in folders]
    outcomes: Counter[str] = Counter()
    for one in found:
        outcomes.update(one["outcomes"])
    ends = [COVERAGE.findall((folder / "log").read_text(encoding="utf-8", errors="replace"))[-1] for folder in folders]
    return {
        "parts": len({folder.name.split("-")[0] for folder in folders}),
        "cases": sum(one["cases"] for one in found),
        "crashes": 0,
        "unexpected_exceptions": 0,
        "slowest_s": max(one["slowest_s"] for one in found),
        "outcomes": dict(outcomes.most_common()),
        "branches_covered": max(int(covered) for covered, _ in ends),
        "files_kept": sum(int(kept) for _, kept in ends),
        "seed_files": len(seeds()),
        "max_pixels": MAX_PIXELS,
        "max_file_bytes": MAX_FILE_BYTES,
    }


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--keep", type=Path, help="folder of a run in parts")


BENCHMARK = Benchmark(
    __doc__,
    _arguments,
    lambda args: Inputs(None, seeds={"mutations": args.seed}),
    lambda args: fuzz(args.cases, args.workers, args.seed, args.keep),
)

if __name__ == "__main__":
    run(BENCHMARK)
