"""Every exit code of ``cytoserve``, and which error ends a command with which.

==== ================================================================================================
0    done: every image was answered, nothing was refused
1    unforeseen, or the result could not be written; `export`, `serve`, `deploy`: refused;
     `audit`: the chain is broken
2    wrong usage: an unknown option, a value out of range, a file in the way, a part not installed
3    some images failed, or a file that looks like an image was not read, or an annotated picture
     was not written; `deploy`: the checks failed
4    all images failed
5    the server is not there, or went away; `deploy`: the cluster's API server; `send-hl7`: the receiver
6    the time given was not enough; `send-hl7`: no acknowledgement
7    the server is of another release or refused the credentials; `deploy`: not allowed;
     `send-hl7`: the receiver refused the message
8    `analyze`, `classify`: a sample is unfamiliar as a whole, so none of its cells was accepted
130  interrupted (143 on SIGTERM)
==== ================================================================================================

5 and 6 are given when *all* images failed for that reason. 8 goes before 3: who works on with what some images gave
must still be stopped by a sample without any accepted cell. 1 goes before 8: then there is no result to be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cytoserve_client import Failure, SampleFamiliarity

OK: Final = 0
UNFORESEEN: Final = 1
USAGE: Final = 2
SOME_FAILED: Final = 3
ALL_FAILED: Final = 4
UNAVAILABLE: Final = 5
DEADLINE: Final = 6
REFUSED: Final = 7
UNFAMILIAR: Final = 8
INTERRUPTED: Final = 130
TERMINATED: Final = 143

OF_ERROR: Final[dict[str, int]] = {
    "cytoserve_cli.mounts.MissingPart": USAGE,
    "cytoserve_client.errors.AccessDenied": REFUSED,
    "cytoserve_client.errors.ConfigurationError": USAGE,
    "cytoserve_client.errors.ContractMismatch": REFUSED,
    "cytoserve_client.errors.CytoserveClientError": UNFORESEEN,
    "cytoserve_client.errors.DeadlineExceeded": DEADLINE,
    "cytoserve_client.errors.InvalidInput": USAGE,
    "cytoserve_client.errors.ServerUnavailable": UNAVAILABLE,
    "cytoserve_deploy.errors.ChecksFailed": SOME_FAILED,
    "cytoserve_deploy.errors.ClusterUnreachable": UNAVAILABLE,
    "cytoserve_deploy.errors.DeployError": UNFORESEEN,
    "cytoserve_deploy.errors.NotAuthenticated": REFUSED,
    "cytoserve_deploy.errors.NotConfirmed": USAGE,
    "cytoserve_deploy.errors.NotReadyInTime": DEADLINE,
    "cytoserve_deploy.errors.ObjectRefused": USAGE,
    "cytoserve_deploy.errors.PermissionDenied": REFUSED,
    "cytoserve_export.errors.ExportError": UNFORESEEN,
    "cytoserve_reports.audit.AuditError": USAGE,
    "cytoserve_reports.formats.errors.MessageRefused": REFUSED,
    "cytoserve_reports.formats.errors.NotAcknowledged": DEADLINE,
    "cytoserve_reports.formats.errors.PeerUnreachable": UNAVAILABLE,
    "cytoserve_reports.formats.errors.ReportFormatError": USAGE,
    "cytoserve_reports.page.errors.PageError": USAGE,
    "cytoserve_scoring.errors.CytoserveError": USAGE,
    "cytoserve_slides.errors.SlideError": USAGE,
    "cytoserve_validation.errors.ValidationError": USAGE,
    "builtins.OSError": UNFORESEEN,
}
"""By the error's full name, because naming a class here would import its room. The nearest ancestor counts."""

OF_ERROR_IN: Final[dict[str, dict[str, int]]] = {
    "analyze": {"cytoserve_files.errors.NotWritable": USAGE},
    "classify": {"cytoserve_files.errors.NotWritable": USAGE},
    "train": {"cytoserve_files.errors.NotWritable": USAGE},
    "send-hl7": {"builtins.OSError": USAGE},
    "verdicts": {"cytoserve_files.errors.FileProblem": USAGE, "builtins.FileNotFoundError": USAGE},
    "audit": {
        "cytoserve_reports.audit.BrokenChain": UNFORESEEN,
        "cytoserve_files.errors.FileProblem": USAGE,
        "builtins.FileNotFoundError": USAGE,
    },
    "deploy": {"cytoserve_client.errors.CytoserveClientError": USAGE},
}
"""Where a command differs. The first three check their outputs before the work, so the mistake is the caller's; so is a
file that `send-hl7` cannot read, or that `verdicts` or `audit` cannot find or write."""


def of_error(error: BaseException, command: str = "") -> int | None:
    """Return the exit code of an error that ends a command; None for one that no room raises on purpose."""
    ancestors = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    for table in (OF_ERROR_IN.get(command, {}), OF_ERROR):
        for name in ancestors:
            if name in table:
                return table[name]
    return None


def of_result(
    answered: int,
    failures: Sequence[Failure],
    lost: bool = False,
    familiarity: Iterable[SampleFamiliarity | None] = (),
) -> int:
    """Return the exit code of a finished call.

    Parameters
    ----------
    answered : int
        Images that were answered.
    failures : sequence of Failure
        Those that were not.
    lost : bool
        Whether files that look like images were not read at all.
    familiarity : iterable of SampleFamiliarity or None
        Of each sample of the call.
    """
    if any(sample is not None and sample.rejected for sample in familiarity):
        return UNFAMILIAR
    if not failures:
        return SOME_FAILED if lost else OK
    if answered:
        return SOME_FAILED
    return {frozenset({"unavailable"}): UNAVAILABLE, frozenset({"deadline"}): DEADLINE}.get(
        frozenset(failure.error for failure in failures), ALL_FAILED
    )


def with_outputs(code: int, written: bool, drawn: bool = True) -> int:
    """Return the exit code of a result with this code of its own, given which outputs were written."""
    if not written:
        return UNFORESEEN
    return SOME_FAILED if code == OK and not drawn else code
