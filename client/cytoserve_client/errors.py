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
"""

from __future__ import annotations

import re
from functools import partial
from typing import ClassVar, Final

from cytoserve_contract.codes import CODES, MARK, ErrorCode


class CytoserveClientError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    message : str
        What happened and what to do about it, without the prefix of ``str(error)``.
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

    def __init_subclass__(cls, *, code: ErrorCode | None = None) -> None:
        if code is not None:
            cls.default_code, cls.default_retryable = code.value, code.retryable

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
        named = {name: getattr(self, name) for name in ("code", "source", "request_id", "retryable")}
        return partial(type(self), **named), (self.message,)


class ConfigurationError(CytoserveClientError, code=ErrorCode.CONFIGURATION):
    """The client was set up in a way that cannot work."""


class ClientClosed(CytoserveClientError, code=ErrorCode.CLOSED):
    """The client was used after ``close()``, or closed while the call was under way."""


class InvalidInput(CytoserveClientError, code=ErrorCode.INVALID_ARGUMENT):
    """The caller's input was refused; sending it again cannot help."""


class InvalidImage(InvalidInput, code=ErrorCode.NOT_AN_IMAGE):
    """The image was refused."""


class UnreadableFile(InvalidImage, code=ErrorCode.UNREADABLE):
    """The file is not there, is no regular file (a folder, a named pipe, a device), or may not be read."""


class OwnOverlay(InvalidImage, code=ErrorCode.OWN_OVERLAY):
    """The image is an annotated picture that this program drew, not a photograph."""


class InvalidArray(InvalidImage, code=ErrorCode.BAD_ARRAY):
    """The array is not uint8 of shape (H, W, 3), or is outside the size limits."""


class EmptyImage(InvalidImage, code=ErrorCode.EMPTY):
    """No bytes at all."""


class NotAnImage(InvalidImage, code=ErrorCode.NOT_AN_IMAGE):
    """The bytes are of no image format that the service accepts."""


class TruncatedImage(InvalidImage, code=ErrorCode.TRUNCATED):
    """The header is an image's; the pixels end early or are damaged."""


class TooManyBytes(InvalidImage, code=ErrorCode.TOO_MANY_BYTES):
    """The encoded file is larger than the limit."""


class TooManyPixels(InvalidImage, code=ErrorCode.TOO_MANY_PIXELS):
    """The image has more pixels than the limit."""


class TooSmall(InvalidImage, code=ErrorCode.TOO_SMALL):
    """The image is too small to hold a cell."""


class UnsupportedMode(InvalidImage, code=ErrorCode.UNSUPPORTED_MODE):
    """Greyscale, CMYK, 16 bit or real transparency: converting it would invent or lose colour."""


class BadScale(InvalidInput, code=ErrorCode.BAD_SCALE):
    """Micrometres per pixel that are not a positive, finite, plausible number."""


class BadShape(InvalidInput, code=ErrorCode.BAD_SHAPE):
    """A tensor of the wrong shape or type."""


class BadParameter(InvalidInput, code=ErrorCode.BAD_PARAMETER):
    """A request parameter outside its range."""


class ServerUnavailable(CytoserveClientError, code=ErrorCode.UNAVAILABLE):
    """The server is not there, is stopping, went away during the call, or its queue is full."""


class DeadlineExceeded(CytoserveClientError, code=ErrorCode.DEADLINE):
    """The time given was not enough."""


class AccessDenied(CytoserveClientError, code=ErrorCode.ACCESS_DENIED):
    """Credentials are missing or were refused."""


class ContractMismatch(CytoserveClientError, code=ErrorCode.CONTRACT):
    """The server does not speak this client's contract: model missing, other tensors, other classes."""


class InvalidAnswer(ContractMismatch, code=ErrorCode.INVALID_ANSWER):
    """The server answered something that must not be passed on: NaN, not normalised, inconsistent."""


class ServerError(CytoserveClientError, code=ErrorCode.INTERNAL):
    """The server failed; the input is not known to be at fault."""


def concerns_all(error: CytoserveClientError) -> bool:
    """Return whether an error ends a whole call: the other images of a list would meet the same."""
    if isinstance(error, InvalidAnswer):
        return False
    return isinstance(error, (ContractMismatch, ClientClosed, AccessDenied))


def _by_code(kind: type[CytoserveClientError]) -> dict[str, type[CytoserveClientError]]:
    """Return the class of each code: the most exact one, where a class above has the same code."""
    found = {kind.default_code: kind}
    for child in kind.__subclasses__():
        found |= _by_code(child)
    return found


BY_CODE: Final = _by_code(CytoserveClientError)
"""The class of every code."""

_BY_STATUS: Final = {status: BY_CODE[code.value] for code in ErrorCode for status in code.statuses}

_CODE = re.compile(re.escape(MARK) + r"([a-z_]+)\]\s*(.*)", re.DOTALL)


_NOT_THE_REQUESTS_FAULT: Final = ("is not healthy", "shared memory pool")
"""What Triton's Python backend says, under INTERNAL, of a model's process that has died (the server is stopped for it),
and of a full ``/dev/shm``. Both pass: the same call may succeed later."""


def error_from_code(text: str, *, source: str | None, request_id: str | None = None) -> CytoserveClientError | None:
    """Return the error that ``[cytoserve:<code>] sentence`` inside ``text`` names, or None if there is none.

    A code that this release does not know becomes `InvalidInput` with that code: newer servers may refuse more.
    """
    found = _CODE.search(text)
    if found is None:
        return None
    code, sentence = found.group(1), found.group(2).strip()
    kind = BY_CODE[code] if code in CODES and CODES[code].is_servers else InvalidInput
    return kind(sentence or "refused by the server", code=code, source=source, request_id=request_id)


def error_from_status(
    status: str, details: str, *, source: str | None = None, request_id: str | None = None
) -> CytoserveClientError:
    """Return the error for the name of a gRPC status code, such as ``"UNAVAILABLE"``, and the text it came with."""
    coded = error_from_code(details, source=source, request_id=request_id)
    if coded is not None:
        return coded
    kind = _BY_STATUS.get(status, ServerError)
    if "no available versions" in details:
        # The model is on its way out or in; Triton says so under UNAVAILABLE or, while it stops, under NOT_FOUND.
        kind = ServerUnavailable
    elif any(mark in details for mark in _NOT_THE_REQUESTS_FAULT):
        kind = ServerUnavailable
    elif status == "UNAVAILABLE" and "unknown model" in details:
        # Triton answers so for a model that is not in its repository.
        kind = ContractMismatch
    remedy = CODES[kind.default_code].remedy
    if status == "DEADLINE_EXCEEDED":
        details = "no answer within the time given"  # gRPC only says "Deadline Exceeded"
    message = f"{details.strip().rstrip('.') or 'no details'} (gRPC {status}). {remedy}".rstrip()
    return kind(message, source=source, request_id=request_id)
