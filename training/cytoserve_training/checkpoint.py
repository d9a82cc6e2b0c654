"""Write a trained run as a checkpoint in the ``diffusers`` layout, with its probe bank and fitted scoring."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from cytoserve_files import install, output_file, write_text
from cytoserve_networks.autoencoder import PatchPCAAutoencoder
from cytoserve_scoring.classifier.augmentation import TURNS, TieAugmentation
from cytoserve_scoring.classifier.familiarity import Assessment, FamiliarPictures
from cytoserve_scoring.classifier.fitting import RiskGuarantee, fit, fit_profiles, fit_referral
from cytoserve_scoring.classifier.racing_calibration import calibrate_racing
from cytoserve_scoring.classifier.replay import near_ties
from cytoserve_scoring.classifier.settings import BudgetSettings, ScoringConfig
from cytoserve_scoring.constants import PBC_UM_PER_PIXEL
from cytoserve_scoring.vision.cells import decode_cells
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from cytoserve_training.cells import CLASSES, CellSet, cut, load_cells
from cytoserve_training.denoiser import build_scheduler
from cytoserve_training.denoiser_train import class_errors, load_average
from cytoserve_training.probes import BankConfig, build_bank, latents_of

NOT_SHOWN = ("data", "out", "trunk", "start_from", "device", "threads", "save_every")
"""Settings of a run that say where things lay, or how it was run; ``trunk_sha256`` says what it began with."""

DECODED_AT_ONCE = 64
"""Files that are decoded in one call: within the limit of a request."""


@dataclass(frozen=True)
class PackConfig:
    """What is packed and on what it is fitted.

    ``racing_per_class`` validation cells a class give the racing rule and the anomaly profiles; at most ``calibrating``
    others, in their natural mixture, calibrate. The two are parted by a hash of the file name.
    """

    data: str = "../shared/data/pbc"
    run: str = "runs/denoiser"
    out: str = "models/reference"
    racing_per_class: int = 50
    calibrating: int = 800
    threads: int = 2
    bank: BankConfig = field(default_factory=BankConfig)


def part_cells(cells: CellSet, config: PackConfig) -> tuple[Tensor, Tensor]:
    """Return the rows for racing and the rows that calibrate: disjoint, by hash of the name, not by file order."""
    keys = [hashlib.sha256(name.encode()).hexdigest() for name in cells.names]
    by_key = sorted(range(len(cells)), key=lambda i: keys[i])
    labels = cells.labels.tolist()
    racing: list[int] = []
    for label in sorted(set(labels)):
        of_class = [i for i in by_key if labels[i] == label]
        racing += of_class[: min(config.racing_per_class, len(of_class) // 2)]
    taken = set(racing)
    calibrating = [i for i in by_key if i not in taken][: config.calibrating]
    return torch.tensor(racing), torch.tensor(calibrating)


def pack(config: PackConfig) -> Path:
    """Draw the bank, fit the scoring and write the checkpoint; the detector's folder is left alone."""
    torch.set_num_threads(config.threads)
    unet, autoencoder = load_average(Path(config.run))
    # Fitted in the precision that is stored: half, and back.
    unet = unet.half().float().to(memory_format=torch.channels_last)
    deviation = autoencoder.inverse.norm(dim=0)
    channel_weight, mask = deviation / deviation.mean(), autoencoder.patch_mask()
    cells = load_cells(Path(config.data) / "val")
    parts = part_cells(cells, config)
    alphas_cumprod = build_scheduler().alphas_cumprod
    latents = [latents_of(cut(cells.images[rows], cells.gains[rows]), autoencoder.encode) for rows in parts]
    labels = [cells.labels[rows].numpy() for rows in parts]
    shape = tuple(latents[0].shape[1:])
    bank, quarter_turn = build_bank(config.bank, shape), autoencoder.quarter_turn()

    def errors(rows: Tensor) -> Any:
        found = class_errors(unet, rows, bank, channel_weight, mask, alphas_cumprod, quarter_turn=quarter_turn)
        return found.double().numpy()

    racing, kept = (errors(part) for part in latents)
    matrix, offset = (part.numpy() for part in quarter_turn)
    augmentation = TieAugmentation(config.bank.look_again_below, config.bank.look_again_from, matrix, offset)
    both = (latents[0].numpy(), latents[1].numpy())
    ties = TieErrors(augmentation, both, errors)
    familiar, own = fit_familiar(Path(config.data) / "val", cells)
    scoring = fit_scoring(racing, kept, labels[1], shape, config.bank, ties, own.take(parts[1].numpy()))
    scoring["familiar"] = familiar.to_json()
    scoring["fitted_on"] = (
        f"pbc/val: {len(parts[0])} cells gave the racing rule and the anomaly profiles, "
        f"{len(parts[1])} others calibrated; parted by hash of the name"
    )
    channels = (channel_weight / len(channel_weight)).expand(len(bank.timestep), -1)
    probes = {
        "timestep": bank.timestep,
        "noise": bank.noise.half(),
        "weight": channels.float()[:, :, None, None].contiguous(),
        "mask": mask,
        "turn": bank.turn,
        "turn_matrix": quarter_turn[0].contiguous(),
        "turn_offset": quarter_turn[1].contiguous(),
    }
    write(Path(config.out), unet, autoencoder, probes, scoring)
    write_text(Path(config.out) / "training.json", json.dumps(phases(Path(config.run)), indent=1) + "\n")
    with output_file(Path(config.run) / "val_errors.npz") as file:
        np.savez_compressed(
            file,
            racing=racing,
            racing_labels=labels[0],
            calibrating=kept,
            calibrating_labels=labels[1],
            timestep=bank.timestep.numpy(),
        )
    write_text(Path(config.run) / "pack.json", json.dumps(asdict(config), indent=2) + "\n")
    return Path(config.out)


