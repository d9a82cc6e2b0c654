"""Does a confidence of 0.9 mean nine right in ten? Reliability bins and the expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoserve_statistics.resampling import Doubles, Figure, Flags, ratio
from cytoserve_statistics.shares import clopper_pearson

BINS = 15
"""Equal bins of the top posterior (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2)."""


def bin_of(confidence: Doubles, bins: int = BINS) -> NDArray[np.int64]:
    """Return the (M,) bin indices: bin ``b`` holds ``b / bins < confidence <= (b + 1) / bins``."""
    index: NDArray[np.int64] = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return index


def calibration_error_figure(confidence: Doubles, right: Flags, bins: int = BINS) -> Figure:
    """Return the expected calibration error of (M,) confidences, as a figure of `Resampler.figure`.

    ``sum over bins of share of cells * |accuracy - mean confidence|`` (Guo et al. 2017, equation 3).
    It is never below zero, so chance alone makes it positive where a bin holds few cells.
    """
    index = bin_of(confidence, bins)
    gap = (right.astype(float) - confidence)[:, None] * (index[:, None] == np.arange(bins))
    return lambda weights: ratio(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


def chance_level(confidence: Doubles, draws: int = 1000, seed: int = 0) -> dict[str, float]:
    """Return the calibration error that exactly honest confidences would show by chance: mean and 95th percentile.

    Source: consistency resampling (Broecker & Smith 2007, "Increasing the reliability of reliability diagrams"): labels
    are drawn from the confidences themselves.
    """
    rng = np.random.default_rng(seed)
    index = bin_of(confidence)
    members = (index[:, None] == np.arange(BINS)).astype(np.float64)
    gaps = (rng.random((draws, len(confidence))) < confidence) - confidence
    drawn = np.abs(gaps @ members).sum(axis=1) / len(confidence)
    return {"mean": float(drawn.mean()), "percentile_95": float(np.percentile(drawn, 95))}


def reliability(confidence: Doubles, right: Flags, bins: int = BINS) -> list[dict[str, Any]]:
    """Return the bins that hold cells: edges, number, mean confidence, accuracy with its exact interval."""
    index = bin_of(confidence, bins)
    return [
        _bin(confidence[index == b], right[index == b], b / bins, (b + 1) / bins)
        for b in range(bins)
        if (index == b).any()
    ]


def _bin(confidence: Doubles, right: Flags, low: float, high: float) -> dict[str, Any]:
    count, total = int(right.sum()), len(right)
    interval = clopper_pearson(count, total)
    return {
        "from": low,
        "to": high,
        "cells": total,
        "confidence": float(confidence.mean()),
        "accuracy": count / total,
        "low": interval[0],
        "high": interval[1],
    }


def equal_count_bins(confidence: Doubles, right: Flags, bins: int) -> list[dict[str, Any]]:
    """Return accuracy in bins of equally many cells, from the least to the most confident."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return [_bin(confidence[p], right[p], float(confidence[p].min()), float(confidence[p].max())) for p in parts]
