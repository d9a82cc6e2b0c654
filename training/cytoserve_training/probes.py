"""The probe bank and the numbers that turn its errors into answers, fitted on validation cells.

What is chosen here is chosen on ``pbc/val``; ``pbc/test`` is only reported. Three weightings of the probes are
compared and the best kept, the losers are written down with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special, stats
from torch import Tensor

from .denoiser import TRAIN_TIMESTEPS
from .denoiser_train import Probes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BankConfig:
    """Size and range of the bank, and what is promised of accepted cells."""

    probes: int = 16
    low: float = 0.18
    high: float = 0.66
    seed: int = 7
    tolerated_error: float = 0.02
    confidence: float = 0.95
    spare_accuracy: float = 0.002


def bit_reversed_order(count: int) -> list[int]:
    """Return 0..count-1 so that every prefix is spread over the range (van der Corput order, base 2)."""
    bits = max(1, (count - 1).bit_length())
    keys = [int(format(index, f"0{bits}b")[::-1], 2) for index in range(2**bits)]
    return [key for key in keys if key < count]


def build_bank(config: BankConfig, latent_shape: tuple[int, ...]) -> Probes:
    """Draw the bank: timesteps even over the range, noise Gaussian, in an order whose prefixes are spread.

    The noises are independent and rounded to half precision, as they are stored.
    """
    even = Probes.even(config.probes, config.seed, latent_shape, config.low, config.high)
    order = bit_reversed_order(config.probes)
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


def fit_temperature(scores: Floats, labels: NDArray[np.int64]) -> float:
    """Return the softmax temperature of (M, C) mean errors with the least negative log-likelihood.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    spread = float(scores.std(axis=1).mean())

    def loss(log_temperature: float) -> float:
        logp = special.log_softmax(-scores / np.exp(log_temperature), axis=1)
        return -float(logp[np.arange(len(labels)), labels].mean())

    centre = np.log(spread)
    found = optimize.minimize_scalar(loss, bounds=(centre - 8, centre + 4), method="bounded")
    return float(np.exp(found.x))


def accept_threshold(confidence: Floats, right: NDArray[np.bool_], config: BankConfig) -> float | None:
    """Return the least threshold on the top posterior whose accepted cells keep the promise, or None.

    Thresholds are tested from strict to lax and the walk stops at the first that fails (fixed-sequence testing of
    Learn-then-Test, Angelopoulos et al. 2021, section 2.3): with probability ``confidence`` the error among accepted
    cells is at most ``tolerated_error``, for cells exchangeable with these.
    """
    order = np.argsort(-confidence)
    chosen: float | None = None
    for threshold in np.concatenate([np.linspace(0.9999, 0.99, 34), np.linspace(0.985, 0.5, 98)]):
        accepted = order[confidence[order] >= threshold]
        wrong = int((~right[accepted]).sum())
        if len(accepted) == 0:
            continue
        bound = stats.beta.ppf(config.confidence, wrong + 1, len(accepted) - wrong) if wrong < len(accepted) else 1.0
        if bound > config.tolerated_error:
            if chosen is None and wrong == 0:
                continue
            break
        chosen = float(threshold)
    return chosen


def fit_scoring(
    errors: Floats, labels: NDArray[np.int64], classes: tuple[str, ...], config: BankConfig
) -> dict[str, Any]:
    """Fit what each budget needs on (M, P, C) weighted errors of val cells.

    For every budget from 1 to P: the temperature, the accept threshold and the anomaly reference. The default budget is
    the least whose balanced accuracy is within ``config.spare_accuracy`` of the best budget's.
    """
    probes = errors.shape[1]
    running = np.cumsum(errors, axis=1) / np.arange(1, probes + 1)[None, :, None]
    accuracy = [balanced_accuracy(running[:, b].argmin(axis=1), labels) for b in range(probes)]
    temperature = [fit_temperature(running[:, b], labels) for b in range(probes)]
    thresholds, references = [], []
    for b in range(probes):
        posterior = special.softmax(-running[:, b] / temperature[b], axis=1)
        guess, best = posterior.argmax(axis=1), running[:, b].min(axis=1)
        thresholds.append(accept_threshold(posterior.max(axis=1), guess == labels, config))
        references.append({name: np.sort(best[guess == c]).round(5).tolist() for c, name in enumerate(classes)})
    return {
        "classes": list(classes),
        "probes": probes,
        "default_budget": next(b + 1 for b in range(probes) if accuracy[b] >= max(accuracy) - config.spare_accuracy),
        "temperature": temperature,
        "accept_threshold": thresholds,
        "accept_promise": {
            "tolerated_error": config.tolerated_error,
            "confidence": config.confidence,
            "n": len(labels),
        },
        "anomaly_reference": references,
        "accuracy_by_budget": [round(value, 4) for value in accuracy],
    }


def latents_of(images: Tensor, encode: Any, batch: int = 256) -> Tensor:
    """Encode (M, 96, 96, 3) crops in batches."""
    with torch.no_grad():
        return torch.cat([encode(part) for part in images.split(batch)])
