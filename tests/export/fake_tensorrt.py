"""A fake of the module ``tensorrt`` that has the recorded names and takes the recorded arguments, nothing else.

Names and signatures are those read from a real wheel (``tensorrt_signatures.json``): a name the bindings lack, a wrong
number of arguments, a wrong type or a flag of another version raises here as it would there. It also refuses what the
real builder refuses: a file that is no ONNX, an operator its parser lacks, a dynamic input without a profile, shapes
out of order, an engine of another version. Its engines answer through ONNX Runtime, optionally wrongly.
"""

from __future__ import annotations

import ctypes
import enum
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from cytoserve_export.tensorrt_engine import UNSUPPORTED

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_signatures.json").read_text())
VERSIONS = tuple(RECORDED)

_PYTHON: dict[str, Any] = {
    "int": int,
    "typing.SupportsInt": int,
    "str": str,
    "bool": bool,
    "tuple": tuple,
    "tensorrt.Dims": tuple,
    "buffer": bytes,
    "typing_extensions.Buffer": bytes,
}


def _arguments(signature: str) -> list[tuple[str, str, bool]]:
    """Return (name, type, has a default) of a recorded signature, ``self`` left out."""
    inside = re.sub(r"<[^>]*>", "default", signature[signature.index("(") + 1 : signature.rindex(") ->")])
    parts = [part.strip() for part in inside.split(",")][1:]
    told = []
    for part in parts:
        name, _, kind = part.partition(": ")
        kind, default, _ = kind.partition(" = ")
        told.append((name, kind, bool(default)))
    return told


def fits(signature: str, args: tuple[Any, ...]) -> bool:
    """Tell whether positional arguments fit one recorded signature, as pybind11 would."""
    declared = _arguments(signature)
    if len(args) > len(declared) or any(not default for _, _, default in declared[len(args) :]):
        return False
    for value, (_, kind, _) in zip(args, declared, strict=False):
        wanted = _PYTHON.get(kind)
        if wanted is not None and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
            return False
        named = kind.removeprefix("tensorrt.")
        if wanted is None and not any(named in (c.__name__, "I" + c.__name__) for c in type(value).__mro__):
            return False
    return True


class Guarded:
    """Base of the fake's classes: every call and attribute is compared with the record."""

    _members: dict[str, list[str]]
    _kind: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, function in list(vars(cls).items()):
            if inspect.isfunction(function) and (not name.startswith("_") or name == "__init__"):
                setattr(cls, name, cls._checked(name, function))

    @staticmethod
    def _checked(name: str, function: Any) -> Any:
        def call(self: Any, *args: Any) -> Any:
            recorded = self._members.get(f"{self._kind}.{name}")
            if recorded is None:
                raise AttributeError(f"{self._kind} has no {name}")
            if not any(fits(signature, args) for signature in recorded):
                raise TypeError(f"{self._kind}.{name}{args}: incompatible function arguments; {recorded}")
            return function(self, *args)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and f"{self._kind}.{name}" not in self._members:
            raise AttributeError(f"{self._kind} has no attribute {name}")
        object.__setattr__(self, name, value)


