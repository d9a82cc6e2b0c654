"""From tensors to results, refusing what must not be passed on.

A probability vector that holds NaN or does not sum to 1, a box outside the picture's coordinates, a label that does
not exist, a cell accepted without a label: each is an `InvalidAnswer`, because a caller would count it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from cytoserve_contract.tensors import TensorSpec, shape_problem
from cytoserve_contract.values import DECISIONS, KINDS, NO_LABEL
from numpy.typing import NDArray

from cytoserve_client._constants import PROBABILITY_TOLERANCE
from cytoserve_client._wire import CELL_MODEL, SMEAR_MODEL, Tensors, wanted
from cytoserve_client.errors import CytoserveClientError, InvalidAnswer, error_from_code
from cytoserve_client.images import EncodedImage
from cytoserve_client.reasons import Reason
from cytoserve_client.results import (
    Anomaly,
    Cell,
    CellAnswer,
    CellsAnalysis,
    Failure,
    Familiarity,
    FieldAnalysis,
    ModelInfo,
)

_NOT_SCORED: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("label", "probability", "uncertainty", "anomaly", "decision", "evaluations")),
    "reasons": (),
}
"""Fields of `ScoredCell` for a cell that the scorer was not given."""


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidAnswer(f"the server's answer was refused: {message}")


def _exact(value: Any) -> float:
    """Return a float32 as the shortest decimal that stands for it (0.1, not 0.10000000149)."""
    return float(str(value))


def _or_none(value: Any) -> float | None:
    """Return a number, or None for NaN ("not computed")."""
    return None if math.isnan(value) else _exact(value)


def _check_shapes(tensors: Tensors, model: str, sizes: Mapping[str, int]) -> None:
    problem = shape_problem(wanted(model), tensors.shapes, sizes)
    _need(not problem, problem)


def _check_values(spec: TensorSpec, values: Any, of: str = "") -> None:
    """Refuse numbers outside the declared range, and infinity; NaN is "not computed"."""
    problem = spec.value_problem(values)
    _need(not problem, f"{problem}{of}")
    _need(not bool(np.isinf(values).any()), f"{spec.name}{of} is infinite")


def _row(tensors: Tensors, model: str, i: int) -> dict[str, Any]:
    """Return the checked numbers of one scored cell, by tensor."""
    row = {spec: tensors.arrays[spec.name][i] for spec in wanted(model) if spec.is_per_cell and not spec.is_text}
    for spec, values in row.items():
        _check_values(spec, values, f" (cell {i})")
    return {spec.name: values for spec, values in row.items()}


def _scored_cell(tensors: Tensors, row: Mapping[str, Any], classes: Sequence[str], i: int) -> dict[str, Any]:
    """Return the fields of `ScoredCell` that the scorer's outputs give for one cell."""
    label, decision = int(row["LABEL"]), DECISIONS[int(row["DECISION"])]
    _need(label < len(classes), f"LABEL {label} of cell {i} is no class")
    reasons = tuple(part.strip() for part in tensors.texts["REASONS"][i].split(",") if part.strip())
    familiarity = _familiarity(row["DOMAIN"], tensors.texts["DOMAIN_CAUSE"][i], i)
    if decision == "accept":
        _need(familiarity is not None, f"cell {i} was accepted though its picture was not compared")
        _need(Reason.UNFAMILIAR_IMAGE.value not in reasons, f"cell {i} was accepted though its picture is unfamiliar")
    always = {
        "decision": decision,
        "reasons": reasons,
        "evaluations": int(row["EVALUATIONS"]),
        "familiarity": familiarity,
        "image_statistics": _statistics(row["IMAGE_STATISTICS"]),
    }
    if label == NO_LABEL:
        _need(decision == "review", f"cell {i} was accepted without a label")
        return {**_NOT_SCORED, **always}
    return {
        **always,
        "label": classes[label],
        "probability": _probability(row["POSTERIOR"], classes, i),
        "probability_interval": _interval(row["POSTERIOR_INTERVAL"], i),
        "uncertainty": _or_none(row["UNCERTAINTY"]),
        "anomaly": _anomaly(row["ANOMALY"], i),
        "scores": _scores(row["SCORES"], classes),
        "conformal": _conformal(row["CONFORMAL"], classes, i),
    }


