"""The soak at a small scale, and that its test of the slope catches what it is for: a leak planted on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cytoserve_deploy.launch.local_server import LocalServer

from benchmarks.soak import soak, with_a_leak
from benchmarks.trend import TOLERATED, Trend

SECONDS = 4.0
REQUESTS = 60
SHORT_TOLERATED = 100_000.0
LEAK = 500_000
"""In seconds, and with few requests on a busy machine, pools that still fill up look like tens of kilobytes a request.
The long run's limit and its control are far lower (`benchmarks.trend`, `benchmarks.soak`)."""


@pytest.mark.integration
def test_a_short_soak_finds_no_leak_and_no_wrong_answer(server: LocalServer, cell_files: list[Path]) -> None:
    found = soak(server, cell_files, SECONDS, tolerated=SHORT_TOLERATED, least_requests=REQUESTS)
    assert found["requests"] >= REQUESTS
    assert found["outcomes"]["answered"] > REQUESTS
    assert not found["still_held"]
    assert not found["is_leak"], found


@pytest.mark.integration
def test_a_planted_leak_is_caught(cell_files: list[Path], tmp_path: Path) -> None:
    with LocalServer(model_repository=with_a_leak(tmp_path, LEAK)) as leaking:
        found = soak(leaking, cell_files, SECONDS, tolerated=SHORT_TOLERATED, least_requests=REQUESTS)
    assert found["is_leak"], found


@pytest.mark.parametrize("seed", range(5))
def test_the_slope_of_noise_is_no_leak_and_that_of_a_leak_is(seed: int) -> None:
    """Memory of 500 MB that goes up and down by 2 MB, filling pools at the beginning."""
    draw = np.random.default_rng(seed)
    requests = np.linspace(0, 3000, 120)
    level = 5e8 + 2e7 * (1 - np.exp(-requests / 200)) + draw.normal(0, 1e6, 120)
    assert not Trend.of(requests, level).is_leak()
    leaking = Trend.of(requests, level + 3 * TOLERATED * requests)
    assert leaking.is_leak()
    assert leaking.low < 3 * TOLERATED < leaking.high + 500


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="run longer"):
        Trend.of(range(10), range(10))
