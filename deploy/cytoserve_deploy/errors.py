"""What can go wrong when the local server is found, started or stopped, as a tree.

::

    DeployError
    +-- UnsupportedPlatform     not x86-64 Linux with glibc 2.35 or newer: use the container
    +-- MissingComponent        a part of the server is not installed
    |   +-- MissingServer       the wheel nvidia-pytriton
    |   +-- MissingStub         no Python backend stub for this Python
    |   +-- MissingLibpython    no shared libpython for the stub
    +-- RepositoryError         the model repository
    |   +-- MissingRepository   not found
    |   +-- IncompleteRepository  found, but models lack their files
    +-- PortTaken               a port that was asked for is in use
    +-- ServerError             the server itself
        +-- ServerDied          it ended by itself
        +-- ServerNotReady      it did not become ready in time
        +-- WarmUpFailed        it is ready by its own word, but the first inference failed
        +-- ServerNotStopped    processes were left after stopping
"""

from __future__ import annotations


class DeployError(RuntimeError):
    """Base of every error of this package; the message says what to do."""


class UnsupportedPlatform(DeployError):
    """The bundled server does not run here; the container does."""


class MissingComponent(DeployError):
    """Something the local server needs is not installed."""


class MissingServer(MissingComponent):
    """The wheel that carries ``tritonserver`` is not installed."""


class MissingStub(MissingComponent):
    """The wheel has no Python backend stub for the running Python."""


class MissingLibpython(MissingComponent):
    """The shared library of the running Python, which the stub is linked to, was not found."""


class RepositoryError(DeployError):
    """The model repository cannot be served."""


class MissingRepository(RepositoryError):
    """No model repository was found."""


class IncompleteRepository(RepositoryError):
    """A model of the repository lacks files."""


class PortTaken(DeployError):
    """A port that was asked for is in use."""


class ServerError(DeployError):
    """The server process misbehaved."""


class ServerDied(ServerError):
    """The server ended by itself; the message carries the lines of its log that matter."""


class ServerNotReady(ServerError):
    """The server did not become ready in time."""


class WarmUpFailed(ServerError):
    """The server says that it is ready, but a first inference failed."""


class ServerNotStopped(ServerError):
    """Processes of the server were still there after stopping it."""