def module(version: str, *, skew: float = 0.0, gives_nothing: bool = False) -> Any:
    """Return a fake ``tensorrt`` of a recorded version.

    Parameters
    ----------
    version : str
    skew : float
        Added to the error of class 0 by its engines: enough of it changes decisions.
    gives_nothing : bool
        The builder answers None, as the real one does when it fails.
    """
    record = RECORDED[version]

    class Base(Guarded):
        _members = record["members"]
        _kind = ""

    def flags(name: str) -> Any:
        return enum.IntEnum(name, {flag: at for at, flag in enumerate(record["flags"][name])})

    class Logger(Base):
        _kind = "Logger"
        Severity = flags("Logger")
        ILogger = True

        def __init__(self, severity: Any) -> None:
            pass

    for flag in Logger.Severity:
        setattr(Logger, flag.name, flag)
    Severity = Logger.Severity
    Severity.__name__ = "ILogger.Severity"

    class INetworkDefinition(Base):
        _kind = "INetworkDefinition"
        num_inputs = 0
        _values: Any = ()

        def get_input(self, index: int) -> Any:
            tensor = ITensor()
            tensor.name = self._values[index].name
            return tensor

    class ITensor(Base):
        _kind = "ITensor"
        name = ""

    class ParserError(Base):
        _kind = "ParserError"
        _text = ""

        def desc(self) -> str:
            return self._text

    class OnnxParser(Base):
        _kind = "OnnxParser"
        num_errors = 0

        def __init__(self, network: Any, logger: Any) -> None:
            self._network = network

        def parse_from_file(self, path: str) -> bool:
            try:
                model = onnx.load(path)
            except Exception:
                return self._failed("could not open or parse the file")
            lacking = {n.op_type for n in model.graph.node} & UNSUPPORTED | {
                n.domain for n in model.graph.node if n.domain not in ("", "ai.onnx")
            }
            if lacking:
                return self._failed(f"no importer registered for {sorted(lacking)}")
            self._network._values, self._network._path = model.graph.input, path
            object.__setattr__(self._network, "num_inputs", len(model.graph.input))
            return True

        def _failed(self, text: str) -> bool:
            self._text = text
            object.__setattr__(self, "num_errors", 1)
            return False

        def get_error(self, index: int) -> Any:
            error = ParserError()
            error._text = self._text
            return error

    class IOptimizationProfile(Base):
        _kind = "IOptimizationProfile"

        def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
            self.__dict__.setdefault("_shapes", {})[name] = (least, best, most)

    class ITimingCache(Base):
        _kind = "ITimingCache"
        _raw = b""

        def serialize(self) -> Any:
            return self._raw + b"+timed"

    class IBuilderConfig(Base):
        _kind = "IBuilderConfig"
        builder_optimization_level = 3
        progress_monitor: Any = None
        _profile: Any = None
        _cache: Any = None
        _flags: frozenset[str] = frozenset()

        def set_flag(self, flag: Any) -> None:
            self._flags = self._flags | {flag.name}

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            assert size > 0

        def add_optimization_profile(self, profile: Any) -> int:
            for least, best, most in profile._shapes.values():
                if not len(least) == len(best) == len(most) or not list(least) <= list(best) <= list(most):
                    return -1
            self._profile = profile
            return 0

        def create_timing_cache(self, raw: Any) -> Any:
            cache = ITimingCache()
            cache._raw = raw
            return cache

        def set_timing_cache(self, cache: Any, ignore: bool) -> bool:
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

    class Builder(Base):
        _kind = "Builder"

        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, chosen: int) -> Any:
            strongly = 1 << int(flags("NetworkDefinitionCreationFlag").STRONGLY_TYPED)
            assert chosen == strongly, "only strongly typed networks exist in every version"
            return INetworkDefinition()

        def create_builder_config(self) -> Any:
            return IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            if gives_nothing or not hasattr(network, "_path"):
                return None
            shapes = config._profile._shapes if config._profile else {}
            for value in network._values:
                dims = value.type.tensor_type.shape.dim
                if any(dim.WhichOneof("value") == "dim_param" for dim in dims) and value.name not in shapes:
                    return None
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 2)
            assert monitor.step_complete("Building", 0)
            monitor.phase_finish("Building")
            told = {"path": network._path, "version": version, "host_code": "VERSION_COMPATIBLE" in config._flags}
            return bytearray(json.dumps({**told, "shapes": shapes}).encode())

    class IProgressMonitor(Base):
        _kind = "IProgressMonitor"

        def __init__(self) -> None:
            pass

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        def __init_subclass__(cls, **kwargs: Any) -> None:
            """A subclass is the caller's own; its three methods must be those that the bindings call."""
            for member in ("phase_start", "step_complete", "phase_finish"):
                names = [name for name, _, _ in _arguments(record["members"][f"IProgressMonitor.{member}"][0])]
                assert list(inspect.signature(getattr(cls, member)).parameters)[1:] == names

    class IExecutionContext(Base):
        _kind = "IExecutionContext"

        def set_input_shape(self, name: str, shape: Any) -> bool:
            least, _, most = self._told["shapes"][name]
            self.__dict__.setdefault("_shapes", {})[name] = shape
            return all(low <= dim <= high for low, dim, high in zip(least, shape, most, strict=True))

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.__dict__.setdefault("_addresses", {})[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            kinds = {"LATENT": np.float32, "PROBE": np.int32, "CLASS": np.int32}
            feed = {n: _at(self._addresses[n], self._shapes[n], kinds[n]) for n in self._shapes}
            answer = ort.InferenceSession(self._told["path"]).run(["ERROR"], feed)[0]
            first = feed["CLASS"] == 0 if "CLASS" in feed else np.arange(answer.shape[1]) == 0
            answer = answer + skew * first
            _at(self._addresses["ERROR"], answer.shape, np.float32)[...] = answer
            return True

    class ICudaEngine(Base):
        _kind = "ICudaEngine"

        def create_execution_context(self) -> Any:
            context = IExecutionContext()
            context._told = self._told
            return context

    class Runtime(Base):
        _kind = "Runtime"
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, raw: Any) -> Any:
            told = json.loads(raw)
            if told["version"] != version or (told["host_code"] and not self.engine_host_code_allowed):
                return None
            engine = ICudaEngine()
            engine._told = told
            return engine

    return SimpleNamespace(
        __version__=version,
        Logger=Logger,
        Builder=Builder,
        OnnxParser=OnnxParser,
        Runtime=Runtime,
        IProgressMonitor=IProgressMonitor,
        NetworkDefinitionCreationFlag=flags("NetworkDefinitionCreationFlag"),
        BuilderFlag=flags("BuilderFlag"),
        MemoryPoolType=flags("MemoryPoolType"),
    )


def _at(address: int, shape: Any, kind: Any) -> Any:
    """Return the array that lies at an address of this process."""
    count = int(np.prod(shape))
    raw = (ctypes.c_char * (count * np.dtype(kind).itemsize)).from_address(address)
    return np.frombuffer(raw, kind, count).reshape(tuple(shape))
