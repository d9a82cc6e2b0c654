"""What does not depend on the class, computed once per (cell, probe) instead of once per class.

In a network that is told its class by cross-attention, everything up to the first cross-attention is the same for all
classes: the first convolution, the first residual block, and the first self-attention. In one that is told by the time
embedding (the reference model) every residual block depends on the class, and only the first convolution does not.

The contract's ``denoiser`` answers one (latent, probe, class) a row, so a graph that shares is another graph: its
answer is one row of errors, all classes at once. It is built and measured here (``benchmarks/export_shortcut.py``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cytoserve_export.errors import ShortcutRefused
from cytoserve_export.networks import TracedDenoiser
from cytoserve_export.shortcut import ConstantAttention


class AllClasses(nn.Module):
    """(latent, probe) -> the error under every class, with the class-independent beginning run once.

    Parameters
    ----------
    denoiser : TracedDenoiser
        With folded cross-attention. It is used, not copied.

    Raises
    ------
    ShortcutRefused
        The network's first conditioned layer is not a folded cross-attention of its first block.
    """

    def __init__(self, denoiser: TracedDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        if denoiser.tables.embedding is not None:
            raise ShortcutRefused("the class is in the time embedding, before the first block: nothing to share")
        block = denoiser.trunk.down_blocks[0]
        first = block.attentions[0].transformer_blocks[0] if getattr(block, "has_cross_attention", False) else None
        if first is None or not isinstance(first.attn2, ConstantAttention):
            raise ShortcutRefused("the first block has no folded cross-attention: there is nothing to share")

    def forward(self, latent: Tensor, probe: Tensor) -> Tensor:
        """Return (B, classes) errors of (B, C, H, W) latents under (B, 1) int32 probes."""
        net, row = self.denoiser, probe[:, 0]
        noise = net.noise.index_select(0, row).float()
        signal, spread = net.signal.index_select(0, row), net.spread.index_select(0, row)
        context = net.tables.context
        assert context is not None
        prediction = self._predict(signal * latent + spread * noise, net.time.index_select(0, row), context)
        target = signal * noise - spread * latent if net.velocity else noise
        residual = prediction.unflatten(0, (-1, len(context))) - target[:, None]
        weighted: Tensor = residual * residual * (net.weight.index_select(0, row) * net.area)[:, None]
        return weighted.sum(dim=(2, 3, 4))

    def _predict(self, z: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Return (B * classes, C, H, W) predictions, classes running fastest."""
        trunk, classes = self.denoiser.trunk, len(context)
        embedding = time if trunk.time_embed_act is None else trunk.time_embed_act(time)
        block = trunk.down_blocks[0]
        first = trunk.conv_in(z)
        x = block.resnets[0](first, embedding)
        tokens = before_context(block.attentions[0], x)

        def each(rows: Tensor) -> Tensor:
            return rows.repeat_interleave(classes, dim=0)

        told = context.repeat(len(z), 1, 1)
        x, embedding = after_context(block.attentions[0], each(tokens), each(x), told), each(embedding)
        skips: tuple[Tensor, ...] = (each(first), x)
        for resnet, attention in zip(list(block.resnets)[1:], list(block.attentions)[1:], strict=True):
            x = attention(resnet(x, embedding), encoder_hidden_states=told, return_dict=False)[0]
            skips += (x,)
        for downsampler in block.downsamplers or ():
            x = downsampler(x)
            skips += (x,)
        return trunk.onward(x, skips, embedding, told, 1)


def before_context(attention: Any, x: Tensor) -> Tensor:
    """Return the (B, H * W, inner) tokens of a ``Transformer2DModel`` just before its first cross-attention."""
    hidden = attention.norm(x)
    if not attention.use_linear_projection:
        hidden = attention.proj_in(hidden)
    hidden = hidden.flatten(2).transpose(1, 2)
    if attention.use_linear_projection:
        hidden = attention.proj_in(hidden)
    block = attention.transformer_blocks[0]
    told: Tensor = hidden + block.attn1(block.norm1(hidden))
    return told


def after_context(attention: Any, hidden: Tensor, x: Tensor, context: Tensor) -> Tensor:
    """Finish a ``Transformer2DModel`` from the tokens of :func:`before_context`; ``x`` is what it had been given."""
    blocks = list(attention.transformer_blocks)
    hidden = hidden + blocks[0].attn2(hidden, context)
    hidden = hidden + blocks[0].ff(blocks[0].norm3(hidden))
    for block in blocks[1:]:
        hidden = block(hidden, encoder_hidden_states=context)
    if attention.use_linear_projection:
        hidden = attention.proj_out(hidden)
    hidden = hidden.transpose(1, 2).unflatten(2, x.shape[-2:])
    if not attention.use_linear_projection:
        hidden = attention.proj_out(hidden)
    answer: Tensor = hidden + x
    return answer
