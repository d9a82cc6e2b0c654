"""What every Python model of the repository does alike: tensors in, one call, tensors or a typed error out.

Triton's ``triton_python_backend_utils`` exists only inside a Triton process, so it is imported when a model runs,
not when this module is imported.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from cytoserve_contract.admission_table import RESERVED, ROUTINE, STAT
from cytoserve_contract.codes import CODES, marked
from cytoserve_contract.models import MODELS, STAT_CELL_DECODER, STAT_SCORER
from cytoserve_contract.names import ENV_ADMISSION_FILE, ENV_CALIBRATION, ENV_DRAIN_FILE, ENV_MAX_WAIT_S
from cytoserve_contract.parameters import PARAMETERS, ParameterSpec
from numpy.typing import NDArray

from cytoserve_scoring.errors import BadParameter, BadShape, CytoserveError, DeadlineExceeded, Unavailable
from cytoserve_scoring.serving.admission import Admission
from cytoserve_scoring.serving.metrics import CANCELLED, REFUSED, Meter, error_codes
from cytoserve_scoring.serving.outputs import Tensors, encode
from cytoserve_scoring.serving.sites import chosen, names

NO_DEADLINE: Final = float("inf")

NOT_NOW: Final = ("server not ready", "server is stopping", "no available versions", "exceeds maximum queue size")
"""What Triton says of a model that is being stopped or unloaded, or whose queue is full."""

DEAD: Final = "is not healthy"
"""In what it says of a model whose process has died (``Stub process 'denoiser_0_0' is not healthy``)."""

GIVE_WAY_S: Final = 0.5
"""Longest pause of routine work at one place for stat cells: it goes on, slowly, however many of them come."""
GLANCE_S: Final = 0.002
"""How often it looks whether they are done."""

NO_ROOM: Final = "shared memory pool"
"""In what Triton's Python backend says when ``/dev/shm`` is full: ``Failed to increase the shared memory pool``."""


RESERVED_MODELS: Final = frozenset((STAT_CELL_DECODER.name, STAT_SCORER.name))


class TritonModel:
    """Base of a model of Triton's Python backend.

    A subclass implements `setup` (load what it needs) and `answer` (one request). Errors of the tree in `errors`
    become Triton errors that carry their code; any other exception becomes INTERNAL with its type only, because a
    message might quote the patient's picture, and is logged.
    """

    name: str
    instance: str
    """Name of this process of the model, one of several that share the requests."""
    folder: Path
    """The model's version folder, where files beside ``model.py`` lie."""
    meter: Meter
    """What counts for Prometheus; it never fails a request."""
    admission: Admission | None = None
    """What is under way in this server; None in a step that neither begins nor ends a request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Take Triton's arguments, then `setup`."""
        self.name = args["model_name"]
        self.instance = args["model_instance_name"]
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.config: dict[str, Any] = json.loads(args["model_config"])
        self.meter = _meter(self.name)
        if takes_deadline(self.name):
            self.admission = _admission(0.0)
        self.setup()

    def finalize(self) -> None:
        """Release what `initialize` made (Triton calls this when it unloads the model)."""
        self.meter.close()

    def setup(self) -> None:
        """Load what the model needs; called once."""

    def answer(self, tensors: Tensors, request: Request) -> object:
        """Answer one request.

        Parameters
        ----------
        tensors : dict of str to ndarray
            The inputs by name; BYTES arrive as arrays of ``bytes`` objects.
        request : Request
            Parameters, deadline and cancellation.

        Returns
        -------
        object : what `cytoserve_scoring.serving.outputs.encode` makes this model's declared outputs of.
        """
        raise NotImplementedError

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself (Triton's entry point)."""
        return [self._respond(Request(request)) for request in requests]

    def _respond(self, request: Request) -> Any:
        import triton_python_backend_utils as pb_utils

        codes = pb_utils.TritonError
        try:
            tensors = request.tensors()
            try:
                outputs = encode(MODELS[self.name], self.answer(complete(self.name, tensors), request))
            finally:
                self.ended(tensors)
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])
        except Exception as error:
            known = error if isinstance(error, CytoserveError) else no_room(self.name, str(error))
            if known is not None:
                self.meter.refused(known, request.is_cancelled())
                return pb_utils.InferenceResponse(error=codes(known.wire(), getattr(codes, CODES[known.code].triton)))
            self.meter.refused(error)
            pb_utils.Logger.log_error(f"{self.name}: {type(error).__name__} {_where(error)}")
            text = f"{self.name} failed with {type(error).__name__}; see the server's log"
            return pb_utils.InferenceResponse(error=codes(marked(CytoserveError.code, text), codes.INTERNAL))

    @property
    def is_reserved(self) -> bool:
        """Whether this is a model of the lane that no routine request enters."""
        return self.name in RESERVED_MODELS

    def give_way(self) -> None:
        """Pause, as a model that serves all, while stat cells of the reserved lane are under way.

        They share the processor, and the denoiser, with what runs already. Called between two cells, or two calls.
        """
        if self.admission is None or self.is_reserved:
            return
        until = time.monotonic() + GIVE_WAY_S
        while self.admission.is_stat_waiting() and time.monotonic() < until:
            time.sleep(GLANCE_S)

    def ended(self, tensors: Tensors) -> None:
        """Note, in the last step of an ensemble, that the request of these inputs has ended, however it did."""
        if self.admission is not None and (sent := tensors.get("DEADLINE")) is not None and sent.size == 1:
            self.admission.leave(float(sent.reshape(-1)[0]))


