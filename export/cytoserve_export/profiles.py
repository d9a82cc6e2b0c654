"""Where a repository is to run: the processors it can be made for, and how many instances and rows each gets.

Peaks are NVIDIA's data sheet figures, dense bf16 and memory bandwidth. Instance counts and delays are starting points
chosen from memory and peak; none has been measured on such a card yet (docs/verification.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cytoserve_export.errors import UnknownModel

MAX_BATCH: Final = 256
"""Rows the scorer hands over at most (``classifier.race.ROWS_PER_CALL``) and the contract's limit."""


@dataclass(frozen=True)
class Profile:
    """One kind of processor.

    Parameters
    ----------
    name : str
        As in ``--profile`` and ``configs/<name>.pbtxt``.
    compute_capability : str or None
        CUDA's, ``major.minor``; None for a CPU.
    memory_gib : int or None
    bf16_tflops : float or None
        Dense peak.
    bandwidth_gb_s : float or None
    denoiser_instances : int
        Of a small denoiser; one that weighs over 500 MiB always gets one.
    queue_delay_us : int
        How long the batcher waits for more rows.
    optimum_rows : int
        Rows that TensorRT optimises for.
    """

    name: str
    compute_capability: str | None
    memory_gib: int | None
    bf16_tflops: float | None
    bandwidth_gb_s: float | None
    denoiser_instances: int
    queue_delay_us: int
    optimum_rows: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.compute_capability is not None


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("cpu", None, None, None, None, 1, 500, 32),
        Profile("a10", "8.6", 24, 125.0, 600.0, 1, 1000, 64),
        Profile("l4", "8.9", 24, 121.0, 300.0, 1, 1000, 64),
        Profile("a100", "8.0", 80, 312.0, 2039.0, 2, 500, 128),
        Profile("h100", "9.0", 80, 989.0, 3350.0, 2, 500, 256),
        Profile("h200", "9.0", 141, 989.0, 4800.0, 2, 500, 256),
    )
}


def find_profile(name: str) -> Profile:
    """Return a profile by name.

    Raises
    ------
    UnknownModel
    """
    if name not in PROFILES:
        raise UnknownModel(f"no profile is called {name!r}; known are {', '.join(PROFILES)}")
    return PROFILES[name]
