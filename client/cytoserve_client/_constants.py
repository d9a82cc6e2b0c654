"""Every default of the client, named once; the service's limits are the contract's, checked before a request is sent.

Times are seconds unless the name says otherwise. All of them are finite: no call can wait for ever.
"""

from __future__ import annotations

from typing import Final

from cytoserve_contract.limits import MAX_AREA_UM2 as MAX_AREA_UM2
from cytoserve_contract.limits import MAX_CELLS as MAX_CELLS
from cytoserve_contract.limits import MAX_FILE_BYTES as MAX_FILE_BYTES
from cytoserve_contract.limits import MAX_MESSAGE_BYTES as MAX_MESSAGE_BYTES
from cytoserve_contract.limits import MAX_PIXELS as MAX_PIXELS
from cytoserve_contract.limits import MIN_SIDE as MIN_SIDE

DEFAULT_TIMEOUT_S: Final = 120.0
"""Time one request (one field, or one chunk of cells) may take, every retry of it included."""

CONTROL_TIMEOUT_S: Final = 10.0
"""Time a small call (``service_info``, metadata, readiness) may take; never more than the caller's own timeout."""

DEADLINE_MARGIN_S: Final = 0.05
"""The server is given this much less than the gRPC deadline, so that its own, clearer answer still arrives."""

MAX_ATTEMPTS: Final = 4
"""Attempts per request, the first one included (gRFC A6 caps it at 5)."""

RETRY_FIRST_DELAY_S: Final = 0.1
RETRY_MAX_DELAY_S: Final = 2.0
RETRY_MULTIPLIER: Final = 2.0
"""Ceiling of the n-th wait: ``min(max, first * multiplier**n)``; the wait itself is uniform in [0, ceiling]."""

OUTAGE_S: Final = 60.0
"""How long a server that has answered before may be away before requests fail; a restart takes seconds."""

RESENDS_AFTER_LOSS: Final = 1
"""How often a request is sent again that was lost while the server worked on it: it may be what ended the server."""

NOTICE_S: Final = 1.0
"""Time until a server whose model has lost its process stops beginning requests; before, it still says it is ready."""

RETRY_TOKENS: Final = 10.0
RETRY_TOKEN_RATIO: Final = 0.1
"""Retry throttle shared by all threads of a client (gRFC A6): a failure costs one token, a success gives a
tenth back, and nobody retries while fewer than half the tokens are left."""

MAX_IN_FLIGHT: Final = 4
"""Requests of one ``analyze`` or ``classify`` call that are under way at the same time."""

CELLS_PER_REQUEST: Final = 8
"""Single-cell images that travel in one request of ``classify``."""

CHUNK_BYTES: Final = 32 * 1024 * 1024
"""Encoded bytes that one request of ``classify`` may carry before the chunk is split."""

KEEPALIVE_TIME_MS: Final = 330_000
"""Pings on a quiet connection. A gRPC server allows one per 300 s and drops the connection ("too many pings")
of a client that is faster; a silent network is noticed by the deadline long before."""

KEEPALIVE_TIMEOUT_MS: Final = 20_000
"""Time a ping, or data sent, may stay unacknowledged before the connection counts as dead."""

RECONNECT_FIRST_MS: Final = 200
RECONNECT_MAX_MS: Final = 2_000
"""Reconnect back-off. gRPC's own goes up to two minutes, which outlives a server's restart."""

PROBABILITY_TOLERANCE: Final = 1e-3
"""How far the class probabilities of a cell may be from 1 in sum (float32 soft-max over a few classes)."""
