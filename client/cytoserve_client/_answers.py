"""From tensors to results, refusing what must not be passed on.

A probability vector that holds NaN or does not sum to 1, a box outside the picture's coordinates, a label that does
not exist, a cell accepted without a label: each is an `InvalidAnswer`, because a caller would count it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve_client._constants import PROBABILITY_TOLERANCE
from cytoserve_client._wire import Tensors
from cytoserve_client.errors import CytoserveClientError, InvalidAnswer, error_from_code
from cytoserve_client.images import EncodedImage
from cytoserve_client.results import (
    Anomaly,
    Cell,
    CellAnswer,
    CellsAnalysis,
    Decision,
    Failure,
    FieldAnalysis,
    Kind,
    ModelInfo,
)

_KINDS: tuple[Kind, ...] = ("white_cell", "red_cell", "platelet")
_DECISIONS: tuple[Decision, ...] = ("accept", "review")


@dataclass(frozen=True)
class _Scored:
    """The scorer's answer about one cell."""

    label: str | None
    probability: dict[str, float] | None
    interval: tuple[float, float] | None
    uncertainty: float | None
    anomaly: Anomaly | None
    decision: Decision
    reasons: tuple[str, ...]
    evaluations: int
    scores: dict[str, float] | None = None
    conformal: dict[str, float] | None = None


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidAnswer(f"the server's answer was refused: {message}")


def _exact(value: Any) -> float:
    """Return a float32 as the shortest decimal that stands for it (0.1, not 0.10000000149)."""
    return float(str(value))


def _or_none(value: Any, name: str) -> float | None:
    """Return a number, or None for NaN ("not computed"); infinity is refused."""
    _need(not math.isinf(value), f"{name} is infinite")
    return None if math.isnan(value) else _exact(value)


def _scored(tensors: Tensors, classes: Sequence[str], count: int) -> list[_Scored]:
    """Read and check the scorer's outputs for ``count`` cells."""
    _check_shapes(tensors, classes, count)
    reasons = tensors.texts["REASONS"]
    return [_scored_cell(tensors.arrays, reasons[i], classes, i) for i in range(count)]


def _check_shapes(tensors: Tensors, classes: Sequence[str], count: int) -> None:
    arrays, reasons = tensors.arrays, tensors.texts["REASONS"]
    shapes = {"LABEL": (), "POSTERIOR": (len(classes),), "UNCERTAINTY": (), "ANOMALY": (2,), "DECISION": ()}
    shapes["POSTERIOR_INTERVAL"] = (2,)
    shapes["SCORES"] = shapes["CONFORMAL"] = (len(classes),)
    for name, tail in {**shapes, "EVALUATIONS": ()}.items():
        _need(arrays[name].shape == (count, *tail), f"{name} has shape {arrays[name].shape}, not {(count, *tail)}")
    _need(len(reasons) == count, f"REASONS has {len(reasons)} entries for {count} cells")


def _scored_cell(arrays: Any, reasons: str, classes: Sequence[str], i: int) -> _Scored:
    label, decision, evaluations = (int(arrays[name][i]) for name in ("LABEL", "DECISION", "EVALUATIONS"))
    _need(-1 <= label < len(classes), f"LABEL {label} of cell {i} is no class")
    _need(decision in (0, 1), f"DECISION {decision} of cell {i} is unknown")
    _need(evaluations >= 0, f"EVALUATIONS {evaluations} of cell {i} is negative")
    names = tuple(part.strip() for part in reasons.split(",") if part.strip())
    if label < 0:
        _need(decision == 1, f"cell {i} was accepted without a label")
        return _Scored(None, None, None, None, None, "review", names, evaluations)
    uncertainty = _or_none(arrays["UNCERTAINTY"][i], f"UNCERTAINTY of cell {i}")
    return _Scored(
        label=classes[label],
        probability=_probability(arrays["POSTERIOR"][i], classes, i),
        interval=_interval(arrays["POSTERIOR_INTERVAL"][i], i),
        uncertainty=uncertainty,
        anomaly=_anomaly(arrays["ANOMALY"][i], i),
        decision=_DECISIONS[decision],
        reasons=names,
        evaluations=evaluations,
        scores=_scores(arrays["SCORES"][i], classes, i),
        conformal=_conformal(arrays["CONFORMAL"][i], classes, i),
    )


