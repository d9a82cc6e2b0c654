"""Error codes: what each means, what to do about it, and which status carries it.

The server's and the client's error trees each have one class for a code; a test holds them to it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MARK: Final = "[cytoserve:"
"""How an error of ours begins on the wire: ``[cytoserve:<code>] sentence``. An ensemble puts words before it."""

MESSAGE_BYTES: Final = 2000
"""Longest message on the wire. gRPC carries it in a header, each byte of other alphabets as three, and drops the whole
answer beyond 8 to 16 KiB: a sentence that quotes what the caller sent must not grow with it."""


class ErrorCode(str, Enum):
    """A stable name for programs, ``value``."""

    meaning: str
    remedy: str
    """One sentence each; the remedy is empty where the message says it."""
    triton: str
    """Triton's code under which the server sends it (attribute of ``TritonError``); empty for a code that only the
    client gives."""
    statuses: tuple[str, ...]
    """gRPC statuses that mean this where an answer carries no code of ours."""
    retryable: bool
    """Whether the same call may succeed later without a change."""

    def __new__(
        cls,
        name: str,
        meaning: str,
        remedy: str,
        triton: str = "INVALID_ARG",
        statuses: tuple[str, ...] = (),
        retryable: bool = False,
    ) -> ErrorCode:
        """Make a member whose value is the code on the wire."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning, member.remedy = meaning, remedy
        member.triton, member.statuses, member.retryable = triton, statuses, retryable
        return member

    @property
    def is_servers(self) -> bool:
        """Whether a server may send it."""
        return bool(self.triton)

    EMPTY = "empty", "No bytes at all.", "Send the file's content."
    NOT_AN_IMAGE = (
        "not_an_image",
        "The bytes are of no image format that is accepted.",
        "Send JPEG, PNG, TIFF, WebP or BMP.",
    )
    TRUNCATED = "truncated", "The header is an image's, the pixels end early or are damaged.", "Copy the file again."
    TOO_MANY_BYTES = "too_many_bytes", "The file is larger than `max_file_bytes`.", "Save it compressed."
    TOO_MANY_PIXELS = (
        "too_many_pixels",
        "The image has more than `max_pixels`, or a field covers more than `max_area_um2`.",
        "Send smaller fields.",
    )
    TOO_SMALL = "too_small", "The shorter side is below `min_side`.", "Send the picture at full resolution."
    UNSUPPORTED_MODE = (
        "unsupported_mode",
        "Greyscale, CMYK, 16 bit, real transparency or a file that cannot be read without changing its colours.",
        "Save it as 8-bit RGB.",
    )
    BAD_SCALE = (
        "bad_scale",
        "Micrometres per pixel that are not a plausible, finite, positive number.",
        "Give micrometres per pixel, or 0 for not known.",
    )
    BAD_SHAPE = "bad_shape", "A tensor of the wrong shape, type or content.", "Send what the table of tensors says."
    BAD_PARAMETER = (
        "bad_parameter",
        "A request parameter outside its range.",
        "Give a value of the table of parameters.",
    )
    DEADLINE = (
        "deadline",
        "The time given was not enough, or the caller has gone.",
        "Give a longer timeout, or send fewer images at a time.",
        "CANCELLED",
        ("DEADLINE_EXCEEDED",),
        True,
    )
    UNAVAILABLE = (
        "unavailable",
        "The server is not there, is stopping or overloaded; a request changes nothing, so it may be sent again.",
        "Check the address and that the server runs (`cytoserve serve` starts one).",
        "UNAVAILABLE",
        ("UNAVAILABLE",),
        True,
    )
    INTERNAL = (
        "internal",
        "The service's own failure; nothing that a caller sends may lead to it.",
        "See the server's log for this request.",
        "INTERNAL",
        ("RESOURCE_EXHAUSTED",),
    )
    INVALID_ARGUMENT = (
        "invalid_argument",
        "The server refused the input without a code of ours; its message says why.",
        "",
        "",
        ("INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION"),
    )
    UNREADABLE = "unreadable", "The file is not there, is no regular file, or may not be read.", "Check the path.", ""
    OWN_OVERLAY = "own_overlay", "The image is an annotated picture that this program drew.", "Send the original.", ""
    BAD_ARRAY = (
        "bad_array",
        "The array is not uint8 of shape (H, W, 3), or is outside the limits.",
        "Convert it to 8-bit RGB.",
        "",
    )
    CONFIGURATION = "configuration", "The client was set up in a way that cannot work; the message says why.", "", ""
    CLOSED = "closed", "The client was used after `close()`.", "Open a new client.", ""
    ACCESS_DENIED = (
        "access_denied",
        "Credentials are missing or were refused.",
        "Check the token or the client certificate.",
        "",
        ("UNAUTHENTICATED", "PERMISSION_DENIED"),
    )
    CONTRACT = (
        "contract",
        "The server does not speak this client's contract, or is not the model that was expected.",
        "Check that the address is a CytoServe server of this release.",
        "",
        ("NOT_FOUND", "UNIMPLEMENTED"),
    )
    INVALID_ANSWER = (
        "invalid_answer",
        "The server answered something that must not be passed on: NaN, not normalised, inconsistent.",
        "See the server's log for this request.",
        "",
    )


CODES: Final[dict[str, ErrorCode]] = {code.value: code for code in ErrorCode}
"""Every code by its name on the wire."""


def marked(code: str, sentence: str) -> str:
    """Return an error as it travels.

    >>> marked("empty", "no bytes")
    '[cytoserve:empty] no bytes'
    """
    return f"{MARK}{code}] {sentence}"


def code_in(text: str) -> str:
    """Return the code of a text that begins with `MARK`.

    >>> code_in("[cytoserve:empty] no bytes")
    'empty'
    """
    return text[len(MARK) :].split("]", 1)[0]
