"""Races of Triton 2.51 itself, which a test that meets one names."""

from __future__ import annotations

import re

import pytest
from cytoserve_deploy.launch.local_server import LocalServer

TRITONS_SIGNAL = re.compile(r"^Signal \(\d+\) received", re.MULTILINE)


def told_by_name(server: LocalServer) -> None:
    """End the test by name where Triton itself died: of a signal of its own, in one of its known races.

    Server issues 7840, 8078 and 8220: a request that ends while it is cancelled (docs/reliability.md). Triton 2.51
    writes the signal into its log; a server that was stopped, killed, or ended for a model that died does not.
    """
    if server.is_alive():
        return
    log = server.log_path.read_text(errors="replace")
    if TRITONS_SIGNAL.search(log):
        pytest.xfail("Triton 2.51 died of a request that ended while it was cancelled (server issues 7840, 8078, 8220)")
    pytest.fail("the server died, and not of a signal in Triton: " + log[-2000:])
