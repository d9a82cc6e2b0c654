"""Where a measurement's result goes: checked before the work, which may take hours."""

from __future__ import annotations

import argparse
from pathlib import Path

from cytoserve_files import NotWritable, check_output


def output_path(text: str) -> Path:
    """Return the path of ``--out``; for ``argparse``.

    Raises
    ------
    ArgumentTypeError
        It cannot be written.
    """
    try:
        check_output(text)
    except NotWritable as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)
