"""A synthetic set of answers whose confidences are honest by construction."""

from __future__ import annotations

import numpy as np
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_validation.answers import Answered
from scipy import special

CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


def answers(
    count: int = 400, seed: int = 0, sure: float = 3.0, present: int = len(CLASSES), strange: bool = False
) -> Answered:
    """Return cells whose label is drawn from their own posterior: a model that is calibrated exactly.

    ``strange``: cells without a true class whose error under the best class is higher.
    """
    rng = np.random.default_rng(seed)
    width = len(CLASSES)
    best = rng.integers(0, present, count)
    margin = rng.gamma(sure, 1.0, count)
    logits = rng.normal(0, 0.3, (count, width))
    logits[np.arange(count), best] += margin
    posterior = special.softmax(logits, axis=1)
    label = posterior.argmax(axis=1)
    truth = np.array([rng.choice(present, p=row[:present] / row[:present].sum()) for row in posterior])
    own = rng.normal(1.6 if strange else 1.0, 0.2, count)
    scores = own[:, None] + 0.01 * (posterior.max(axis=1, keepdims=True) - posterior)
    accepted = posterior.max(axis=1) > 0.95
    return Answered(
        classes=CLASSES,
        names=tuple(f"c/{i:04d}.png" for i in range(count)),
        truth=np.full(count, -1) if strange else truth,
        label=label,
        posterior=posterior,
        scores=scores,
        conformal=posterior,
        anomaly=own,
        p_value=np.clip(1.5 - own, 0.001, 1),
        evaluations=rng.integers(16, 128, count),
        accepted=accepted,
        statistics=rng.normal(0, 0.3, (count, len(IMAGE_STATISTIC_NAMES))) + 0.2 * best[:, None],
        familiar=rng.uniform(0.001, 1, count),
        familiar_of_kind=rng.uniform(0.001, 1, count),
        cells_of_kind=np.full(count, 1000),
        causes=("noise+",) * count,
        reasons=tuple(() if taken else ("low_confidence",) for taken in accepted),
    )
