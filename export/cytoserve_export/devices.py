"""Where a repository is to run: the processors it can be made for, and how many instances and rows each gets.

Peaks are the dense bf16 figures of NVIDIA's data sheets. Instance counts and delays are starting points
chosen from memory and peak; none has been measured on such a card yet (docs/verification.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cytoserve_export.errors import UnknownModel


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of processor.

    ``name`` is that of ``--profile`` and ``configs/<name>.pbtxt``; ``compute_capability`` is CUDA's ``major.minor``,
    None for a CPU; ``bf16_tflops`` the dense peak. A denoiser of over 500 MiB gets one instance, whatever
    ``denoiser_instances``. The batcher waits ``queue_delay_us`` for more rows; TensorRT optimises for ``optimum_rows``.
    """

    name: str
    compute_capability: str | None
    bf16_tflops: float | None
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
        DeviceProfile("cpu", None, None, 1, 500, 32),
        DeviceProfile("a10", "8.6", 125.0, 1, 1000, 64),
        DeviceProfile("l4", "8.9", 121.0, 1, 1000, 64),
        DeviceProfile("a100", "8.0", 312.0, 2, 500, 128),
        DeviceProfile("h100", "9.0", 989.0, 2, 500, 256),
        DeviceProfile("h200", "9.0", 989.0, 2, 500, 256),
    )
}


def find_profile(name: str) -> DeviceProfile:
    """Return a profile by name.

    Raises
    ------
    UnknownModel
    """
    if name not in PROFILES:
        raise UnknownModel(f"no profile is called {name!r}; known are {', '.join(PROFILES)}")
    return PROFILES[name]