def _scores(row: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
    """Return the scores of the classes that were evaluated (a request may have left some out)."""
    return {name: _exact(value) for name, value in zip(classes, row, strict=True) if not math.isnan(value)}


def _conformal(row: NDArray[Any], classes: Sequence[str], i: int) -> dict[str, float] | None:
    if bool(np.isnan(row).all()):
        return None
    _need(not bool(np.isnan(row).any()), f"CONFORMAL of cell {i} is computed for some classes only")
    return {name: _exact(value) for name, value in zip(classes, row, strict=True)}


def _probability(row: NDArray[Any], classes: Sequence[str], i: int) -> dict[str, float]:
    _need(not bool(np.isnan(row).any()), f"POSTERIOR of cell {i} holds NaN")
    total = float(row.sum(dtype=np.float64))
    _need(abs(total - 1) <= PROBABILITY_TOLERANCE, f"POSTERIOR of cell {i} sums to {total:.6g}, not 1")
    return {name: _exact(value) for name, value in zip(classes, row, strict=True)}


def _interval(row: NDArray[Any], i: int) -> tuple[float, float] | None:
    if bool(np.isnan(row).all()):
        return None
    low, high = _exact(row[0]), _exact(row[1])
    _need(low <= high, f"POSTERIOR_INTERVAL of cell {i} is {low} to {high}, which is no interval")
    return low, high


def _anomaly(row: NDArray[Any], i: int) -> Anomaly | None:
    score, p_value, of_kind, cells = map(_or_none, row)
    if score is None and p_value is None:
        return None
    for value in (p_value, of_kind):
        _need(value is None or 0 < value <= 1, f"p-value {value} of cell {i} is not above 0, up to 1")
    counted = {p_value is None, of_kind is None, cells is None}
    _need(len(counted) == 1, f"ANOMALY of cell {i} has a p-value of no calibration cells")
    _need(cells is None or (cells >= 1 and cells.is_integer()), f"ANOMALY of cell {i} counts {cells} calibration cells")
    return Anomaly(
        score=score, p_value=p_value, p_value_of_kind=of_kind, cells_of_kind=None if cells is None else int(cells)
    )


def _familiarity(row: NDArray[Any], cause: str, i: int) -> Familiarity | None:
    if bool(np.isnan(row).all()):
        return None
    distance, p_value, of_kind, cells = map(_exact, row)
    _need(not math.isnan(distance), f"DOMAIN of cell {i} holds p-values of no distance")
    _need(0 < p_value <= 1 and 0 < of_kind <= 1, f"DOMAIN of cell {i} holds a p-value that is not above 0, up to 1")
    _need(cells >= 1 and cells.is_integer(), f"DOMAIN of cell {i} counts {cells:g} calibration cells")
    _need(len(cause) > 1 and cause[-1] in "+-", f"DOMAIN_CAUSE of cell {i} is {cause!r}, no statistic with + or -")
    return Familiarity(
        distance=distance, p_value=p_value, p_value_of_kind=of_kind, cells_of_kind=int(cells), cause=cause
    )


def _statistics(row: NDArray[Any]) -> tuple[float, ...] | None:
    """Return the image statistics; None where one is no number, as of a picture without any contrast."""
    return None if bool(np.isnan(row).any()) else tuple(map(_exact, row))


def field_analysis(tensors: Tensors, model: ModelInfo, image: EncodedImage) -> FieldAnalysis:
    """Return the result of one field: N cells of every kind, M scored ones that ``CELL_INDEX`` places among them."""
    arrays = tensors.arrays
    _check_shapes(tensors, SMEAR_MODEL, {"C": len(model.classes)})
    for spec in wanted(SMEAR_MODEL):
        if not spec.is_per_cell and not spec.is_text:
            _check_values(spec, arrays[spec.name])
    boxes, kinds, index, scale = (arrays[name] for name in ("BOX", "KIND", "CELL_INDEX", "SCALE"))
    _need(bool((boxes[:, :2] < boxes[:, 2:]).all()), "a BOX is empty, inside out or NaN")
    _need(len(set(index.tolist())) == len(index), "CELL_INDEX names a cell twice")
    _need(bool((index < len(kinds)).all()), "CELL_INDEX points outside the cells")
    scored = {
        cell: _scored_cell(tensors, _row(tensors, SMEAR_MODEL, i), model.classes, i)
        for i, cell in enumerate(index.tolist())
    }
    um_per_pixel = _or_none(scale[0])
    _need(um_per_pixel != 0, "SCALE is 0")
    width, height = arrays["FIELD_SIZE"].tolist()
    return FieldAnalysis(
        source=image.name,
        width=width,
        height=height,
        um_per_pixel=um_per_pixel,
        scale_source=tensors.texts["SCALE_SOURCE"][0],
        median_red_cell_um=_or_none(scale[1]),
        synthetic=image.synthetic,
        cells=tuple(
            Cell(
                box=tuple(map(_exact, boxes[i])),  # type: ignore[arg-type]
                kind=KINDS[int(kinds[i])],
                detection_score=_or_none(arrays["DETECTION_SCORE"][i]),
                **scored.get(i, _NOT_SCORED),
            )
            for i in range(len(kinds))
        ),
    )


def cell_answers(
    tensors: Tensors, model: ModelInfo, images: Sequence[EncodedImage], request_id: str
) -> list[CellAnswer | CytoserveClientError]:
    """Return one result, or one error, per single-cell image of a request, in order.

    A cell whose numbers must not be passed on is an error of its own; the others keep their answer. `InvalidAnswer` is
    raised if the tensors do not fit the request at all.
    """
    _check_shapes(tensors, CELL_MODEL, {"C": len(model.classes), "M": len(images)})
    errors = tensors.texts["CELL_ERROR"]
    answers: list[CellAnswer | CytoserveClientError] = []
    for i, image in enumerate(images):
        if errors[i]:
            refused = error_from_code(errors[i], source=image.name, request_id=request_id)
            answers.append(refused or InvalidAnswer(errors[i], source=image.name, request_id=request_id))
            continue
        try:
            answers.append(_cell_answer(tensors, model, image, i))
        except InvalidAnswer as error:
            error.source, error.request_id = image.name, request_id
            answers.append(error)
    return answers


def _cell_answer(tensors: Tensors, model: ModelInfo, image: EncodedImage, i: int) -> CellAnswer:
    row = _row(tensors, CELL_MODEL, i)
    return CellAnswer(
        source=image.name,
        um_per_pixel=_or_none(row["SCALE"]),
        synthetic=image.synthetic,
        box=None,
        kind=None,
        **_scored_cell(tensors, row, model.classes, i),
    )


def failure_of(error: CytoserveClientError, source: str) -> Failure:
    """Return the entry of ``failures`` for an error."""
    return Failure(source=error.source or source, error=error.code, message=error.message)


def assemble_cells(
    model: ModelInfo, sources: Sequence[str], answers: Sequence[CellAnswer | CytoserveClientError], site: str
) -> CellsAnalysis:
    """Put answers and failures of single-cell images apart, each in the order given."""
    return CellsAnalysis(
        site=site,
        model=model,
        cells=tuple(answer for answer in answers if isinstance(answer, CellAnswer)),
        failures=tuple(
            failure_of(answer, source)
            for source, answer in zip(sources, answers, strict=True)
            if isinstance(answer, CytoserveClientError)
        ),
    )
