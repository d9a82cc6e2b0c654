"""The torch modules that are traced: one per graph, with the contract's inputs and outputs.

What depends only on the probe or only on the class is computed once, here, and becomes a table in the graph: the
time embedding of each probe, the class embedding (or context token) of each class, the noise level of each probe. The
parity check compares the result with the unmodified ``UNet2DConditionModel``.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from cytoserve_networks.autoencoder import circular_window
from diffusers import AutoencoderKL
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from cytoserve_export.checkpoint import Checkpoint, Geometry, ProbeBank, Schedule
from cytoserve_export.conditioning import Conditioning
from cytoserve_export.errors import UnknownModel
from cytoserve_export.shortcut import fold

# Modules of diffusers are untyped to a checker: their attributes are registered at run time.
Network = Any


class Upsample(nn.Module):
    """:class:`diffusers.models.upsampling.Upsample2D` without its branches on the batch size.

    Those branches choose a memory layout only, but make a dynamic batch axis untraceable.
    """

    conv: nn.Conv2d

    def __init__(self, source: Network) -> None:
        super().__init__()
        self.conv = source.conv

    def forward(self, hidden: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        """Double height and width of (B, C, H, W), or bring them to ``output_size``, then convolve."""
        if output_size is None:
            hidden = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
        else:
            hidden = F.interpolate(hidden, size=tuple(output_size), mode="nearest")
        return self.conv(hidden)


def _traceable(module: Network) -> Network:
    """Replace every plain ``Upsample2D`` below ``module`` in place and return it."""
    for name, child in module.named_children():
        if isinstance(child, Upsample2D) and child.norm is None and not child.use_conv_transpose and child.use_conv:
            setattr(module, name, Upsample(child))
        else:
            _traceable(child)
    return module


class Trunk(nn.Module):
    """A ``UNet2DConditionModel`` from its embedding on: (noisy latent, embedding, context) -> prediction."""

    conv_in: Network
    conv_out: Network
    down_blocks: Network
    mid_block: Network
    up_blocks: Network
    conv_norm_out: Network
    conv_act: Network
    time_embed_act: Network

    def __init__(self, unet: Network) -> None:
        super().__init__()
        net = _traceable(copy.deepcopy(unet))
        self.conv_in, self.conv_out = net.conv_in, net.conv_out
        self.down_blocks, self.mid_block, self.up_blocks = net.down_blocks, net.mid_block, net.up_blocks
        self.conv_norm_out, self.conv_act = net.conv_norm_out, net.conv_act
        self.time_embed_act = net.time_embed_act
        self.upsamplers = net.num_upsamplers

    def forward(self, z: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        """Run the network as ``UNet2DConditionModel.forward`` does after its time and class embeddings.

        Parameters
        ----------
        z : (B, C, H, W) tensor
        embedding : (B, D) tensor
            Sum of time and class embedding.
        context : (B, T, K) tensor or None

        Returns
        -------
        (B, C, H, W) tensor
        """
        if self.time_embed_act is not None:
            embedding = self.time_embed_act(embedding)
        x = self.conv_in(z)
        skips: tuple[Tensor, ...] = (x,)
        # Grids like 45 x 45 halve to odd sides, so the way up needs the sizes to return to.
        odd = any(side % 2**self.upsamplers for side in x.shape[-2:])
        for block in self.down_blocks:
            x, more = block(hidden_states=x, temb=embedding, **_context(block, context))
            skips += more
        if self.mid_block is not None:
            x = self.mid_block(x, embedding, **_context(self.mid_block, context))
        for index, block in enumerate(self.up_blocks):
            count = len(block.resnets)
            taken, skips = skips[-count:], skips[:-count]
            size = skips[-1].shape[2:] if odd and index + 1 < len(self.up_blocks) else None
            x = block(
                hidden_states=x,
                temb=embedding,
                res_hidden_states_tuple=taken,
                upsample_size=size,
                **_context(block, context),
            )
        if self.conv_norm_out is not None:
            x = self.conv_act(self.conv_norm_out(x))
        return self.conv_out(x)


def _context(block: Any, context: Tensor | None) -> dict[str, Tensor | None]:
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}


class ClassTables(nn.Module):
    """Class index -> class embedding and context (folded or tokens), as two small tables."""

    embedding: Tensor | None
    context: Tensor | None

    def __init__(self, unet: Network, conditioning: Conditioning, context: Tensor | None) -> None:
        super().__init__()
        every = torch.arange(conditioning.classes)
        embedding = None
        if conditioning.kind == "class_embedding":
            embedding = unet.class_embedding(conditioning.one_hot(every)).detach()
        self.register_buffer("embedding", embedding)
        self.register_buffer("context", context)

    def forward(self, time: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Add the class to (B, D) time embeddings; return them and the (B, 1, K) context of (B,) classes.

        None stands for the classes of a network that answers them all.
        """
        if classes is None:
            return time, None
        embedding = time if self.embedding is None else time + self.embedding.index_select(0, classes)
        return embedding, None if self.context is None else self.context.index_select(0, classes)


