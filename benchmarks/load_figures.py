"""The table of docs/benchmarks.md, "Load", from ``docs/results/load.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.text import table


def load_text(found: Mapping[str, Any]) -> str:
    """Return acceptance criteria with what was measured, and the second witness.

    Parameters
    ----------
    found : mapping
        As `benchmarks.load.measure` returns it.
    """
    heads = ["acceptance criterion", "measured", "met"]
    return f"{_capacity(found)}\n\n{table(heads, _criteria(found))}\n\n{_witness(found['witness'])}"


def _capacity(found: Mapping[str, Any]) -> str:
    rates = "; ".join(f"{name} {rate:g}" for name, rate in found["capacity_requests_per_s"].items())
    lengths = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["seconds"].items())
    busy = found.get("load_average_before")
    other = "" if busy is None else f" The machine's load average before was {busy:.1f}."
    return f"Requests a second of each stream alone, in a closed loop: {rates}. Lengths: {lengths}.{other}"


def _criteria(found: Mapping[str, Any]) -> list[list[str]]:
    stat, over, mixed = found["stat"], found["overload"], found["mixed"]
    growth = over["memory_mib_last_third"] - over["memory_mib_first_third"]
    recovery = over["recovery_s"]
    return [
        [
            "stat cell while the queue is full: p95 at most twice that of an idle server and one batch of the denoiser",
            f"{stat['full']['p95']:.2f} s; allowed {stat['limit_s']:.2f} s (idle {stat['idle']['p95']:.2f} s, batch "
            f"{stat['denoiser_batch_s']:.2f} s); {stat['full_requests']} answered, {stat['not_answered']} not; routine "
            f"cells meanwhile {stat['routine']['p95']:.2f} s",
            _met(stat["full"]["p95"] <= stat["limit_s"] and not stat["not_answered"]),
        ],
        [
            "twice the capacity: refused early",
            f"{over['refused']} of {over['sent']}, half of them within {over['seconds_to_refusal']['p50']:.2f} s, "
            f"95 % within {over['seconds_to_refusal']['p95']:.2f} s"
            if over["refused"]
            else "none was refused",
            _met(bool(over["refused"]) and over["seconds_to_refusal"]["p95"] <= over["deadline_s"] / 4),
        ],
        [
            f"accepted requests keep their deadline of {over['deadline_s']:g} s",
            f"{over['late']} late, {over['failed']} failed; longest {over['seconds']['max']:.2f} s",
            _met(over["late"] + over["failed"] == 0),
        ],
        [
            "memory stays flat (less than 10 %)",
            f"{over['memory_mib_first_third']:.0f} to {over['memory_mib_last_third']:.0f} MiB",
            _met(growth < 0.1 * over["memory_mib_first_third"]),
        ],
        [
            "back to normal within seconds (at most 10)",
            "not within the run" if recovery is None else f"after {recovery:.1f} s",
            _met(recovery is not None and recovery <= 10),
        ],
        [
            f"{mixed['callers']} callers, mixed sizes, 80 % of capacity: p99 / p50 at most 4",
            f"{mixed['p99_over_p50']:.2f} ({mixed['seconds']['p50']:.2f} and {mixed['seconds']['p99']:.2f} s; "
            f"{mixed['sent']} requests, {mixed['sent'] - mixed['answered']} not answered)",
            _met(mixed["p99_over_p50"] <= 4 and mixed["sent"] == mixed["answered"]),
        ],
    ]


def _met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


def _witness(found: Mapping[str, Any]) -> str:
    ours, triton, other = found["ours"], found["triton"], found["perf_analyzer"]
    third = other.get("why") or f"{other['requests_per_s']:.2f} requests a second, median {other['p50']:.3f} s"
    return (
        f"The same closed loop ({found['callers']} callers, {found['cells_per_request']} cells a request) by two "
        f"others: ours {ours['requests_per_s']:.2f} requests a second, mean {ours['mean']:.3f} s; Triton's counters "
        f"{triton['requests_per_s']:.2f}, {triton['mean']:.3f} s; `perf_analyzer` {third}."
    )
