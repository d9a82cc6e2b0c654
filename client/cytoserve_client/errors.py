"""What can go wrong, as a tree. One class, one sentence.

::

    CytoserveClientError
    +-- ConfigurationError          configuration       the client was set up in a way that cannot work
    +-- ClientClosed                closed              used after ``close()``
    +-- InvalidInput                invalid_argument    the caller's input, never retried
    |   +-- InvalidImage            not_an_image
    |   |   +-- UnreadableFile      unreadable          (found by the client)
    |   |   +-- OwnOverlay          own_overlay         (found by the client)
    |   |   +-- InvalidArray        bad_array           (found by the client)
    |   |   +-- EmptyImage          empty
    |   |   +-- NotAnImage          not_an_image
    |   |   +-- TruncatedImage      truncated
    |   |   +-- TooManyBytes        too_many_bytes
    |   |   +-- TooManyPixels       too_many_pixels
    |   |   +-- TooSmall            too_small
    |   |   +-- UnsupportedMode     unsupported_mode
    |   +-- BadScale                bad_scale
    |   +-- BadShape                bad_shape
    |   +-- BadParameter            bad_parameter
    +-- ServerUnavailable           unavailable         not there, stopping, gone during the call, or its queue is full
    +-- DeadlineExceeded            deadline            the time given was not enough
    +-- AccessDenied                access_denied       missing or refused credentials
    +-- ContractMismatch            contract            the server does not speak this client's contract
    |   +-- InvalidAnswer           invalid_answer      an answer that must not be passed on (NaN, not normalised)
    +-- ServerError                 internal            the server failed; its fault, not the caller's

Every error carries ``code`` (stable, for programs), ``message`` (without the prefix of ``str(error)``), ``source``
(the file or array it is about, or None), ``request_id`` (random; the server's log has it too, or None) and
``retryable`` (whether the same call may succeed later without a change).
"""

from __future__ import annotations

import re
from typing import ClassVar, Final


class CytoserveClientError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    message : str
        What happened and what to do about it.
    code : str, optional
        Stable name for programs; the class's own by default.
    source : str, optional
        The file or array the error is about.
    request_id : str, optional
        Id of the request, as in the server's log.
    retryable : bool, optional
        Whether the same call may succeed later; the class's own by default.
    """

    default_code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        source: str | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.source = source
        self.request_id = request_id
        self.retryable = self.default_retryable if retryable is None else retryable

    def __str__(self) -> str:
        return f"{self.source}: {self.message}" if self.source else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by Exception's own pickling; worker processes need them.
        return _rebuild, (type(self), self.message, self.code, self.source, self.request_id, self.retryable)


def _rebuild(
    kind: type[CytoserveClientError],
    message: str,
    code: str,
    source: str | None,
    request_id: str | None,
    retryable: bool,
) -> CytoserveClientError:
    return kind(message, code=code, source=source, request_id=request_id, retryable=retryable)


class ConfigurationError(CytoserveClientError):
    """The client was set up in a way that cannot work."""

    default_code = "configuration"


class ClientClosed(CytoserveClientError):
    """The client was used after ``close()``, or closed while the call was under way."""

    default_code = "closed"


class InvalidInput(CytoserveClientError):
    """The caller's input was refused; sending it again cannot help."""

    default_code = "invalid_argument"


class InvalidImage(InvalidInput):
    """The image was refused."""

    default_code = "not_an_image"


class UnreadableFile(InvalidImage):
    """The file is not there, is no regular file (a folder, a named pipe, a device), or may not be read."""

    default_code = "unreadable"


class OwnOverlay(InvalidImage):
    """The image is an annotated picture that this program drew, not a photograph."""

    default_code = "own_overlay"


class InvalidArray(InvalidImage):
    """The array is not uint8 of shape (H, W, 3), or is outside the size limits."""

    default_code = "bad_array"


class EmptyImage(InvalidImage):
    """No bytes at all."""

    default_code = "empty"


class NotAnImage(InvalidImage):
    """The bytes are of no image format that the service accepts."""

    default_code = "not_an_image"


class TruncatedImage(InvalidImage):
    """The header is an image's; the pixels end early or are damaged."""

    default_code = "truncated"


class TooManyBytes(InvalidImage):
    """The encoded file is larger than the limit."""

    default_code = "too_many_bytes"


class TooManyPixels(InvalidImage):
    """The image has more pixels than the limit."""

    default_code = "too_many_pixels"


class TooSmall(InvalidImage):
    """The image is too small to hold a cell."""

    default_code = "too_small"


class UnsupportedMode(InvalidImage):
    """Greyscale, CMYK, 16 bit or real transparency: converting it would invent or lose colour."""

    default_code = "unsupported_mode"


