"""The errors of a request, as a tree; each carries the code that travels over the wire.

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

from typing import ClassVar

from cytoserve_contract.codes import MESSAGE_BYTES, ErrorCode, marked


class CytoserveError(ValueError):
    """Base of every error this package raises on purpose; ``code`` names it on the wire."""

    code: ClassVar[str] = ErrorCode.INTERNAL.value

    def wire(self) -> str:
        """Return the message as it travels: ``[cytoserve:<code>] sentence``, cut to `MESSAGE_BYTES`."""
        text = marked(self.code, str(self))
        encoded = text.encode("utf-8", "replace")
        if len(encoded) <= MESSAGE_BYTES:
            return text
        return encoded[:MESSAGE_BYTES].decode("utf-8", "ignore") + " ... (cut)"


class InvalidImage(CytoserveError):
    """The bytes given are not an image this service reads."""

    code = ErrorCode.NOT_AN_IMAGE.value


class EmptyImage(InvalidImage):
    """No bytes at all."""

    code = ErrorCode.EMPTY.value


class NotAnImage(InvalidImage):
    """The bytes are of no image format that is accepted."""

    code = ErrorCode.NOT_AN_IMAGE.value


class TruncatedImage(InvalidImage):
    """The header is an image's, the pixels end early or are damaged."""

    code = ErrorCode.TRUNCATED.value


class TooManyBytes(InvalidImage):
    """The encoded file is larger than the limit."""

    code = ErrorCode.TOO_MANY_BYTES.value


class TooManyPixels(InvalidImage):
    """The header announces more pixels than the limit."""

    code = ErrorCode.TOO_MANY_PIXELS.value


class TooSmall(InvalidImage):
    """The image is too small to hold a cell."""

    code = ErrorCode.TOO_SMALL.value


class UnsupportedMode(InvalidImage):
    """Greyscale, CMYK, 16 bit or real transparency: converting would invent or lose colour."""

    code = ErrorCode.UNSUPPORTED_MODE.value


class BadScale(CytoserveError):
    """Micrometres per pixel that are not a positive, finite, plausible number."""

    code = ErrorCode.BAD_SCALE.value


class BadShape(CytoserveError):
    """A tensor of the wrong shape, type or with values that are not finite."""

    code = ErrorCode.BAD_SHAPE.value


class BadParameter(CytoserveError):
    """A request parameter outside its range."""

    code = ErrorCode.BAD_PARAMETER.value


class DeadlineExceeded(CytoserveError):
    """The caller's time ran out between two rounds of scoring."""

    code = ErrorCode.DEADLINE.value


class Unavailable(CytoserveError):
    """The server is stopping, or a model behind this one cannot take the request now; sending it again is safe."""

    code = ErrorCode.UNAVAILABLE.value
