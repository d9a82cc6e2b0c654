"""Errors a request can earn, as a tree; each carries the code that travels over the wire.

::

    CytoserveError
    +-- InvalidImage
    |   +-- EmptyImage            empty
    |   +-- NotAnImage            not_an_image
    |   +-- TruncatedImage        truncated
    |   +-- TooManyBytes          too_many_bytes
    |   +-- TooManyPixels         too_many_pixels
    |   +-- TooSmall              too_small
    |   +-- UnsupportedMode       unsupported_mode
    +-- BadScale                  bad_scale
    +-- BadShape                  bad_shape
    +-- BadParameter              bad_parameter
    +-- DeadlineExceeded          deadline
    +-- Unavailable               unavailable
"""

from __future__ import annotations

from typing import ClassVar, Final

WIRE_BYTES: Final = 2000
"""Longest message on the wire. gRPC carries it in a header, each byte of other alphabets as three, and drops the whole
answer beyond 8 to 16 KiB: a sentence that quotes what the caller sent must not grow with it."""


class CytoserveError(ValueError):
    """Base of every error this package raises on purpose; ``code`` names it on the wire."""

    code: ClassVar[str] = "internal"

    def wire(self) -> str:
        """Return the message as it travels: ``[cytoserve:<code>] sentence``, cut to `WIRE_BYTES`."""
        text = f"[cytoserve:{self.code}] {self}"
        encoded = text.encode("utf-8", "replace")
        if len(encoded) <= WIRE_BYTES:
            return text
        return encoded[:WIRE_BYTES].decode("utf-8", "ignore") + " ... (cut)"


class InvalidImage(CytoserveError):
    """The bytes given are not an image this service reads."""

    code = "not_an_image"


class EmptyImage(InvalidImage):
    """No bytes at all."""

    code = "empty"


class NotAnImage(InvalidImage):
    """The bytes are of no image format that is accepted."""

    code = "not_an_image"


class TruncatedImage(InvalidImage):
    """The header is an image's, the pixels end early or are damaged."""

    code = "truncated"


class TooManyBytes(InvalidImage):
    """The encoded file is larger than the limit."""

    code = "too_many_bytes"


class TooManyPixels(InvalidImage):
    """The header announces more pixels than the limit."""

    code = "too_many_pixels"


class TooSmall(InvalidImage):
    """The image is too small to hold a cell."""

    code = "too_small"


class UnsupportedMode(InvalidImage):
    """Greyscale, CMYK, 16 bit or real transparency: converting would invent or lose colour."""

    code = "unsupported_mode"


class BadScale(CytoserveError):
    """Micrometres per pixel that are not a positive, finite, plausible number."""

    code = "bad_scale"


class BadShape(CytoserveError):
    """A tensor of the wrong shape, type or with values that are not finite."""

    code = "bad_shape"


class BadParameter(CytoserveError):
    """A request parameter outside its range."""

    code = "bad_parameter"


class DeadlineExceeded(CytoserveError):
    """The caller's time ran out between two rounds of scoring."""

    code = "deadline"


class Unavailable(CytoserveError):
    """The server is stopping, or a model behind this one cannot take the request now; sending it again is safe."""

    code = "unavailable"