class BadScale(InvalidInput):
    """Micrometres per pixel that are not a positive, finite, plausible number."""

    default_code = "bad_scale"


class BadShape(InvalidInput):
    """A tensor of the wrong shape or type."""

    default_code = "bad_shape"


class BadParameter(InvalidInput):
    """A request parameter outside its range."""

    default_code = "bad_parameter"


class ServerUnavailable(CytoserveClientError):
    """The server is not there, is stopping, went away during the call, or its queue is full."""

    default_code = "unavailable"
    default_retryable = True


class DeadlineExceeded(CytoserveClientError):
    """The time given was not enough."""

    default_code = "deadline"
    default_retryable = True


class AccessDenied(CytoserveClientError):
    """Credentials are missing or were refused."""

    default_code = "access_denied"


class ContractMismatch(CytoserveClientError):
    """The server does not speak this client's contract: model missing, other tensors, other classes."""

    default_code = "contract"


class InvalidAnswer(ContractMismatch):
    """The server answered something that must not be passed on: NaN, not normalised, inconsistent."""

    default_code = "invalid_answer"


class ServerError(CytoserveClientError):
    """The server failed; the input is not known to be at fault."""

    default_code = "internal"


def concerns_all(error: CytoserveClientError) -> bool:
    """Return whether an error ends a whole call: the other images of a list would meet the same."""
    if isinstance(error, InvalidAnswer):
        return False
    return isinstance(error, (ContractMismatch, ClientClosed, AccessDenied))


_BY_CODE: Final[dict[str, type[CytoserveClientError]]] = {
    kind.default_code: kind
    for kind in (
        EmptyImage,
        NotAnImage,
        TruncatedImage,
        TooManyBytes,
        TooManyPixels,
        TooSmall,
        UnsupportedMode,
        BadScale,
        BadShape,
        BadParameter,
        DeadlineExceeded,
        ServerUnavailable,
        ServerError,
    )
}
"""The codes a server may send in ``[cytoserve:<code>]``."""

_BY_STATUS: Final[dict[str, type[CytoserveClientError]]] = {
    "UNAVAILABLE": ServerUnavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "INVALID_ARGUMENT": InvalidInput,
    "OUT_OF_RANGE": InvalidInput,
    "FAILED_PRECONDITION": InvalidInput,
    "RESOURCE_EXHAUSTED": ServerError,
    "NOT_FOUND": ContractMismatch,
    "UNIMPLEMENTED": ContractMismatch,
    "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied,
}

_REMEDY: Final[dict[type[CytoserveClientError], str]] = {
    ServerUnavailable: "Check the address and that the server runs (`cytoserve serve` starts one).",
    DeadlineExceeded: "Give a longer timeout, or send fewer images at a time.",
    AccessDenied: "Check the token or the client certificate.",
    ContractMismatch: "Check that the address is a CytoServe server of this release.",
    ServerError: "See the server's log for this request.",
}

_CODE = re.compile(r"\[cytoserve:([a-z_]+)\]\s*(.*)", re.DOTALL)


def error_from_code(text: str, *, source: str | None, request_id: str | None = None) -> CytoserveClientError | None:
    """Return the error that ``[cytoserve:<code>] sentence`` inside ``text`` names, or None if there is none.

    A code that this release does not know becomes `InvalidInput` with that code: newer servers may refuse more.
    """
    found = _CODE.search(text)
    if found is None:
        return None
    code, sentence = found.group(1), found.group(2).strip()
    kind = _BY_CODE.get(code, InvalidInput)
    return kind(sentence or "refused by the server", code=code, source=source, request_id=request_id)


def error_from_status(
    status: str, details: str, *, source: str | None = None, request_id: str | None = None
) -> CytoserveClientError:
    """Return the error for a gRPC status.

    Parameters
    ----------
    status : str
        Name of the gRPC status code, such as ``"UNAVAILABLE"``.
    details : str
        The server's or the transport's text.
    source, request_id : str, optional
        Carried on the error.
    """
    coded = error_from_code(details, source=source, request_id=request_id)
    if coded is not None:
        return coded
    kind = _BY_STATUS.get(status, ServerError)
    if status == "UNAVAILABLE" and "unknown model" in details and "no available versions" not in details:
        # Triton answers so for a model that is not in its repository; one without versions is on its way out or in.
        kind = ContractMismatch
    remedy = _REMEDY.get(kind, "")
    if status == "DEADLINE_EXCEEDED":
        details = "no answer within the time given"  # gRPC only says "Deadline Exceeded"
    message = f"{details.strip().rstrip('.') or 'no details'} (gRPC {status}). {remedy}".rstrip()
    return kind(message, source=source, request_id=request_id)
