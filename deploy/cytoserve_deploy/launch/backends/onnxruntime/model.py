"""Triton backend ``onnxruntime`` in Python, for servers without NVIDIA's C++ one.

Serves every model whose configuration says ``backend: "onnxruntime"`` and whose version folder holds
``model.onnx`` (with its external data, if any) on the ``onnxruntime`` wheel. The same model repository runs
unchanged on the native backend. What is honoured of the configuration: ``max_batch_size``, ``input``, ``output``,
``dynamic_batching`` (Triton does it; the requests of one batch become one run here) and the parameters
``intra_op_thread_count`` and ``inter_op_thread_count``. Tensors of strings are not served.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cytoserve_contract import telemetry
from cytoserve_contract.codes import ErrorCode, marked

# before onnxruntime: also where this backend is used by a tritonserver that our launcher did not start
telemetry.switch_off()

import onnxruntime  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

Tensors = dict[str, NDArray[Any]]

ENV_THREADS = "CYTOSERVE_ONNX_THREADS"

SHAPE_ERRORS = ("Fail", "RuntimeException")
MISFIT = re.compile(r"shape|dimension|\baxis\b", re.IGNORECASE)
"""Kinds and words of ONNX Runtime for tensors whose shapes do not go together inside the graph."""


class TritonPythonModel:
    """One ONNX model, on the CPU."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Return the configuration as it is: it is always written out."""
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph and check it against the configuration.

        Parameters
        ----------
        args : dict of str to str
            As Triton gives them: ``model_config`` (JSON), ``model_repository``, ``model_version``, ``model_name``.
        """
        config = json.loads(args["model_config"])
        self.name = args["model_name"]
        self.batched = int(config.get("max_batch_size", 0)) > 0
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        # dimensions other than the rows that the configuration leaves to the caller
        self.free = any(-1 in entry["dims"][0 if self.batched else 1 :] for entry in _numbers(config["input"]))
        self.output_config = {entry["name"]: entry for entry in config["output"]}
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(
            str(path), _session_options(config.get("parameters", {})), providers=["CPUExecutionProvider"]
        )
        _check_signature(self.name, config, self.session)
        self.run_options = onnxruntime.RunOptions()
        # activations of a large field would otherwise stay allocated for good
        self.run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one batch with one run of the graph.

        If the joint run fails, each request is run by itself, so that one bad request does not fail its neighbours.
        """
        if self.batched and len(requests) > 1:
            try:
                return self._answer_together(requests)
            except Exception as error:
                pb_utils.Logger.log_warn(f"{self.name}: joint run of {len(requests)} requests failed: {_short(error)}")
        return [self._answer_alone(request) for request in requests]

    def _answer_together(self, requests: list[Any]) -> list[Any]:
        feeds = [self._read(request) for request in requests]
        joint = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        results = self._run(joint)
        ends = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])
        responses = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            part = {name: value[start:end] for name, value in results.items()}
            responses.append(self._response(part))
        return responses

    def _answer_alone(self, request: Any) -> Any:
        feed: Tensors = {}
        try:
            feed = self._read(request)
            return self._response(self._run(feed))
        except Exception as error:
            # Triton checked names, types and shapes; what ONNX Runtime still calls an invalid argument is a value
            # (such as an index beyond a table), which is the caller's
            invalid = type(error).__name__ == "InvalidArgument" or "out of data bounds" in str(error)
            text = f"{self.name}: {_short(error)}"
            if self.free and type(error).__name__ in SHAPE_ERRORS and MISFIT.search(str(error)):
                # the configuration leaves a dimension open and the graph has its own idea of it (a multiple of 32)
                invalid = True
                shapes = ", ".join(f"{name} {value.shape}" for name, value in feed.items())
                text = marked(ErrorCode.BAD_SHAPE.value, f"{self.name} cannot take {shapes}: {_short(error)}")
            code = pb_utils.TritonError.INVALID_ARG if invalid else pb_utils.TritonError.INTERNAL
            pb_utils.Logger.log_error(f"{self.name}: {_short(error)}")
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))

    def _read(self, request: Any) -> Tensors:
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}

    def _run(self, feed: Tensors) -> Tensors:
        rows = len(feed[self.inputs[0]])
        if rows == 0:
            empty = self._empty()
            if empty is not None:
                return empty
        values = self.session.run(self.outputs, feed, self.run_options)
        return dict(zip(self.outputs, values, strict=True))

    def _empty(self) -> Tensors | None:
        """Return outputs of zero rows, or None where the configuration does not fix their other dimensions."""
        outputs = {}
        for name, entry in self.output_config.items():
            dims = [int(d) for d in entry["dims"]]
            rest = dims if self.batched else dims[1:]
            if -1 in rest or (not self.batched and dims[:1] != [-1]):
                return None
            outputs[name] = np.empty((0, *rest), pb_utils.triton_string_to_numpy(entry["data_type"]))
        return outputs

    @staticmethod
    def _response(results: Tensors) -> Any:
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in results.items()])


def _numbers(entries: list[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Return the dimensions of the configuration's tensors as numbers; Triton writes them as text."""
    return [{"dims": [int(d) for d in entry["dims"]]} for entry in entries]


def _session_options(parameters: Mapping[str, Any]) -> Any:
    """Return session options from the configuration's parameters, the environment and the machine."""

    def number(key: str, default: int) -> int:
        value = parameters.get(key, {}).get("string_value", "")
        return int(value) if value else default

    options = onnxruntime.SessionOptions()
    threads = int(os.environ.get(ENV_THREADS) or len(os.sched_getaffinity(0)))
    options.intra_op_num_threads = number("intra_op_thread_count", threads)
    options.inter_op_num_threads = number("inter_op_thread_count", 1)
    # several sessions share the machine: threads that wait must not burn what the others need
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _check_signature(name: str, config: Mapping[str, Any], session: Any) -> None:
    """Raise if the configuration names a tensor the graph does not have."""
    for kind, entries, nodes in (
        ("input", config["input"], session.get_inputs()),
        ("output", config["output"], session.get_outputs()),
    ):
        known = {node.name for node in nodes}
        for entry in entries:
            if entry["data_type"] == "TYPE_STRING":
                raise pb_utils.TritonModelException(f"{name}: {entry['name']} is a string tensor; not served")
            if entry["name"] not in known:
                raise pb_utils.TritonModelException(
                    f"{name}: the graph has no {kind} {entry['name']}; it has {', '.join(sorted(known))}"
                )


def _short(error: Exception) -> str:
    """Return the first 300 characters of an error's message; ONNX Runtime's hold shapes and names, no values."""
    return " ".join(str(error).split())[:300]