def conditioned_trunk(unet: Network, conditioning: Conditioning, shortcut: bool | None) -> tuple[Trunk, Tensor | None]:
    """Return the trunk and the (C, T, K) context table that its blocks attend to.

    ``shortcut`` makes cross-attention a constant per class; None does so where that is exact.

    Raises
    ------
    ShortcutRefused
        ``shortcut`` is True where it is not exact.
    """
    trunk = Trunk(unet)
    if conditioning.context_dim is None:
        return trunk, None
    if shortcut or (shortcut is None and conditioning.equal_tokens):
        return trunk, fold(trunk, conditioning)
    return trunk, conditioning.token(torch.arange(conditioning.classes))


class QuarterTurns(nn.Module):
    """Turns each row's latent by the quarters of its probe: the grid by a table of places, the channels by a matrix."""

    place: Tensor
    matrix: Tensor
    offset: Tensor

    def __init__(self, turn: Tensor, matrix: Tensor, offset: Tensor, side: int) -> None:
        super().__init__()
        place, whole, shift = torch.arange(side * side).reshape(side, side), torch.eye(len(offset)), offset * 0
        places, matrices, offsets = [], [], []
        for _ in range(4):
            places.append(place.flatten())
            matrices.append(whole)
            offsets.append(shift)
            place, whole, shift = torch.rot90(place), matrix @ whole, matrix @ shift + offset
        self.register_buffer("place", torch.stack(places)[turn])
        self.register_buffer("matrix", torch.stack(matrices)[turn])
        self.register_buffer("offset", torch.stack(offsets)[turn][:, :, None])

    def forward(self, latent: Tensor, row: Tensor) -> Tensor:
        """Return (B, C, H, W) latents, each turned as the (B,) probe has it."""
        flat = latent.flatten(2)
        place = self.place.index_select(0, row)[:, None].expand(-1, flat.shape[1], -1)
        turned = torch.matmul(self.matrix.index_select(0, row), flat.gather(2, place))
        return (turned + self.offset.index_select(0, row)).reshape(latent.shape)


class TracedDenoiser(nn.Module):
    """(latent, probe[, class]) -> weighted masked squared error of the prediction under that class, or under each.

    With ``a`` the cumulative alpha of the probe's timestep and ``e`` its noise: ``z = sqrt(a) x + sqrt(1-a) e``, and
    the target is ``e`` (epsilon) or ``sqrt(a) e - sqrt(1-a) x`` (v_prediction; Salimans and Ho 2022). A bank that turns
    has ``x`` turned first, for each probe in its own way.
    """

    noise: Tensor
    weight: Tensor
    area: Tensor
    signal: Tensor
    spread: Tensor
    time: Tensor

    def __init__(
        self,
        unet: Network,
        conditioning: Conditioning,
        schedule: Schedule,
        probes: ProbeBank,
        shortcut: bool | None = None,
    ) -> None:
        super().__init__()
        self.velocity = schedule.prediction_type == "v_prediction"
        self.heads = conditioning.heads
        alphas = schedule.alphas_cumprod[probes.timestep].reshape(-1, 1, 1, 1)
        self.register_buffer("noise", probes.noise)
        self.register_buffer("weight", probes.weight)
        self.register_buffer("area", (probes.mask / probes.mask.sum())[None, None])
        self.register_buffer("signal", alphas.sqrt())
        self.register_buffer("spread", (1 - alphas).sqrt())
        self.register_buffer("time", unet.time_embedding(unet.time_proj(probes.timestep)).detach())
        self.turns: QuarterTurns | None = None
        if probes.turn is not None and probes.turn_matrix is not None and probes.turn_offset is not None:
            side = probes.mask.shape[0]
            self.turns = QuarterTurns(probes.turn, probes.turn_matrix, probes.turn_offset, side)
        self.trunk, context = conditioned_trunk(unet, conditioning, shortcut)
        self.tables = ClassTables(unet, conditioning, context)

    def forward(self, latent: Tensor, probe: Tensor, label: Tensor | None = None) -> Tensor:
        """Return errors of (B, C, H, W) latents and (B, 1) int32 probes.

        (B, 1) under (B, 1) int32 classes; without, (B, K) under each of the K classes.
        """
        row = probe[:, 0]
        if self.turns is not None:
            latent = self.turns(latent, row)
        noise = self.noise.index_select(0, row).float()
        signal, spread = self.signal.index_select(0, row), self.spread.index_select(0, row)
        embedding, context = self.tables(self.time.index_select(0, row), None if label is None else label[:, 0])
        prediction = self.trunk(signal * latent + spread * noise, embedding, context)
        target = signal * noise - spread * latent if self.velocity else noise
        predicted = prediction.reshape(-1, self.heads, *latent.shape[1:])
        residual = (predicted - target[:, None]) * (self.weight.index_select(0, row) * self.area).sqrt()[:, None]
        weighted: Tensor = residual * residual
        return weighted.sum(dim=(2, 3, 4))


