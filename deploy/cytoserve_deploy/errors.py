"""What can go wrong when a server is found, started, stopped or rolled out, as a tree.

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
    |   +-- RepositoryRefused   not what its manifest says
    +-- BadLogFile              the log that was asked for cannot be written
    +-- PortTaken               a port that was asked for is in use
    +-- ServerProblem           the server itself
    |   +-- ServerDied          it ended by itself
    |   +-- ServerNotReady      it did not become ready in time
    |   +-- WarmUpFailed        it is ready by its own word, but the first inference failed
    |   +-- ServerNotStopped    processes were left after stopping
    |   +-- ProbeFailed         one inference was not answered in time, or with nonsense
    +-- RolloutError            `cytoserve deploy`
        +-- ClusterUnreachable  no kubeconfig, or the API server does not answer
        +-- NotAuthenticated    401: the credentials are missing or over
        +-- PermissionDenied    403: this user may not do that
        +-- KServeMissing       the cluster has no InferenceService
        +-- ObjectRefused       the API server, or we, find a value wrong
        +-- ConflictRemains     409 again and again: somebody else writes the same object
        +-- NotDeployed         no such InferenceService, or no such version of it
        +-- VersionTaken        the version is there with other content
        +-- ModeUnknown         nobody says which deployment mode KServe uses
        +-- WrongStep           the step does not fit the state of the roll-out
        +-- NotConfirmed        deleting was not confirmed
        +-- GoldenSetError      the golden set of the installation is damaged
        +-- ChecksFailed        the candidate differs from the running version too much
        +-- NotReadyInTime      the deadline of waiting was over, or waiting is of no use
            +-- NoGpu           no node has the GPU that is asked for
            +-- Unschedulable   no node takes the pod for another reason
            +-- ImagePullFailed the image cannot be pulled
            +-- CrashLoop       the container starts and ends again and again
            +-- ModelNotLoaded  KServe or the storage initializer could not provide the model
            +-- PodsRefused     the cluster refuses to create the pods (quota, Pod Security)
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


class RepositoryRefused(RepositoryError):
    """The model repository is not the one that its manifest describes."""


class BadLogFile(DeployError):
    """The log file given is no regular file, or cannot be written."""


class PortTaken(DeployError):
    """A requested port is in use."""


class ServerProblem(DeployError):
    """The server process misbehaved."""


class ServerDied(ServerProblem):
    """The server ended by itself; the message carries the lines of its log that matter."""


class ServerNotReady(ServerProblem):
    """The server did not become ready in time."""


class WarmUpFailed(ServerProblem):
    """The server says that it is ready, but a first inference failed."""


class ServerNotStopped(ServerProblem):
    """Processes of the server were still there after stopping it."""


class ProbeFailed(ServerProblem):
    """The server did not answer in time, refused, or answered nonsense."""


class RolloutError(DeployError):
    """A step of ``cytoserve deploy`` could not be done."""


class ClusterUnreachable(RolloutError):
    """No usable kubeconfig, or the API server does not answer."""


class NotAuthenticated(RolloutError):
    """The API server does not accept the credentials (401)."""


class PermissionDenied(RolloutError):
    """The API server forbids it (403); the message names the rule that is missing."""


class KServeMissing(RolloutError):
    """The cluster does not know InferenceService: KServe is not installed."""


class ObjectRefused(RolloutError):
    """A value is wrong, by the API server's word or by a rule known here."""


class ConflictRemains(RolloutError):
    """The object kept changing under our hands (409), or is there and belongs to something else."""


class NotDeployed(RolloutError):
    """The named InferenceService, or version of it, is not there."""


class VersionTaken(RolloutError):
    """A version of that name is there with other content; versions are never changed."""


class ModeUnknown(RolloutError):
    """Neither annotation nor status says which deployment mode KServe uses, or it is one that is not supported here."""


class WrongStep(RolloutError):
    """The step does not fit the state of the roll-out."""


class NotConfirmed(RolloutError):
    """Something would be deleted, and the flag that confirms it was not given."""


class GoldenSetError(RolloutError):
    """The golden set's files are missing or were changed."""


class ChecksFailed(RolloutError):
    """The candidate failed the checks before promotion; the message carries the figures."""


class NotReadyInTime(RolloutError):
    """The version is not ready, and the deadline is over or waiting is of no use."""


class NoGpu(NotReadyInTime):
    """No node has a free GPU of the kind that the pod asks for."""


class Unschedulable(NotReadyInTime):
    """No node takes the pod, for a reason other than GPUs."""


class ImagePullFailed(NotReadyInTime):
    """A node cannot pull the image."""


class CrashLoop(NotReadyInTime):
    """A container starts and ends again and again."""


class ModelNotLoaded(NotReadyInTime):
    """KServe, or its storage initializer, could not provide the model."""


class PodsRefused(NotReadyInTime):
    """The cluster refuses to create the pods."""