def phases(run: Path) -> list[dict[str, Any]]:
    """Return the settings of the runs that made the weights of ``run``, each begun from the one before it."""
    told = json.loads((run / "config.json").read_text(encoding="utf-8"))
    before = phases(Path(told["start_from"])) if told["start_from"] else []
    return [*before, {key: value for key, value in told.items() if key not in NOT_SHOWN}]


@dataclass(frozen=True)
class TieErrors:
    """Where the errors of turned near ties come from.

    ``latents`` are the (M, c, h, w) arrays of each part: of a fit, the racing and the calibrating cells. ``measure``
    returns the (R, P, C) errors of (R, c, h, w) latents.
    """

    augmentation: TieAugmentation
    latents: tuple[Any, ...]
    measure: Callable[[Tensor], Any]

    def turned(self, config: ScoringConfig, part: int, errors: Any, budgets: tuple[int, ...]) -> Any:
        """Return the (TURNS, M, P, C) errors of the near ties among the cells of a part, turned; NaN for the others."""
        out = np.full((TURNS, *errors.shape), np.nan)
        cells = near_ties(config, errors, budgets, self.augmentation)
        if not len(cells):
            return out
        for turn, latents in enumerate(self.augmentation.turned(self.latents[part][cells])):
            out[turn, cells] = self.measure(torch.from_numpy(latents))
        return out


def fit_familiar(folder: Path, cells: CellSet) -> tuple[FamiliarPictures, Assessment]:
    """Return the reference of familiar pictures, made of all validation cells as the service decodes them.

    No weight was trained on them, and no class score is looked at, so it may share cells with what else is fitted. The
    second is how familiar those cells are to references that they did not help to make.

    Raises
    ------
    ValueError
        A file was refused.
    """
    labels = [CLASSES[label] for label in cells.labels.tolist()]
    measured = statistics_of(folder, cells)
    return FamiliarPictures.fit(measured, labels), FamiliarPictures.cross_fitted(measured, labels)


def statistics_of(folder: Path, cells: CellSet) -> NDArray[np.float32]:
    """Return the image statistics of cells of PBC, whose files are below ``folder``, as the service decodes them.

    Raises
    ------
    ValueError
        A file was refused.
    """
    statistics = []
    for start in range(0, len(cells), DECODED_AT_ONCE):
        names = cells.names[start : start + DECODED_AT_ONCE]
        files = [(folder / name).read_bytes() for name in names]
        decoded = decode_cells(files, np.full(len(files), PBC_UM_PER_PIXEL, np.float32))
        if any(decoded.error):
            raise ValueError(f"refused: {next(pair for pair in zip(names, decoded.error, strict=True) if pair[1])}")
        statistics.append(decoded.statistics)
    return np.concatenate(statistics)


