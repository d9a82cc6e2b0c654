"""The denoiser: its network, its noise schedule, and the losses it learns from.

Notation follows Ho et al. 2020 and Salimans & Ho 2022: ``z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps``; the network
predicts ``v = sqrt(abar_t) eps - sqrt(1 - abar_t) z``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class DenoiserConfig:
    """Size of the reference network."""

    classes: int = 8
    latent_channels: int = 24
    grid: int = 16
    channels: tuple[int, ...] = (64, 128, 192)
    layers_per_block: int = 1


def build_unet(config: DenoiserConfig) -> UNet2DConditionModel:
    """Build the reference ``UNet2DConditionModel``.

    The class enters as a one-hot vector added to the time embedding (``class_embed_type="projection"``), which scales
    and shifts every residual block: no attention is needed, and a 4 x 4 lowest level sees the whole cell.
    """
    levels = len(config.channels)
    return UNet2DConditionModel(
        sample_size=config.grid,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.channels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        mid_block_type=None,
        layers_per_block=config.layers_per_block,
        norm_num_groups=16,
        cross_attention_dim=config.classes,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=config.classes,
        resnet_time_scale_shift="scale_shift",
    )


def build_scheduler() -> DDIMScheduler:
    """Return the cosine schedule with v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
    )


def predict(unet: nn.Module, noisy: Tensor, timestep: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Run the network on (B, C, h, w) latents with (B,) timesteps and (B,) class indices."""
    one_hot = F.one_hot(labels, classes).to(noisy.dtype)
    return unet(noisy, timestep, None, class_labels=one_hot).sample


def diffuse(latent: Tensor, noise: Tensor, timestep: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(z_t, v)`` for (B, C, h, w) latents and noise and (B,) int64 timesteps."""
    abar = alphas_cumprod[timestep][:, None, None, None]
    a, s = abar.sqrt(), (1 - abar).sqrt()
    return a * latent + s * noise, a * noise - s * latent


def row_error(prediction: Tensor, target: Tensor, channel_weight: Tensor, mask: Tensor) -> Tensor:
    """Return the (B,) error: channel-weighted, masked mean of squares.

    Parameters
    ----------
    prediction, target : (B, C, h, w) float tensor
    channel_weight : (C,) float tensor with mean 1
    mask : (h, w) 0/1 float tensor
    """
    squared = (prediction.float() - target).square() * mask
    return (squared.sum((2, 3)) * channel_weight).sum(1) / (mask.sum() * len(channel_weight))


class PairwiseMargin(nn.Module):
    """Logistic loss on the difference between a rival's error and the true class's error.

    ``log(1 + exp(-s_t (e_rival - e_true)))`` with a scale ``s_t`` learned per band of timesteps: the right class shall
    predict the noise best (a one-rival sample of the softmax over all classes). Hard rivals are drawn more often.
    """

    def __init__(self, classes: int, bands: int = 10, scale: float = 100.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((bands,), scale).log())
        self.bands = bands
        self.hardness: Tensor
        self.register_buffer("hardness", torch.ones(classes, classes))

    def scale_at(self, timestep: Tensor) -> Tensor:
        """Return ``s_t`` for (B,) timesteps."""
        return self.log_scale[(timestep * self.bands) // TRAIN_TIMESTEPS].exp()

    def draw_rivals(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return one rival class per label, more often one that has been hard."""
        weight = self.hardness[labels] + 0.25 * self.hardness.mean()
        weight.scatter_(1, labels[:, None], 0.0)
        return torch.multinomial(weight, 1, generator=generator)[:, 0]

    def forward(self, true: Tensor, rival: Tensor, timestep: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
        """Return the mean loss of (B,) paired errors and remember which pairs were hard."""
        loss = F.softplus(-self.scale_at(timestep) * (rival - true))
        with torch.no_grad():
            for label, other, value in zip(labels.tolist(), rivals.tolist(), loss.tolist(), strict=True):
                self.hardness[label, other] += 0.02 * (value - self.hardness[label, other])
        return loss.mean()
