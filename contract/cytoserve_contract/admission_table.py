"""The file in which the processes of a server keep the requests under way (`names.ENV_ADMISSION_FILE`).

Rows of `COLUMNS` float64 in the machine's byte order. The first row belongs to the models (measured speed); each other
one is a request under way, or free.
"""

from __future__ import annotations

from typing import Final

COLUMNS: Final = 5
TICKET, UNITS, UNTIL, LANE, PAUSE = range(COLUMNS)
"""Columns of a request: its ticket (0: the row is free), its work, the moment on the monotonic clock at which it is
given up for lost, its lane, and the moment until which routine work pauses for it (0: it does not)."""

ROUTINE, STAT, RESERVED = range(3)
"""Lanes: `RESERVED` is stat with instances of its own, which wait for nothing routine."""
