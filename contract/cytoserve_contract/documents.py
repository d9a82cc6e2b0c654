"""The contract as tables for docs/contract.md, each between two marks.

A document holds ``<!-- contract: NAME -->`` and ``<!-- end -->``, each on a line of its own; what stands between them
is a key of `TABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cytoserve_contract import limits, names, values
from cytoserve_contract.codes import ErrorCode
from cytoserve_contract.image_statistics import IMAGE_STATISTICS
from cytoserve_contract.models import MODELS, ModelSpec
from cytoserve_contract.parameters import PARAMETERS
from cytoserve_contract.reasons import Reason
from cytoserve_contract.tensors import AXES, Dim, TensorSpec

_Row = tuple[str, tuple[Dim, ...]]
_MARKED: Final = re.compile(
    r"(?<=<!-- contract: )(?P<name>[a-z_]+)(?P<open> -->\n)(?P<text>.*?)(?=<!-- end -->)", re.DOTALL
)


def filled(document: str) -> str:
    """Return a document with the text between its marks written anew.

    Raises
    ------
    KeyError
        A mark names no table.
    """
    return _MARKED.sub(lambda found: f"{found['name']}{found['open']}{TABLES[found['name']]()}", document)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _named(tensors: Iterable[TensorSpec]) -> str:
    return ", ".join(f"`{tensor.name}`" for tensor in tensors)


def models() -> str:
    """Return the models: what each does, what goes in and out."""
    return _table(
        ("model", "does", "inputs", "outputs"),
        (
            (
                f"`{model.name}` ({_runs(model)})",
                model.meaning.splitlines()[0],
                _named(model.inputs),
                _named(model.outputs),
            )
            for model in MODELS.values()
        ),
    )


def _runs(model: ModelSpec) -> str:
    if model.steps:
        return "ensemble of " + ", ".join(f"`{step.name}`" for step in model.steps)
    return {"onnxruntime": "onnx"}.get(model.backend, model.backend)


def tensors() -> str:
    """Return the tensors, in the order of the way of a request; one of two shapes has two rows."""
    steps = [model for model in MODELS.values() if not model.steps]
    callers = {model.calls.name: model.name for model in steps if model.calls}
    made: dict[_Row, list[str]] = {}
    taken: dict[_Row, list[str]] = {}
    first: dict[_Row, TensorSpec] = {}
    for model in steps:
        for ours, theirs, specs in ((taken, made, model.inputs), (made, taken, model.outputs)):
            for spec in specs:
                row = (spec.name, spec.dims)
                first.setdefault(row, spec)
                ours.setdefault(row, []).append(model.name)
                if model.name in callers:
                    theirs.setdefault(row, []).append(callers[model.name])
    return _table(
        ("tensor", "type", "made by", "taken by", "unit", "-1 for missing", "meaning"),
        (
            (
                f"`{spec.name}`",
                f"{spec.datatype} [{','.join(map(str, spec.dims))}]",
                _models(made.get(row, ["caller"])),
                _models(taken.get(row, ["caller"])),
                spec.unit,
                "yes" if spec.may_lack else "",
                spec.meaning,
            )
            for row, spec in first.items()
        ),
    )


def _models(found: Iterable[str]) -> str:
    return ", ".join(name if name == "caller" else f"`{name}`" for name in found)


def axes() -> str:
    """Return what the words for dimensions mean."""
    return _table(("axis", "is"), ((f"`{word}`", meaning) for word, meaning in AXES.items()))


def parameters() -> str:
    """Return the request parameters."""

    def accepted(kind: str, low: float, high: float) -> str:
        if kind in ("name", "names"):
            return "comma-joined names" if kind == "names" else f"text, {low:g} to {high:g} printable characters"
        return f"{kind}, {low:.10g} to {high:.10g}"

    return _table(
        ("parameter", "value", "not sent", "meaning"),
        ((f"`{p.name}`", accepted(p.kind, p.low, p.high), p.default, p.meaning) for p in PARAMETERS.values()),
    )


def numbers() -> str:
    """Return what the numbers and words of tensors stand for."""

    def rows() -> Iterator[tuple[str, str, str]]:
        yield from (("`KIND`", str(number), f"`{kind}`") for number, kind in enumerate(values.KINDS))
        yield from (("`DECISION`", str(number), f"`{word}`") for number, word in enumerate(values.DECISIONS))
        yield from (("`SCALE_SOURCE`", f"`{word}`", meaning) for word, meaning in values.SCALE_SOURCES.items())

    return _table(("tensor", "value", "means"), rows())


def flags() -> str:
    """Return the bits of ``CELL_FLAGS``."""
    return _table(
        ("bit", "name", "meaning"),
        ((str(bit), f"`{name}`", meaning) for bit, (name, meaning) in values.CELL_FLAGS.items()),
    )


def image_statistics() -> str:
    """Return the image statistics in their order, with what is said of unusual ones."""
    return _table(
        ("#", "statistic", "high", "low"),
        ((str(i), f"`{one.name}`", one.high, one.low) for i, one in enumerate(IMAGE_STATISTICS)),
    )


def reasons() -> str:
    """Return the reasons for review."""
    return _table(
        ("reason", "urgency (1 first)", "as explained to people"),
        ((f"`{reason.value}`", str(reason.urgency), reason.explanation) for reason in Reason),
    )


def codes() -> str:
    """Return the error codes: those that the server sends first."""
    return _table(
        ("code", "sent as", "means", "what to do"),
        (
            (f"`{code.value}`", code.triton if code.is_servers else "(client only)", code.meaning, code.remedy)
            for code in ErrorCode
        ),
    )


def service_limits() -> str:
    """Return the limits that ``service_info`` tells."""
    return _table(
        ("limit", "value", "of"),
        ((f"`{name}`", f"{value:,}", meaning) for name, (value, meaning) in limits.SERVICE_LIMITS.items()),
    )


def schemas() -> str:
    """Return the schema versions."""
    return _table(("schema", "document"), ((f"`{name}`", meaning) for name, meaning in names.SCHEMAS.items()))


def environment() -> str:
    """Return the environment variables that two rooms share."""
    return _table(("variable", "meaning"), ((f"`{name}`", meaning) for name, meaning in names.ENVIRONMENT.items()))


TABLES: Final[dict[str, Callable[[], str]]] = {
    table.__name__: table
    for table in (
        *(models, tensors, axes, image_statistics, parameters, numbers, flags),
        *(reasons, codes, service_limits, schemas, environment),
    )
}
"""Every table by the name in its mark."""
