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
    """Build the reference ``UNet2DConditionModel``, which answers all classes in one pass.

    The class comes last: the network takes no class, and its output holds one prediction per class, one after the other
    (RDC, Chen et al. 2024, answers so too). No attention is needed: a 4 x 4 lowest level sees the whole cell.
    """
    levels = len(config.channels)
    return UNet2DConditionModel(
        sample_size=config.grid,
        in_channels=config.latent_channels,
        out_channels=config.classes * config.latent_channels,
        block_out_channels=config.channels,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        mid_block_type=None,
        layers_per_block=config.layers_per_block,
        norm_num_groups=16,
        cross_attention_dim=config.classes,
        resnet_time_scale_shift="scale_shift",
    )


@torch.no_grad()
def take_trunk(unet: nn.Module, told: UNet2DConditionModel) -> None:
    """Begin a network of all classes with the weights of one that is told a class by embedding, of the same sizes.

    The mean over the classes stands in for the class, and every head begins as the one output that there was: at first
    all classes are predicted alike.
    """
    weights = told.state_dict()
    known = torch.eye(int(told.config.projection_class_embeddings_input_dim))
    mean = told.class_embedding(known).mean(0)
    kept = {name: value for name, value in weights.items() if not name.startswith("class_embedding")}
    kept["time_embedding.linear_2.bias"] = kept["time_embedding.linear_2.bias"] + mean
    heads = len(unet.state_dict()["conv_out.bias"]) // len(kept["conv_out.bias"])
    for name in ("conv_out.weight", "conv_out.bias"):
        kept[name] = torch.cat([kept[name]] * heads)
    unet.load_state_dict(kept)


def build_scheduler() -> DDIMScheduler:
    """Return the cosine schedule with v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
    )


def predict_all(unet: nn.Module, noisy: Tensor, timestep: Tensor, classes: int) -> Tensor:
    """Return the (B, K, C, h, w) predictions under every class for (B, C, h, w) latents with (B,) timesteps."""
    predicted: Tensor = unet(noisy, timestep, None).sample
    return predicted.unflatten(1, (classes, -1))


def predict(unet: nn.Module, noisy: Tensor, timestep: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the (B, C, h, w) predictions, each under its class of (B,) indices."""
    return predict_all(unet, noisy, timestep, classes)[torch.arange(len(labels)), labels]


def diffuse(latent: Tensor, noise: Tensor, timestep: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(z_t, v)`` for (B, C, h, w) latents and noise and (B,) int64 timesteps."""
    abar = alphas_cumprod[timestep][:, None, None, None]
    a, s = abar.sqrt(), (1 - abar).sqrt()
    return a * latent + s * noise, a * noise - s * latent


def class_errors_of(prediction: Tensor, target: Tensor, channel_weight: Tensor, mask: Tensor) -> Tensor:
    """Return the (B, K) errors of K predictions each: channel-weighted, masked means of squares.

    Parameters
    ----------
    prediction : (B, K, C, h, w) float tensor
    target : (B, C, h, w) float tensor
    channel_weight : (C,) float tensor with mean 1
    mask : (h, w) 0/1 float tensor
    """
    # channels come last in memory, as the network leaves them
    squared = (prediction.permute(0, 3, 4, 1, 2).float() - target.permute(0, 2, 3, 1)[:, :, :, None]).square()
    weight = mask[:, :, None] * channel_weight / (mask.sum() * len(channel_weight))
    return torch.einsum("bhwkc,hwc->bk", squared, weight)


class ClassMargin(nn.Module):
    """Cross-entropy over the errors of all classes: the right class shall predict the noise best.

    The logits are ``-s_t e_k`` with a scale ``s_t`` that is learned per band of timesteps. Every rival counts at the
    price of one pass.
    """

    def __init__(self, bands: int = 10, scale: float = 100.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((bands,), scale).log())
        self.bands = bands

    def logits(self, errors: Tensor, timestep: Tensor) -> Tensor:
        """Return (B, K) logits of (B, K) errors at (B,) timesteps."""
        return -self.log_scale[(timestep * self.bands) // TRAIN_TIMESTEPS].exp()[:, None] * errors

    def forward(self, errors: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of (B, K) errors with (B,) labels."""
        return F.cross_entropy(self.logits(errors, timestep), labels)

    def nobody(self, errors: Tensor, timestep: Tensor) -> Tensor:
        """Return the mean cross-entropy with a uniform target: no class shall lead (Hendrycks et al. 2019)."""
        return -F.log_softmax(self.logits(errors, timestep), dim=1).mean()
