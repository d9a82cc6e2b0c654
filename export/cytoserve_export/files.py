"""Reading small files, without anything that only an export needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cytoserve_files import read_text

from cytoserve_export.errors import MalformedFile, MissingFile


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    MissingFile, MalformedFile
    """
    if not path.is_file():
        raise MissingFile(f"{path} is missing; the layout is described in docs/contract.md under Files")
    try:
        value = json.loads(read_text(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MalformedFile(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedFile(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value
