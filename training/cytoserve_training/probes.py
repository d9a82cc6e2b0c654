"""The probe bank, chosen on validation cells by how well its probes tell classes apart.

``pbc/val`` is parted by a hash of the file name: one part chooses (order and weights of the probes, racing rule), the
other calibrates (temperature, thresholds, references; :mod:`cytoserve_scoring.classifier.fitting`). ``pbc/test`` is
only reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cytoserve_scoring.classifier.fitting import fit_temperature
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from cytoserve_training.denoiser import TRAIN_TIMESTEPS
from cytoserve_training.denoiser_train import Probes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BankConfig:
    """Size and range of the bank, and the risk guarantee of accepted cells.

    ``probes`` of the ``candidates`` are kept, in the order in which they are evaluated; ``low`` and ``high`` bound the
    timesteps, as shares of the schedule. ``alpha`` is the default level of the racing rule. A near tie whose paired
    statistic is below ``look_again_below`` is evaluated in other quarter turns from the budget ``look_again_from`` on.
    ``minimum`` and ``confirm`` are those of the racing rule.
    """

    candidates: int = 20
    probes: int = 16
    low: float = 0.16
    high: float = 0.68
    seed: int = 7
    alpha: float = 0.01
    minimum: int = 2
    confirm: int = 8
    look_again_below: float = 4.0
    look_again_from: int = 8
    tolerated_error: float = 0.01
    confidence: float = 0.95
    budgets: tuple[int, ...] = (1, 2, 4, 8, 16)


def bit_reversed_order(count: int) -> list[int]:
    """Return 0..count-1 so that every prefix is spread over the range (van der Corput order, base 2)."""
    bits = max(1, (count - 1).bit_length())
    keys = [int(format(index, f"0{bits}b")[::-1], 2) for index in range(2**bits)]
    return [key for key in keys if key < count]


def build_bank(config: BankConfig, latent_shape: tuple[int, ...]) -> Probes:
    """Draw the candidates: timesteps even over the range, noise Gaussian, in an order whose prefixes are spread.

    The noises are independent and rounded to half precision, as they are stored.
    """
    even = Probes.even(config.candidates, config.seed, latent_shape, config.low, config.high)
    order = bit_reversed_order(config.candidates)
    return Probes(even.timestep[order], even.noise[order].half().float())


def probe_weightings(errors: Floats, timestep: Tensor, log_scale: Tensor | None) -> dict[str, Floats]:
    """Return candidate (P,) weights with mean 1 from (M, P, C) unweighted errors.

    ``none``; ``inverse_mean`` (one over the mean error); ``inverse_spread`` (one over the mean standard deviation
    between classes); ``learned`` (the scale the margin learned for the probe's band of timesteps).
    """
    found = {
        "none": np.ones(errors.shape[1]),
        "inverse_mean": 1.0 / errors.mean(axis=(0, 2)),
        "inverse_spread": 1.0 / errors.std(axis=2).mean(axis=0),
    }
    if log_scale is not None:
        bands = len(log_scale)
        found["learned"] = log_scale.double().exp()[(timestep * bands) // TRAIN_TIMESTEPS].numpy()
    return {name: weight / weight.mean() for name, weight in found.items()}


def balanced_accuracy(guess: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the mean of the per-class recalls over the classes present."""
    return float(np.mean([(guess[labels == c] == c).mean() for c in np.unique(labels)]))


def log_likelihood(scores: Floats, labels: NDArray[np.int64]) -> float:
    """Return the class-balanced mean log posterior of the truth at the best temperature, for (M, C) scores."""
    logp = special.log_softmax(-scores / fit_temperature(scores, labels), axis=1)[np.arange(len(labels)), labels]
    return float(np.mean([logp[labels == c].mean() for c in np.unique(labels)]))


def greedy_order(errors: Floats, labels: NDArray[np.int64], keep: int) -> list[int]:
    """Return ``keep`` probes, each the one that helps most after those before it.

    Parameters
    ----------
    errors : (M, P, C) ndarray of float64, weighted
    labels : (M,) ndarray of int64

    Notes
    -----
    Maximised is :func:`log_likelihood` of the summed errors: it rewards a wide margin where accuracy alone is level.
    """
    chosen: list[int] = []
    total = np.zeros_like(errors[:, 0])
    while len(chosen) < keep:
        rest = [p for p in range(errors.shape[1]) if p not in chosen]
        gain = [log_likelihood((total + errors[:, p]) / (len(chosen) + 1), labels) for p in rest]
        best = rest[int(np.argmax(gain))]
        chosen.append(best)
        total = total + errors[:, best]
    return chosen


@dataclass(frozen=True)
class ChosenBank:
    """Order and weights, with the table of what was tried (balanced accuracy at 1, 2, 4, 8 and all probes kept)."""

    order: list[int]
    weight: Floats
    tried: dict[str, Any]


def choose_bank(
    raw: Floats, labels: NDArray[np.int64], timestep: Tensor, log_scale: Tensor | None, keep: int
) -> ChosenBank:
    """Choose weights and order on the choosing part's (M, P, C) unweighted errors.

    For every weighting the spread order (the bank as it was drawn) and the greedy order are compared by
    :func:`log_likelihood` over the first eight probes; the best pair is kept.
    """
    tried: dict[str, Any] = {}
    best: tuple[float, list[int], Floats] | None = None
    for name, weight in probe_weightings(raw, timestep, log_scale).items():
        errors = raw * weight[None, :, None]
        for way, order in (("spread", list(range(keep))), ("greedy", greedy_order(errors, labels, keep))):
            value = log_likelihood(errors[:, order[:8]].mean(axis=1), labels)
            tried[f"{name}, {way} order"] = {
                "log_likelihood_8": round(value, 4),
                "balanced_accuracy": {
                    str(n): round(balanced_accuracy(errors[:, order[:n]].mean(axis=1).argmin(axis=1), labels), 4)
                    for n in (1, 2, 4, 8, keep)
                },
            }
            if best is None or value > best[0]:
                best = (value, order, weight)
    assert best is not None
    return ChosenBank(best[1], best[2][best[1]], tried)


def latents_of(images: Tensor, encode: Any, batch: int = 256) -> Tensor:
    """Encode (M, 96, 96, 3) crops in batches."""
    with torch.no_grad():
        return torch.cat([encode(part) for part in images.split(batch)])