def _scores(row: NDArray[Any], classes: Sequence[str], i: int) -> dict[str, float]:
    """Return the scores of the classes that were asked (a request may have left some out)."""
    _need(not bool(np.isinf(row).any()), f"SCORES of cell {i} holds infinity")
    return {name: _exact(value) for name, value in zip(classes, row, strict=True) if not math.isnan(value)}


def _conformal(row: NDArray[Any], classes: Sequence[str], i: int) -> dict[str, float] | None:
    if bool(np.isnan(row).all()):
        return None
    _need(bool(((row >= 0) & (row <= 1)).all()), f"CONFORMAL of cell {i} holds a number outside 0 to 1")
    return {name: _exact(value) for name, value in zip(classes, row, strict=True)}


def _probability(row: NDArray[Any], classes: Sequence[str], i: int) -> dict[str, float]:
    _need(bool(np.isfinite(row).all()), f"POSTERIOR of cell {i} holds NaN or infinity")
    _need(bool((row >= 0).all()), f"POSTERIOR of cell {i} holds a negative number")
    total = float(row.sum(dtype=np.float64))
    _need(abs(total - 1) <= PROBABILITY_TOLERANCE, f"POSTERIOR of cell {i} sums to {total:.6g}, not 1")
    return {name: _exact(value) for name, value in zip(classes, row, strict=True)}


def _interval(row: NDArray[Any], i: int) -> tuple[float, float] | None:
    if bool(np.isnan(row).all()):
        return None
    low, high = _exact(row[0]), _exact(row[1])
    _need(0 <= low <= high <= 1, f"POSTERIOR_INTERVAL of cell {i} is {low} to {high}, no interval within 0 to 1")
    return low, high


def _anomaly(row: NDArray[Any], i: int) -> Anomaly | None:
    score, p_value = _or_none(row[0], f"ANOMALY of cell {i}"), _or_none(row[1], f"ANOMALY of cell {i}")
    if score is None and p_value is None:
        return None
    _need(p_value is None or 0 <= p_value <= 1, f"p-value {p_value} of cell {i} is outside 0 to 1")
    return Anomaly(score=score, p_value=p_value)


def field_analysis(tensors: Tensors, model: ModelInfo, image: EncodedImage) -> FieldAnalysis:
    """Return the result of one field.

    Parameters
    ----------
    tensors : Tensors
        Outputs of ``smear_analysis``: N cells of every kind, M scored ones that ``CELL_INDEX`` places among them.
    model : ModelInfo
        Gives the class names.
    image : EncodedImage
        The image that was sent.

    Raises
    ------
    InvalidAnswer
        If anything in the answer is inconsistent.
    """
    arrays = tensors.arrays
    boxes, kinds, detection, index = (arrays[k] for k in ("BOX", "KIND", "DETECTION_SCORE", "CELL_INDEX"))
    count, size, scale = len(kinds), arrays["FIELD_SIZE"], arrays["SCALE"]
    _need(boxes.shape == (count, 4) and detection.shape == (count,), "BOX, KIND, DETECTION_SCORE differ in length")
    _need(size.shape == (2,) and bool((size > 0).all()), f"FIELD_SIZE {size.tolist()} is no width and height")
    _need(scale.shape == (2,), f"SCALE has shape {scale.shape}, not (2,)")
    _need(bool(np.isfinite(boxes).all()), "BOX holds NaN or infinity")
    _need(bool((boxes[:, :2] < boxes[:, 2:]).all()), "a BOX is empty or inside out")
    _need(bool((kinds < len(_KINDS)).all()), "KIND holds an unknown number")
    _need(len(set(index.tolist())) == len(index), "CELL_INDEX names a cell twice")
    _need(bool(((index >= 0) & (index < count)).all()), "CELL_INDEX points outside the cells")
    scored = dict(zip(index.tolist(), _scored(tensors, model.classes, len(index)), strict=True))
    sources = tensors.texts["SCALE_SOURCE"]
    um_per_pixel = _or_none(scale[0], "SCALE")
    _need(um_per_pixel is None or um_per_pixel > 0, f"SCALE {um_per_pixel} is not positive")
    return FieldAnalysis(
        source=image.name,
        width=int(size[0]),
        height=int(size[1]),
        um_per_pixel=um_per_pixel,
        scale_source=sources[0] if sources else "none",
        median_red_cell_um=_or_none(scale[1], "SCALE"),
        synthetic=image.synthetic,
        cells=tuple(
            _cell(boxes[i], _KINDS[int(kinds[i])], _or_none(detection[i], "DETECTION_SCORE"), scored.get(i))
            for i in range(count)
        ),
    )


