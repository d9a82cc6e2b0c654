"""Run every measurement that this machine can, then write the documents: what ``make evidence`` calls.

    python -m benchmarks.rerun --data ../shared/data            # all; results that are up to date are skipped
    python -m benchmarks.rerun --only pbc_test --only fields    # some
    python -m benchmarks.rerun --list                           # what there is, how long it takes, what is up to date

A result is up to date where its stamp names this code, these weights and this data; so an interrupted run resumes where
it stopped. Run it in a committed checkout: a result of changed code says so in its stamp and is never up to date.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.measurements import BY_NAME, DATA, MEASUREMENTS, Measurement
from benchmarks.render import write_documents
from benchmarks.results import ROOT


def status(one: Measurement, data: str) -> str:
    """Return whether a measurement is up to date, to be run, or cannot be run here."""
    if not one.plain:
        return f"not run here: needs {one.needs}"
    return "up to date" if one.is_current(data) else "to be run"


def measure(one: Measurement, data: str) -> bool:
    """Run one measurement in a process of its own; return whether it ended well."""
    command = [sys.executable, "-m", f"benchmarks.{one.module}", *one.words(data)]
    print(f"{one.name}: about {one.minutes} min", flush=True)
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0


def rerun(chosen: Sequence[Measurement], data: str, force: bool = False) -> list[str]:
    """Run what is not up to date; return the names of those that failed."""
    failed = []
    for one in chosen:
        found = status(one, data)
        if one.plain and (force or found != "up to date"):
            if not measure(one, data):
                failed.append(one.name)
        else:
            print(f"{one.name}: {found}", flush=True)
    return failed


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DATA, help="folder of the shared images")
    parser.add_argument("--only", action="append", choices=sorted(BY_NAME), help="this one; may be given repeatedly")
    parser.add_argument("--force", action="store_true", help="run what is up to date too")
    parser.add_argument("--list", action="store_true", help="run nothing")
    args = parser.parse_args()
    chosen = [BY_NAME[name] for name in args.only] if args.only else MEASUREMENTS
    if args.list:
        for one in chosen:
            time = "-" if one.minutes is None else f"{one.minutes} min"
            print(f"{one.name:32} {time:>7}  {status(one, args.data)}")
        return
    failed = rerun(chosen, args.data, args.force)
    write_documents()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
