"""What can go wrong when a result leaves in a hospital's format.

::

    ReportFormatError
    ├── IdentifierRefused    the sample's name or the patient's number does not fit the format
    ├── LibraryMissing       the format needs an extra that is not installed
    ├── NotAMessage          what was to be sent is not one HL7 message
    ├── UnusableAddress      where it was to be sent is no HOST:PORT
    └── DeliveryFailed
        ├── PeerUnreachable  nobody listens, or the connection broke before an answer
        ├── NotAcknowledged  the peer took the message and gave no acknowledgement in time
        └── MessageRefused   the peer answered AE or AR (CE, CR), or about another message
"""

from __future__ import annotations


class ReportFormatError(Exception):
    """Base of every error of this package; the text says what to do."""


class IdentifierRefused(ReportFormatError):
    """A name or number is too long for a format, or holds a character that the format cannot carry."""


class LibraryMissing(ReportFormatError):
    """A format is written by a library that is not installed."""


class NotAMessage(ReportFormatError):
    """A file to be sent is not one HL7 v2 message."""


class UnusableAddress(ReportFormatError):
    """The address of a receiver is no ``HOST:PORT``."""


class DeliveryFailed(ReportFormatError):
    """A message was not delivered; whether the peer has it is unknown unless the error says so."""


class PeerUnreachable(DeliveryFailed):
    """Nobody listens at the address, or every connection broke before an answer."""


class NotAcknowledged(DeliveryFailed):
    """The peer took the message and gave no acknowledgement in the time allowed."""


class MessageRefused(DeliveryFailed):
    """The peer has the message and did not accept it.

    Attributes
    ----------
    acknowledgement : str
        MSA-1 of its answer: ``AE``, ``AR``, ``CE`` or ``CR``.
    """

    def __init__(self, message: str, acknowledgement: str) -> None:
        super().__init__(message)
        self.acknowledgement = acknowledgement
