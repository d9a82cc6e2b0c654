"""What one evaluation costs: operations and bytes, counted by running the network on shapes alone.

Nothing is computed: the network lives on torch's ``meta`` device, so the full CytoDiffusion network is counted in
seconds, without its weights. Operations are those of torch's own counter (matrix products, convolutions, attention; a
multiplication with its addition is two). Bytes are those that operators write, each once, in single precision: the
traffic of a runtime that fuses nothing, so an upper bound for one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cytoserve_export.conditioning import CONTEXT_TOKENS, Conditioning
from cytoserve_export.networks import Trunk, conditioned_trunk

META: Final = torch.device("meta")
_UNTYPED_UNET: Any = UNet2DConditionModel


@dataclass(frozen=True)
class Cost:
    """Cost of one evaluation (one latent, one probe, one class): operations, bytes written, and weights read."""

    flops: int
    bytes_written: int
    parameters: int


@dataclass(frozen=True)
class DenoiserCosts:
    """The denoiser with every context token, as trained; with the tokens that differ; with constant cross-attention."""

    unmodified: Cost
    one_token: Cost
    folded: Cost


class _Written(TorchDispatchMode):
    """Add up the bytes of every new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, Tensor):
                    self.bytes += tensor.numel() * tensor.element_size()
        return out


def count(module: nn.Module, run: Callable[[], object]) -> Cost:
    """Return the cost of ``run``, which calls ``module`` with one row of ``meta`` tensors."""
    flops, written = FlopCounterMode(display=False), _Written()
    with torch.no_grad(), flops:
        run()
    with torch.no_grad(), written:
        run()
    return Cost(flops.get_total_flops(), written.bytes, sum(p.numel() for p in module.parameters()))


def denoiser_costs(config: Mapping[str, Any], conditioning: Conditioning, shape: tuple[int, int, int]) -> DenoiserCosts:
    """Count the network that ``unet/config.json`` describes, on latents of ``shape``."""
    with META:
        unet = _UNTYPED_UNET.from_config(dict(config)).eval()
    z, width = torch.zeros((1, *shape), device=META), unet.time_embedding.linear_2.out_features
    embedding = torch.zeros((1, width), device=META)

    def of(trunk: Trunk, tokens: int, depth: int | None) -> Cost:
        context = None if depth is None else torch.zeros((1, tokens, depth), device=META)
        return count(trunk, lambda: trunk(z, embedding, context))

    plain, depth = Trunk(unet), conditioning.context_dim
    every = CONTEXT_TOKENS if conditioning.tokens is None else conditioning.tokens.shape[1]
    unmodified = of(plain, every, depth)
    if depth is None or not conditioning.equal_tokens:
        return DenoiserCosts(unmodified, unmodified, unmodified)
    folded, table = conditioned_trunk(unet, conditioning, True)
    assert table is not None
    return DenoiserCosts(unmodified, of(plain, 1, depth), of(folded, 1, table.shape[2]))
