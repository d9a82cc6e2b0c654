"""The bank of probes: drawn, not chosen.

No label is looked at. Of probes chosen because they tell the classes of some cells apart, the first agree with all the
others more often on those cells than on new ones, and a racing rule fitted there promises too much (docs/lessons.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cytoserve_training.denoiser_train import Probes


@dataclass(frozen=True)
class BankConfig:
    """Size and range of the bank, and the risk guarantee of accepted cells.

    ``low`` and ``high`` bound the timesteps, as shares of the schedule. ``alpha`` is the default level of the racing
    rule, ``minimum``, ``confirm`` and ``unclear`` are its own. A near tie whose paired statistic is below
    ``look_again_below`` is evaluated in other quarter turns from the budget ``look_again_from`` on.
    """

    probes: int = 8
    low: float = 0.06
    high: float = 0.46
    seed: int = 7
    alpha: float = 0.01
    minimum: int = 2
    confirm: int = 2
    unclear: float = 0.1
    look_again_below: float = 2.5
    look_again_from: int = 2
    tolerated_error: float = 0.01
    confidence: float = 0.95
    budgets: tuple[int, ...] = (1, 2, 4, 8)


def bit_reversed_order(count: int) -> list[int]:
    """Return 0..count-1 so that every prefix is spread over the range (van der Corput order, base 2)."""
    bits = max(1, (count - 1).bit_length())
    keys = [int(format(index, f"0{bits}b")[::-1], 2) for index in range(2**bits)]
    return [key for key in keys if key < count]


def build_bank(config: BankConfig, latent_shape: tuple[int, ...]) -> Probes:
    """Draw the probes: timesteps even over the range, noise Gaussian, in an order whose prefixes are spread.

    The noises are independent and rounded to half precision, as they are stored. Each probe has the cells in a quarter
    turn of its own, in turns: a cell's class has no orientation, and the network a little (docs/lessons.md).
    """
    even = Probes.even(config.probes, config.seed, latent_shape, config.low, config.high)
    order = bit_reversed_order(config.probes)
    return Probes(even.timestep[order], even.noise[order].half().float(), torch.arange(config.probes) % 4)


def latents_of(images: Tensor, encode: Any, batch: int = 256) -> Tensor:
    """Encode (M, 96, 96, 3) crops in batches."""
    with torch.no_grad():
        return torch.cat([encode(part) for part in images.split(batch)])
