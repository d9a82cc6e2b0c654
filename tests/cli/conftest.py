"""Fixtures of the command line's tests: those of the client, whose fake server answers here, and the reports'."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "reports"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "slides"))

from client_fixtures import no_address_from_outside, open_client, server

__all__ = ["no_address_from_outside", "open_client", "server"]
