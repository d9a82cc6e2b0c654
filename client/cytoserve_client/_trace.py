"""The caller's trace: its context travels with each request where the program uses OpenTelemetry, and only then."""

from __future__ import annotations

import sys
from typing import Any


def trace_headers() -> dict[str, str]:
    """Return the headers of the current trace context: ``traceparent``, and what else the program's propagators add.

    Empty where OpenTelemetry has not been imported: who has a span has imported it, and this package never does. The
    context is that of the calling thread or task (https://www.w3.org/TR/trace-context/).
    """
    propagate: Any = sys.modules.get("opentelemetry.propagate")
    if propagate is None:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {name.lower(): value for name, value in carrier.items()}