def chosen_head(prediction: Tensor, label: Tensor, heads: int) -> Tensor:
    """Return the (B, C, H, W) predictions under (B,) int64 classes among (B, heads * C, H, W) of all classes."""
    channels, height, width = prediction.shape[1] // heads, *prediction.shape[2:]
    every = prediction.reshape(-1, heads, channels, height, width)
    at = label[:, None, None, None, None].expand(-1, 1, channels, height, width)
    return every.gather(1, at)[:, 0]


class NoisePredictor(nn.Module):
    """(noisy latent, timestep, class) -> the noise in it, whatever the prediction type."""

    signal: Tensor
    spread: Tensor

    def __init__(
        self, unet: Network, conditioning: Conditioning, schedule: Schedule, shortcut: bool | None = None
    ) -> None:
        super().__init__()
        self.velocity = schedule.prediction_type == "v_prediction"
        self.heads = conditioning.heads
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        alphas = schedule.alphas_cumprod.reshape(-1, 1, 1, 1)
        self.register_buffer("signal", alphas.sqrt())
        self.register_buffer("spread", (1 - alphas).sqrt())
        self.trunk, context = conditioned_trunk(unet, conditioning, shortcut)
        self.tables = ClassTables(unet, conditioning, context)

    def forward(self, latent: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """Return the (B, C, H, W) noise of latents at (B, 1) int64 timesteps under (B, 1) int32 classes."""
        step = timestep[:, 0]
        classes = label[:, 0] if self.heads == 1 else None
        embedding, context = self.tables(self.time_embedding(self.time_proj(step)), classes)
        prediction: Tensor = self.trunk(latent, embedding, context)
        if self.heads > 1:
            prediction = chosen_head(prediction, label[:, 0].long(), self.heads)
        if not self.velocity:
            return prediction
        return self.signal.index_select(0, step) * prediction + self.spread.index_select(0, step) * latent


def _with_spare_row(rows: Tensor) -> Tensor:
    """Append one row of zeros, for networks whose attention cannot be run on no rows at all.

    A field without white cells has no rows, and ONNX Runtime refuses to infer a shape from zero elements. The caller
    drops the last row of the answer.
    """
    return torch.cat([rows, rows.new_zeros((1, *rows.shape[1:]))])


class Encoder(nn.Module):
    """uint8 crops -> latents, for both autoencoders."""

    autoencoder: Network
    window: Tensor | None

    def __init__(self, autoencoder: Network, geometry: Geometry) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.kl = isinstance(autoencoder, AutoencoderKL)
        # The PCA autoencoder brings its own window; before a KL one the corners are greyed the same way, if the
        # checkpoint was trained so.
        self.register_buffer("window", circular_window(geometry.size) if self.kl and geometry.circular else None)

    def forward(self, crop: Tensor) -> Tensor:
        """Encode (M, S, S, 3) uint8 crops into (M, C, H, W) float32 latents; the mean, not a sample."""
        if not self.kl:
            return self.autoencoder.encode(crop)
        images = _with_spare_row(crop).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        if self.window is not None:
            images = images * self.window
        config = self.autoencoder.config
        moments = self.autoencoder._encode(images)[:-1]
        return (moments[:, : config.latent_channels] - (config.shift_factor or 0.0)) * config.scaling_factor


class Decoder(nn.Module):
    """Latents -> crops in 0..1, for both autoencoders."""

    autoencoder: Network

    def __init__(self, autoencoder: Network) -> None:
        super().__init__()
        self.autoencoder = _traceable(copy.deepcopy(autoencoder))
        self.kl = isinstance(autoencoder, AutoencoderKL)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode (M, C, H, W) latents into (M, S, S, 3) float32 crops in 0..1."""
        if not self.kl:
            return self.autoencoder.decode(latent)
        config = self.autoencoder.config
        images = _with_spare_row(latent) / config.scaling_factor + (config.shift_factor or 0.0)
        if self.autoencoder.post_quant_conv is not None:
            images = self.autoencoder.post_quant_conv(images)
        images = self.autoencoder.decoder(images)[:-1]
        return (images * 0.5 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)


def build(name: str, checkpoint: Checkpoint) -> nn.Module:
    """Build the module behind the graph ``name`` from a checkpoint.

    Raises
    ------
    CheckpointError
        Weights are missing, foreign, pickled or not finite.
    """
    if name == "segmenter":
        return checkpoint.detector()
    if name == "encoder":
        return Encoder(checkpoint.autoencoder(), checkpoint.geometry).eval()
    if name == "decoder":
        return Decoder(checkpoint.autoencoder()).eval()
    if name == "denoiser":
        bank = checkpoint.probes()
        return TracedDenoiser(checkpoint.unet(), checkpoint.conditioning, checkpoint.schedule, bank).eval()
    if name == "noise_predictor":
        return NoisePredictor(checkpoint.unet(), checkpoint.conditioning, checkpoint.schedule).eval()
    raise UnknownModel(f"no graph is called {name!r}")