class FirstStep(TritonModel):
    """Base of a model that an ensemble begins with: what needs no picture to be refused is refused before any work."""

    def setup(self) -> None:
        """Read the names of the sites, and how long a request may wait."""
        self._sites = names(os.environ.get(ENV_CALIBRATION))
        configured = self.config["parameters"]["max_wait_s"]["string_value"]
        self.admission = _admission(float(os.environ.get(ENV_MAX_WAIT_S) or configured))

    @contextmanager
    def admitted(self, request: Request, units: float) -> Iterator[tuple[float, float]]:
        """Let a request in for this step: yield when it is due, as `Request.deadline`, and its ticket.

        The ticket is the output ``DEADLINE``. It is given back where this step fails; else the last step does that.

        Raises
        ------
        BadParameter, DeadlineExceeded, Unavailable
            Also where it names a site that is not served, or where ``units`` of work cannot be done in time.
        """
        assert self.admission is not None
        deadline = request.deadline()
        chosen(request.parameter("site"), self._sites)
        lane = RESERVED if self.is_reserved else STAT if request.parameter("stat") else ROUTINE
        ticket = self.admission.enter(units, deadline, lane)
        try:
            yield deadline, ticket
        except BaseException:
            self.admission.leave(ticket)
            raise


class Request:
    """One request: its tensors, its parameters, and how much time is left for it.

    Parameters
    ----------
    raw : pb_utils.InferenceRequest
        Triton's request.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        text = raw.parameters()
        self.parameters: dict[str, Any] = json.loads(text) if text else {}

    def tensors(self) -> Tensors:
        """Return the inputs by name."""
        return {tensor.name(): tensor.as_numpy() for tensor in self._raw.inputs()}

    def parameter(self, name: str) -> Any:
        """Return a request parameter of the contract, of the type of its kind, or None if it was not sent.

        Raises
        ------
        BadParameter
            If it is not of its kind and range.
        """
        value = self.parameters.get(name)
        if value is None:
            return None
        spec = PARAMETERS[name]
        if spec.kind == "name":
            return _name(spec, value)
        return _names(name, value) if spec.kind == "names" else _number(spec, value)

    def deadline(self) -> float:
        """Return the moment this request is due on this machine's monotonic clock, seconds; infinite if not given.

        The parameter ``deadline_ms`` counts from the arrival of the request at the ensemble's first step, which is
        why the first step turns it into a moment and hands that on as the tensor ``DEADLINE``. Only a first step
        calls this, so it also refuses requests while the server is about to stop.

        Raises
        ------
        BadParameter, DeadlineExceeded, Unavailable
        """
        drain = os.environ.get(ENV_DRAIN_FILE)
        if drain and os.path.exists(drain):
            raise Unavailable("the server is stopping and begins no new request; send it again")
        sent = self.parameters.get("deadline_ms")
        if sent is None:
            return NO_DEADLINE
        left = _number(PARAMETERS["deadline_ms"], sent)
        if left <= 0:
            raise DeadlineExceeded("the time given for this request was over on arrival")
        return time.monotonic() + left / 1000.0

    def is_cancelled(self) -> bool:
        """Return True if the caller has gone; only the model that was called directly sees this."""
        return bool(self._raw.is_cancelled())

    def check(self, deadline: float) -> None:
        """Raise `DeadlineExceeded` if the moment has passed or the caller has cancelled."""
        if time.monotonic() > deadline:
            raise DeadlineExceeded("the time given for this request is over; send fewer cells or allow more time")
        if self.is_cancelled():
            raise DeadlineExceeded("the caller cancelled this request")


def _number(spec: ParameterSpec, value: Any) -> int | float:
    """Return a parameter sent as a number or its text, but no text that only Python reads (``1_0``, other digits)."""
    whole = spec.kind == "integer"
    try:
        if isinstance(value, bool) or (whole and not isinstance(value, (int, str))):
            raise ValueError
        if isinstance(value, str) and (not value.isascii() or "_" in value):
            raise ValueError
        number = int(value) if whole else float(value)
    except (TypeError, ValueError, OverflowError):
        kind = "an integer" if whole else "a number"
        raise BadParameter(f"{spec.name} must be {kind} from {spec.low} to {spec.high}") from None
    if not spec.low <= number <= spec.high:
        raise BadParameter(f"{spec.name} must be from {spec.low} to {spec.high}, it is {number}")
    return number


def _name(spec: ParameterSpec, value: Any) -> str:
    if not spec.is_name(value):
        raise BadParameter(f"{spec.name} must be a text of {spec.low} to {spec.high} printable characters")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    found = tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else ()
    if not found:
        raise BadParameter(f"{name} must be names joined by commas")
    return found


def takes_deadline(model: str) -> bool:
    """Return whether a model ends what a first step began: the moment that step made is among its inputs."""
    return any(spec.name == "DEADLINE" for spec in MODELS[model].inputs)


def _admission(max_wait_s: float) -> Admission:
    """Return what this server has under way; where its file cannot be used, everything is let in, which is logged."""
    import triton_python_backend_utils as pb_utils

    file = os.environ.get(ENV_ADMISSION_FILE)
    try:
        return Admission(file, max_wait_s)
    except (OSError, ValueError) as error:
        pb_utils.Logger.log_error(f"every request is let in, whatever waits: {type(error).__name__} at {file}")
        return Admission(None, max_wait_s)


def _meter(model: str) -> Meter:
    """Return what counts for a model; a failure of it is logged once."""
    import triton_python_backend_utils as pb_utils

    meter = Meter(model, pb_utils, pb_utils.Logger.log_warn)
    meter.prepare(REFUSED, [(model, code) for code in (*error_codes(), CANCELLED)])
    return meter


def complete(model: str, tensors: Tensors) -> Tensors:
    """Return the inputs of a model if all that are required are there.

    Triton 2.51 only counts them: an optional input passes for a required one that is missing.

    Raises
    ------
    BadShape
        One is missing.
    """
    missing = [spec.name for spec in MODELS[model].inputs if not spec.optional and spec.name not in tensors]
    if missing:
        raise BadShape(f"{model} needs {', '.join(missing)}, which the request does not have")
    return tensors


def micrometres(tensor: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return `count` scales from an ``UM_PER_PIXEL`` tensor that has one value for all or one for each.

    Raises
    ------
    BadShape
        If it has another number of values.
    """
    if tensor.size not in (1, count):
        raise BadShape(f"UM_PER_PIXEL must have 1 value or one for each of the {count} images, it has {tensor.size}")
    return np.broadcast_to(tensor.reshape(-1), (count,))


