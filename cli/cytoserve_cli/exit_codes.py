"""What ``cytoserve`` tells the shell.

==== =========================================================================
0    every image was answered
1    something unforeseen, or the JSON could not be written
2    wrong usage: unknown option, no such folder content, part not installed
3    some images failed, the others were answered; or a file that looks like an
     image was not read, or an annotated picture not written
4    all images failed
5    the server is not there, or went away
6    the time given was not enough
7    the server is of another release, or refused the credentials
130  interrupted (143 when asked to terminate)
==== =========================================================================

5 and 6 are given when *all* images failed for that reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cytoserve_client.errors import (
    AccessDenied,
    ConfigurationError,
    ContractMismatch,
    CytoserveClientError,
    DeadlineExceeded,
    InvalidInput,
    ServerUnavailable,
)
from cytoserve_client.results import Failure

OK: Final = 0
UNFORESEEN: Final = 1
USAGE: Final = 2
SOME_FAILED: Final = 3
ALL_FAILED: Final = 4
UNAVAILABLE: Final = 5
DEADLINE: Final = 6
REFUSED: Final = 7
INTERRUPTED: Final = 130
TERMINATED: Final = 143


def of_result(answered: int, failures: Sequence[Failure], lost: bool = False) -> int:
    """Return the exit code of a call that came to its end.

    Parameters
    ----------
    answered : int
        Images with an answer.
    failures : sequence of Failure
        Images without one.
    lost : bool
        Whether files that look like images were not read at all.
    """
    if not failures:
        return SOME_FAILED if lost else OK
    if answered:
        return SOME_FAILED
    codes = {failure.error for failure in failures}
    if codes == {ServerUnavailable.default_code}:
        return UNAVAILABLE
    if codes == {DeadlineExceeded.default_code}:
        return DEADLINE
    return ALL_FAILED


def with_outputs(code: int, written: bool, drawn: bool = True) -> int:
    """Return the exit code of a result with this code of its own, by what of it was written."""
    if not written:
        return UNFORESEEN
    return SOME_FAILED if code == OK and not drawn else code


def of_error(error: CytoserveClientError) -> int:
    """Return the exit code of an error that ended the call."""
    if isinstance(error, ServerUnavailable):
        return UNAVAILABLE
    if isinstance(error, DeadlineExceeded):
        return DEADLINE
    if isinstance(error, (ContractMismatch, AccessDenied)):
        return REFUSED
    if isinstance(error, (ConfigurationError, InvalidInput)):
        return USAGE
    return UNFORESEEN
