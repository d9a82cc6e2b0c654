"""How a denoiser is told the class: read from its configuration, one of two ways.

``class_embedding``
    ``class_embed_type: "projection"``: a one-hot vector through a small network, added to the time embedding.
``context``
    Cross-attention on the one-hot vector, padded with zeros to ``cross_attention_dim`` and repeated as 77 equal tokens
    (CytoDiffusion). Attention over equal tokens is a mean of equal values, so one token gives the same answer; the
    graphs carry one, the torch reference of the parity check carries 77.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from .errors import UnsupportedArchitecture, WrongClassCount

Kind = Literal["class_embedding", "context"]

CONTEXT_TOKENS: Final = 77
"""Tokens of Stable Diffusion 1.5's text context, which CytoDiffusion keeps."""

PLAIN_BLOCKS: Final = frozenset({"DownBlock2D", "UpBlock2D", "UNetMidBlock2D", "AttnDownBlock2D", "AttnUpBlock2D"})
CROSS_BLOCKS: Final = frozenset({"CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UNetMidBlock2DCrossAttn"})

_MUST_BE_UNSET: Final = (
    "addition_embed_type",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
    "class_embeddings_concat",
    "center_input_sample",
    "num_class_embeds",
)


@dataclass(frozen=True)
class Conditioning:
    """How a network takes its class.

    Parameters
    ----------
    kind : {"class_embedding", "context"}
    classes : int
        Number of classes.
    context_dim : int or None
        Width of a context token; None when no block attends to a context.
    """

    kind: Kind
    classes: int
    context_dim: int | None

    @classmethod
    def read(cls, config: Mapping[str, Any], classes: int) -> Conditioning:
        """Read the way from ``unet/config.json``.

        Raises
        ------
        UnsupportedArchitecture
            Another kind of network or of conditioning.
        WrongClassCount
            The conditioning is not as wide as there are classes.
        """
        _refuse_unknown(config)
        cross = bool(CROSS_BLOCKS & set(_blocks(config)))
        width = _context_dim(config) if cross else None
        if config.get("class_embed_type") == "projection":
            wide = config.get("projection_class_embeddings_input_dim")
            if wide != classes:
                raise WrongClassCount(
                    f"classes.json names {classes} classes, but unet/config.json has "
                    f"projection_class_embeddings_input_dim {wide}; give the classes.json the network was trained with"
                )
            return cls("class_embedding", classes, width)
        if width is None:
            raise UnsupportedArchitecture(
                "unet/config.json has neither class_embed_type 'projection' nor a cross-attention block: "
                "this network cannot be told a class"
            )
        if classes > width:
            raise WrongClassCount(f"{classes} classes do not fit into a context token of width {width}")
        return cls("context", classes, width)

    def one_hot(self, classes: Tensor) -> Tensor:
        """Return (B, C) float32 one-hot rows of (B,) int64 class indices."""
        return torch.nn.functional.one_hot(classes, self.classes).float()

    def token(self, classes: Tensor) -> Tensor | None:
        """Return the (B, 1, context_dim) context token, None for a network without cross-attention.

        A network told by class embedding may still hold cross-attention blocks: it was trained with a zero context.
        """
        if self.context_dim is None:
            return None
        rows = torch.zeros(len(classes), 1, self.context_dim)
        if self.kind == "context":
            rows[:, 0, : self.classes] = self.one_hot(classes)
        return rows

    def reference_arguments(self, classes: Tensor) -> dict[str, Tensor | None]:
        """Return the keyword arguments with which the unmodified ``UNet2DConditionModel`` is called."""
        token = self.token(classes)
        return {
            "encoder_hidden_states": None if token is None else token.expand(-1, CONTEXT_TOKENS, -1),
            "class_labels": self.one_hot(classes) if self.kind == "class_embedding" else None,
        }


def _blocks(config: Mapping[str, Any]) -> list[str]:
    named = [*config.get("down_block_types", ()), *config.get("up_block_types", ()), config.get("mid_block_type")]
    return [name for name in named if name is not None]


def _context_dim(config: Mapping[str, Any]) -> int:
    width = config.get("cross_attention_dim")
    if not isinstance(width, int):
        raise UnsupportedArchitecture(f"cross_attention_dim must be one number for all blocks, not {width!r}")
    return width


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    name = config.get("_class_name")
    if name != "UNet2DConditionModel":
        raise UnsupportedArchitecture(f"unet/config.json describes a {name!r}; only UNet2DConditionModel is exported")
    unknown = sorted(set(_blocks(config)) - PLAIN_BLOCKS - CROSS_BLOCKS)
    if unknown:
        raise UnsupportedArchitecture(
            f"unet/config.json uses {unknown}; known blocks are {sorted(PLAIN_BLOCKS | CROSS_BLOCKS)}"
        )
    for key in _MUST_BE_UNSET:
        if config.get(key):
            raise UnsupportedArchitecture(f"unet/config.json sets {key} = {config[key]!r}, which is not exported")
    if config.get("class_embed_type") not in (None, "projection"):
        raise UnsupportedArchitecture(
            f"class_embed_type {config['class_embed_type']!r} is not exported; known are 'projection' and null"
        )