def moment(tensor: NDArray[np.float64] | None) -> float | None:
    """Return the moment that a ``DEADLINE`` tensor holds, or None if none was sent; no deadline is infinite.

    Raises
    ------
    BadShape
        If it is not one number.
    """
    if tensor is None:
        return None
    if tensor.size != 1:
        raise BadShape(f"DEADLINE must be one number, it has {tensor.size}")
    value = float(tensor.reshape(-1)[0])
    return value if value >= 0 else NO_DEADLINE


def no_room(model: str, text: str) -> Unavailable | None:
    """Return what to raise where a text of Triton says that there is no shared memory left; None where it does not."""
    if NO_ROOM not in text.lower():
        return None
    return Unavailable(f"{model} has no shared memory left (/dev/shm is full); send it again later, or fewer at a time")


def refused_by_callee(model: str, error: Any, codes: Any) -> Exception:
    """Return what to raise for the ``TritonError`` of a called model; ``codes`` is that class, which has the codes."""
    text = error.message().lower()
    full = no_room(model, text)
    if full is not None:
        return full
    if DEAD in text:
        return Unavailable(f"{model} {DEAD}: its process has died, and the server is stopped for it; send it again")
    # by its text too: Triton 2.51 hands a model's UNAVAILABLE to the model that called it as INTERNAL
    if error.code() == codes.UNAVAILABLE or any(mark in text for mark in NOT_NOW):
        return Unavailable(f"{model} takes no request now: the server is stopping or overloaded; send it again")
    return RuntimeError(f"{model}: {error.message()}")


def _where(error: BaseException) -> str:
    """Return the files and lines an exception came through, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return "at " + " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