def _cell(box: NDArray[Any], kind: Kind, detection_score: float | None, scored: _Scored | None) -> Cell:
    x0, y0, x1, y1 = (_exact(side) for side in box)
    return Cell(
        box=(x0, y0, x1, y1),
        kind=kind,
        label=scored.label if scored else None,
        probability=scored.probability if scored else None,
        probability_interval=scored.interval if scored else None,
        uncertainty=scored.uncertainty if scored else None,
        anomaly=scored.anomaly if scored else None,
        decision=scored.decision if scored else None,
        reasons=scored.reasons if scored else (),
        evaluations=scored.evaluations if scored else None,
        scores=scored.scores if scored else None,
        conformal=scored.conformal if scored else None,
        detection_score=detection_score,
    )


def cell_answers(
    tensors: Tensors, model: ModelInfo, images: Sequence[EncodedImage], request_id: str
) -> list[CellAnswer | CytoserveClientError]:
    """Return one result, or one error, per single-cell image of a request, in order.

    A cell whose numbers must not be passed on is an error of its own; the others keep their answer.

    Raises
    ------
    InvalidAnswer
        If the tensors do not fit the request at all.
    """
    count, errors, scale = len(images), tensors.texts["CELL_ERROR"], tensors.arrays["SCALE"]
    _need(len(errors) == count, f"CELL_ERROR has {len(errors)} entries for {count} images")
    _need(scale.shape == (count,), f"SCALE has shape {scale.shape}, not {(count,)}")
    _check_shapes(tensors, model.classes, count)
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
    scored = _scored_cell(tensors.arrays, tensors.texts["REASONS"][i], model.classes, i)
    return CellAnswer(
        source=image.name,
        um_per_pixel=_or_none(tensors.arrays["SCALE"][i], "SCALE"),
        synthetic=image.synthetic,
        box=None,
        kind=None,
        label=scored.label,
        probability=scored.probability,
        probability_interval=scored.interval,
        uncertainty=scored.uncertainty,
        anomaly=scored.anomaly,
        decision=scored.decision,
        reasons=scored.reasons,
        evaluations=scored.evaluations,
        scores=scored.scores,
        conformal=scored.conformal,
    )


def failure_of(error: CytoserveClientError, source: str) -> Failure:
    """Return the entry of ``failures`` for an error."""
    return Failure(source=error.source or source, error=error.code, message=error.message)


def assemble_cells(
    model: ModelInfo, sources: Sequence[str], answers: Sequence[CellAnswer | CytoserveClientError]
) -> CellsAnalysis:
    """Put answers and failures of single-cell images apart, each in the order given."""
    return CellsAnalysis(
        model=model,
        cells=tuple(answer for answer in answers if isinstance(answer, CellAnswer)),
        failures=tuple(
            failure_of(answer, source)
            for source, answer in zip(sources, answers, strict=True)
            if isinstance(answer, CytoserveClientError)
        ),
    )
