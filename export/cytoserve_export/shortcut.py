"""The exact shortcut: cross-attention over equal tokens is one constant vector per class.

With ``T`` equal tokens ``c`` every key equals every other, so each softmax is ``1/T`` whatever the query is, and the
attention's answer is ``W_o W_v c + b_o`` at every pixel. No query, no key, no softmax and no layer norm before it is
needed: what is left is one addition. The sum is computed here, once, in double precision.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from cytoserve_export.conditioning import Conditioning
from cytoserve_export.errors import ShortcutRefused

_PLAIN_ATTENTION = ("norm_q", "norm_k", "norm_cross", "group_norm", "spatial_norm", "add_k_proj", "add_v_proj")
"""Attributes of an attention layer that are None in Stable Diffusion 1.5; any of them would change the answer."""


class ConstantAttention(nn.Module):
    """Replaces a cross-attention and returns its slice, ``start`` to ``stop``, of the class's row."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Return (B, 1, inner) of the (B, 1, K) folded row; it is added to every pixel by broadcasting."""
        assert encoder_hidden_states is not None
        return encoder_hidden_states[:, :, self.start : self.stop]


def fold(trunk: nn.Module, conditioning: Conditioning) -> Tensor:
    """Replace every cross-attention below ``trunk`` in place; return the folded (C, 1, K) table in the weights' type.

    ``K`` is the sum of the layers' widths: the blocks are handed a row of this table where they were handed tokens.

    Raises
    ------
    ShortcutRefused
        The tokens of a class differ, or a block does more with its context than plain cross-attention.
    """
    if not conditioning.equal_tokens:
        raise ShortcutRefused(
            "the context tokens of a class differ from each other, so cross-attention depends on the query and is no "
            "constant"
        )
    token = conditioning.token(torch.arange(conditioning.classes))
    if token is None:
        raise ShortcutRefused("this network has no cross-attention: there is nothing to fold")
    rows: list[Tensor] = []
    start, dtype = 0, torch.float32
    for name, module in trunk.named_modules():
        if not isinstance(module, BasicTransformerBlock):
            if hasattr(module, "attn2"):
                raise ShortcutRefused(f"{name} is a {type(module).__name__}, whose attention is not known here")
            continue
        block: Any = module
        if block.attn2 is None:
            continue
        _refuse_unusual(name, block)
        dtype = block.attn2.to_v.weight.dtype
        rows.append(constant(block.attn2, token[:, 0]))
        stop = start + rows[-1].shape[1]
        block.attn2 = ConstantAttention(start, stop)
        block.norm2 = nn.Identity()  # the query's norm, not used any more
        start = stop
    if not rows:
        raise ShortcutRefused("no cross-attention block was found although the configuration names one")
    return torch.cat(rows, dim=1)[:, None, :].to(dtype)


def constant(attention: Any, token: Tensor) -> Tensor:
    """Return the (C, inner) answer of one cross-attention to (C, K) single tokens, float64."""
    value, out = attention.to_v, attention.to_out[0]
    wide = token.to(value.weight.device).double() @ value.weight.double().T
    if value.bias is not None:
        wide = wide + value.bias.double()
    answer: Tensor = wide @ out.weight.double().T
    if out.bias is not None:
        answer = answer + out.bias.double()
    return answer.detach()


def _refuse_unusual(name: str, block: Any) -> None:
    odd = [key for key in _PLAIN_ATTENTION if getattr(block.attn2, key, None) is not None]
    if block.attn2.residual_connection or block.attn2.rescale_output_factor != 1:
        odd.append("residual_connection or rescale_output_factor")
    if block.only_cross_attention:
        odd.append("only_cross_attention")
    if block.norm_type != "layer_norm":
        odd.append(f"norm_type {block.norm_type}")
    if odd:
        raise ShortcutRefused(f"{name} uses {odd}: not the plain cross-attention that can be exported")