def fit_scoring(
    racing: Any,
    calibrating: Any,
    labels: Any,
    latent_shape: tuple[int, ...],
    config: BankConfig,
    ties: TieErrors | None = None,
    assessment: Assessment | None = None,
    all_classes: bool = True,
    classes: tuple[str, ...] = CLASSES,
) -> dict[str, Any]:
    """Return ``scoring.json``: racing rule and profiles from one part's errors, the rest from the other's.

    ``assessment`` says how familiar the calibrating cells are; see :func:`.fitting.fit_referral`. ``all_classes``:
    whether one evaluation answers all classes. ``classes`` are those of the errors' last axis.
    """
    rule = calibrate_racing(
        racing,
        default_alpha=config.alpha,
        confidence=config.confidence,
        minimum=config.minimum,
        confirm=config.confirm,
        unclear=config.unclear,
        all_classes=all_classes,
    )
    probes = config.probes
    bare = ScoringConfig(
        classes=classes,
        latent_shape=latent_shape,  # type: ignore[arg-type]
        budgets=(BudgetSettings(),) * probes,
        default_budget=probes,
        racing=rule,
        augmentation=None if ties is None else ties.augmentation,
        all_classes=all_classes,
    )
    guarantee = RiskGuarantee(config.tolerated_error, config.confidence)
    turned = [None, None]
    if ties is not None:
        turned = [ties.turned(bare, part, errors, config.budgets) for part, errors in enumerate((racing, calibrating))]
    profiles = fit_profiles(bare, racing, config.budgets, turned[0])
    profiled = replace(bare, budgets=tuple(BudgetSettings(profile=profile) for profile in profiles))
    scoring = {
        "classes": list(classes),
        "probes": probes,
        "default_budget": probes,
        "all_classes": all_classes,
        "latent_shape": list(latent_shape),
        "elimination": rule.to_json(),
        "anomaly_profile": [None if profile is None else profile.to_json() for profile in profiles],
        "second_look": None if ties is None else ties.augmentation.to_json(),
        **fit(profiled, calibrating, labels, guarantee, config.budgets, turned[1]),
    }
    fitted = ScoringConfig.from_json(scoring)
    return {**scoring, "expected_referral": fit_referral(fitted, calibrating, turned[1], assessment)}


def write(
    out: Path,
    unet: UNet2DConditionModel,
    autoencoder: PatchPCAAutoencoder,
    probes: dict[str, Tensor],
    scoring: dict[str, Any],
) -> None:
    """Write all folders of the checkpoint aside, then move each into place."""
    aside = out.with_name(out.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    unet.half().save_pretrained(aside / "unet", safe_serialization=True)
    autoencoder.save(aside / "vae")
    build_scheduler().save_pretrained(aside / "scheduler")
    (aside / "scoring").mkdir()
    save_file(probes, aside / "scoring" / "probes.safetensors")
    documents = {
        "scoring/scoring.json": scoring,
        "classes.json": {"classes": list(CLASSES)},
        "preprocessing.json": {"size": CROP_SIZE, "um_per_pixel": CROP_UM_PER_PIXEL, "circular": True},
        "model_index.json": {
            "_class_name": "CytoDiffusion",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["cytoserve_networks.autoencoder", "PatchPCAAutoencoder"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "segmenter": ["cytoserve_networks.detector", "DetectorNet"],
        },
    }
    for name, document in documents.items():
        write_text(aside / name, json.dumps(document, indent=1) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for item in sorted(aside.iterdir()):
        _move_in(item, out / item.name)
    aside.rmdir()


def _move_in(item: Path, path: Path) -> None:
    """Move a file or folder into place; a link there is followed, and an old folder goes after the new one came."""
    target = Path(os.path.realpath(path))
    if item.is_file():
        install(item, target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    shutil.move(item, target)
    shutil.rmtree(old, ignore_errors=True)
