"""What can be wrong with a path that the user gave. All are ``OSError``: callers that handle those go on."""

from __future__ import annotations


class FileProblem(OSError):
    """Base of every error that this package raises on purpose; the text names the path and says what to do."""


class NotRegularFile(FileProblem):
    """What was to be read is a named pipe, a device, a socket or a folder; ``kind`` says which."""

    def __init__(self, message: str, kind: str = "no file") -> None:
        super().__init__(message)
        self.kind = kind


class NotWritable(FileProblem):
    """What was to be written cannot be: a folder, read-only, or without a folder to be in."""
