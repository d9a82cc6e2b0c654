"""``cytoserve export inspect``: what a checkpoint is, what an evaluation costs, what the export refuses.

Weights are not loaded: names and shapes come from the headers of the safetensors files, costs from
:mod:`cytoserve_export.cost`. So NaN in the weights is not seen here; the export looks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from cytoserve_export.checkpoint import WEIGHTS, Checkpoint, _refuse_pickle_bytes, missing_weights
from cytoserve_export.cost import denoiser_costs
from cytoserve_export.errors import CheckpointError, MalformedFile, UnsupportedArchitecture
from cytoserve_export.precision import PRECISIONS

_BYTES: Final = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def inspect(folder: Path) -> dict[str, Any]:
    """Return what is known of the checkpoint in ``folder``, as plain JSON values.

    ``refused`` lists every refusal with its class; an export without any can still fail on NaN weights. Where the
    configuration itself is refused, nothing else is returned.
    """
    try:
        checkpoint = Checkpoint(folder)
    except CheckpointError as error:
        return {"folder": folder.name, "refused": [_as_text(error)]}
    checks = (lambda: check_headers(checkpoint), checkpoint.probes, lambda: _autoencoder(checkpoint))
    refused = [_as_text(refusal) for refusal in map(_refusal, checks) if refusal is not None]
    costs = denoiser_costs(checkpoint.unet_config, checkpoint.conditioning, checkpoint.geometry.latent_shape)
    geometry, conditioning = checkpoint.geometry, checkpoint.conditioning
    evaluations = (geometry.told_classes or 1) * int(checkpoint.scoring.get("default_budget", 0))
    return {
        "folder": folder.name,
        "name": checkpoint.index.get("name", folder.name),
        "denoiser": checkpoint.unet_config["_class_name"],
        "autoencoder": checkpoint.vae_config.get("_class_name"),
        "segmenter": checkpoint.has_detector,
        "classes": list(geometry.classes),
        "crop": {"size": geometry.size, "um_per_pixel": geometry.um_per_pixel, "circular": geometry.circular},
        "latent_shape": list(geometry.latent_shape),
        "prediction_type": checkpoint.schedule.prediction_type,
        "conditioning": conditioning.kind,
        "shortcut": conditioning.context_dim is not None and conditioning.equal_tokens,
        "probes": checkpoint.scoring.get("probes"),
        "evaluations_per_cell": evaluations,
        "cost": asdict(costs),
        "flops_per_cell": costs.folded.flops * evaluations,
        "weight_bytes": {name: costs.folded.parameters * _BYTES[name] for name in PRECISIONS},
        "refused": refused,
    }


def _refusal(work: Callable[[], object]) -> CheckpointError | None:
    try:
        work()
    except CheckpointError as error:
        return error
    return None


def _as_text(error: CheckpointError) -> str:
    return f"{type(error).__name__}: {error}"


def _autoencoder(checkpoint: Checkpoint) -> None:
    kind = checkpoint.vae_config.get("_class_name")
    if kind not in ("AutoencoderKL", "PatchPCAAutoencoder"):
        raise UnsupportedArchitecture(
            f"vae/config.json describes a {kind!r}; known: AutoencoderKL, PatchPCAAutoencoder"
        )
    path = checkpoint.folder / "vae" / WEIGHTS
    missing_weights(path)
    _refuse_pickle_bytes(path)


def check_headers(checkpoint: Checkpoint) -> None:
    """Compare names and shapes in the header of the denoiser's weights with its configuration.

    Raises
    ------
    MissingFile, PickledWeights, MalformedFile, UnsupportedArchitecture
    """
    path = checkpoint.folder / "unet" / WEIGHTS
    missing_weights(path)
    _refuse_pickle_bytes(path)
    try:
        with safe_open(path, "pt") as file:
            have = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise MalformedFile(f"{path} is not a safetensors file: {error}") from error
    with torch.device("meta"):
        net = checkpoint.empty_unet()
    want = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    odd = sorted(name for name in {*have, *want} if have.get(name) != want.get(name))
    if odd:
        raise UnsupportedArchitecture(
            f"{path} does not fit its config.json in {len(odd)} tensors, first {odd[0]}: file {have.get(odd[0])}, "
            f"configuration {want.get(odd[0])}"
        )
