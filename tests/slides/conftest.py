"""Slides made from pictures, in the formats of scanners."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))

from client_fixtures import no_address_from_outside, open_client, server

__all__ = ["no_address_from_outside", "open_client", "server"]
