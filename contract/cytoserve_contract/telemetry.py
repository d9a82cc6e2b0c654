"""Switch the libraries' telemetry off, before one of them is imported: the one place that knows the variables.

Patient data are near: nothing that this project starts opens a connection that its operator did not ask for.
``onnxruntime`` from 1.29 on sends events from Linux and keeps a device id and a database in the user's cache folder;
its own call ``disable_telemetry_events()`` does not stop either, the environment does (seen with 1.32).
``huggingface_hub``, which ``diffusers`` imports, looks for newer releases and counts downloads.

The packages of this project that import such a library, and every process it starts, get the variables from here:
`switch_off` for the running process (called by the packages' ``__init__``), `without_telemetry` for a child. The image,
the compose file and the chart name them too, so that they show; a test holds the lists equal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

VARIABLES: Final[Mapping[str, str]] = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DO_NOT_TRACK": "1",
}
"""What is set where the operator has set nothing. No checkpoint is ever loaded from a hub, so offline costs nothing."""


def without_telemetry(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of an environment with telemetry switched off.

    Parameters
    ----------
    environ : mapping of str to str
        A variable that is set in it, and not empty, is kept: an operator who writes ``ORT_DISABLE_TELEMETRY=0`` has
        asked for those connections. An empty one is no decision.
    """
    kept = {name: value for name, value in environ.items() if value or name not in VARIABLES}
    return {**VARIABLES, **kept}


def switch_off() -> None:
    """Do the same for this process, and so for what it starts; a library imported before has read its variable."""
    os.environ.update(without_telemetry(os.environ))
