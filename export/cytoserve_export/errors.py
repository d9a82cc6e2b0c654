"""Errors of the export, as a tree; every message names the file or model and the cure.

::

    ExportError
    +-- CheckpointError             the checkpoint cannot be exported as it is
    |   +-- MissingFile
    |   +-- MalformedFile
    |   +-- PickledWeights
    |   +-- NanWeights
    |   +-- UnsupportedArchitecture
    |   +-- WrongClassCount
    |   +-- InconsistentCheckpoint
    |   +-- ShortcutRefused
    +-- GraphError                  the network could not become a plain ONNX graph
    |   +-- UnknownOperator
    |   +-- MissingExternalData
    |   +-- PrecisionRefused
    +-- ParityError                 the graph does not answer what the network answers
    |   +-- SignatureMismatch
    |   +-- NotFiniteOutput
    |   +-- ToleranceExceeded
    |   +-- DecisionChanged
    |   +-- ParityProcessDied
    +-- TargetError             the model repository could not be written, or is not what its manifest says
        +-- UnknownModel
        +-- NoSpace
        +-- MixedWeights
        +-- ManifestMismatch
        +-- EngineError             a TensorRT engine cannot be built or must not be loaded
            +-- TensorRTUnavailable
            +-- EngineBuildFailed
            +-- EngineMismatch
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of every error this package raises on purpose."""


class CheckpointError(ExportError):
    """The checkpoint cannot be exported as it is."""


class MissingFile(CheckpointError):
    """A file or folder of the checkpoint layout (or a folder of cells) is not there."""


class MalformedFile(CheckpointError):
    """A file is there but cannot be read as what its name says."""


class PickledWeights(CheckpointError):
    """Weights in pickle form: loading them would run code, so only safetensors are read."""


class NanWeights(CheckpointError):
    """A weight is NaN or infinite."""


class UnsupportedArchitecture(CheckpointError):
    """A configuration this export does not know how to turn into the contract's graphs."""


class WrongClassCount(CheckpointError):
    """``classes.json``, ``scoring.json`` and the network disagree about the classes."""


class InconsistentCheckpoint(CheckpointError):
    """Two files of one checkpoint disagree about a shape."""


class ShortcutRefused(CheckpointError):
    """Cross-attention should become a constant per class, but is not constant."""


class GraphError(ExportError):
    """The network could not become a plain ONNX graph."""


class UnknownOperator(GraphError):
    """The graph holds an operator outside the standard ONNX set."""


class MissingExternalData(GraphError):
    """An ONNX file names a file with its weights that is not beside it, or is too short."""


class PrecisionRefused(GraphError):
    """A precision that the runtime cannot execute, or that needs calibration cells and got none."""


class ParityError(ExportError):
    """The ONNX graph does not answer what the torch network answers."""


class SignatureMismatch(ParityError):
    """Names, types or axes of a graph differ from its declaration."""


class NotFiniteOutput(ParityError):
    """NaN or infinity in an output; checked before anything is compared."""


class ToleranceExceeded(ParityError):
    """An output differs by more than the tolerance named for its model."""


class DecisionChanged(ParityError):
    """At least one real cell got another class from the graphs than from the networks."""


class ParityProcessDied(ParityError):
    """The process that checks parity ended without an answer (often: out of memory)."""


class TargetError(ExportError):
    """The model repository could not be written, or is not what its manifest says."""


class UnknownModel(TargetError):
    """``--only`` names a model that is not exported."""


class NoSpace(TargetError):
    """Not enough free disk space beside the model repository."""


class MixedWeights(TargetError):
    """Graphs of two different checkpoints would stand side by side."""


class ManifestMismatch(TargetError):
    """A file is missing or is not the one whose hash the manifest holds."""


class EngineError(TargetError):
    """A TensorRT engine cannot be built or must not be loaded."""


class TensorRTUnavailable(EngineError):
    """The TensorRT library, or a GPU, is not on this machine."""


class EngineBuildFailed(EngineError):
    """TensorRT refused the graph or gave no engine."""


class EngineMismatch(EngineError):
    """An engine was built from another graph, for another GPU, or by another TensorRT."""
