"""How a denoiser takes its class, read from its configuration: one of three ways.

``heads``
    Not at all: it answers all classes in one pass, ``out_channels`` being one prediction per class, in order.
``class_embedding``
    ``class_embed_type: "projection"``: a one-hot vector through a small network, added to the time embedding.
``context``
    Cross-attention on the one-hot vector, padded with zeros to ``cross_attention_dim`` and repeated as 77 equal tokens
    (CytoDiffusion). Attention over equal tokens is a mean of equal values, whatever the query, so the graphs
    carry one constant vector per class and layer (:mod:`cytoserve_export.shortcut`); the torch reference of the parity
    check carries all 77 tokens. A checkpoint may bring tokens of its own in ``conditioning/context.safetensors``
    (tensor ``context``, one row of tokens per class); where those differ from each other the graph carries them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor

from cytoserve_export.errors import InconsistentCheckpoint, UnsupportedArchitecture, WrongClassCount

Kind = Literal["heads", "class_embedding", "context"]

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

    ``context_dim`` is the width of a context token, None when no block attends to a context; ``tokens`` are the
    checkpoint's own (C, T, K) float32 context tokens, None for the one-hot vector repeated.
    """

    kind: Kind
    classes: int
    context_dim: int | None
    tokens: Tensor | None = None

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
        if config.get("out_channels") == classes * int(config.get("in_channels", 0)):
            if cross or config.get("class_embed_type") is not None:
                raise UnsupportedArchitecture(
                    f"unet/config.json has out_channels for all {classes} classes and takes a class besides: "
                    "only a network that does one or the other is exported"
                )
            return cls("heads", classes, None)
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
                "unet/config.json has neither class_embed_type 'projection' nor a cross-attention block, nor "
                f"out_channels for all {classes} classes: this network knows no class"
            )
        if classes > width:
            raise WrongClassCount(f"{classes} classes do not fit into a context token of width {width}")
        return cls("context", classes, width)

    def with_tokens(self, tokens: Tensor) -> Conditioning:
        """Return the same way with the checkpoint's own (C, T, K) float tokens.

        Raises
        ------
        InconsistentCheckpoint
            The network takes no context, or the tokens have another shape.
        """
        if self.kind != "context" or tokens.ndim != 3 or tokens.shape[::2] != (self.classes, self.context_dim):
            raise InconsistentCheckpoint(
                f"conditioning/context.safetensors holds {tuple(tokens.shape)} tokens; this network takes "
                f"({self.classes}, T, {self.context_dim}) by cross-attention; remove the file or give its own"
            )
        return replace(self, tokens=tokens.float())

    @property
    def all_classes(self) -> bool:
        """Whether one evaluation answers all classes, rather than the one it is told."""
        return self.kind == "heads"

    @property
    def heads(self) -> int:
        """Classes that one evaluation answers."""
        return self.classes if self.all_classes else 1

    @property
    def equal_tokens(self) -> bool:
        """Whether every class's context tokens are the same vector, exactly: the premise of the shortcut."""
        return self.tokens is None or bool((self.tokens == self.tokens[:, :1]).all())

    def one_hot(self, classes: Tensor) -> Tensor:
        """Return (B, C) float32 one-hot rows of (B,) int64 class indices."""
        return torch.nn.functional.one_hot(classes, self.classes).float()

    def token(self, classes: Tensor) -> Tensor | None:
        """Return the context of (B,) classes, without repeated tokens; None without cross-attention.

        (B, 1, context_dim) where all tokens are equal, else (B, T, context_dim). A network with a class embedding may
        still hold cross-attention blocks: it was trained with a zero context.
        """
        if self.context_dim is None:
            return None
        if self.tokens is not None:
            return self.tokens[classes][:, : 1 if self.equal_tokens else None]
        rows = torch.zeros(len(classes), 1, self.context_dim)
        if self.kind == "context":
            rows[:, 0, : self.classes] = self.one_hot(classes)
        return rows

    def reference_arguments(self, classes: Tensor) -> dict[str, Tensor | None]:
        """Return the keyword arguments with which the unmodified ``UNet2DConditionModel`` is called."""
        token = self.token(classes)
        if self.tokens is not None:
            token = self.tokens[classes]
        elif token is not None:
            token = token.expand(-1, CONTEXT_TOKENS, -1)
        return {
            "encoder_hidden_states": token,
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
