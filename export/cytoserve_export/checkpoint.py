"""Read a checkpoint in the ``diffusers`` layout and refuse what cannot be exported, before any graph is built.

Only JSON and safetensors are read. Weights come back in single precision: fp16 values are exact in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from cytoserve_contract.models import DENOISER
from cytoserve_files import open_regular
from cytoserve_networks.autoencoder import PatchPCAAutoencoder
from cytoserve_networks.detector import NAMES_ON_DISK, DetectorNet
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cytoserve_export.conditioning import Conditioning
from cytoserve_export.errors import (
    InconsistentCheckpoint,
    MalformedFile,
    MissingFile,
    NanWeights,
    PickledWeights,
    UnsupportedArchitecture,
    WrongClassCount,
)
from cytoserve_export.files import read_json
from cytoserve_export.specs import SPECS, GraphSpec, denoiser_spec

WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
DETECTOR_WEIGHTS: Final = "model.safetensors"
PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HEAVY_BYTES: Final = 500 * 2**20
PREDICTION_TYPES: Final = ("epsilon", "v_prediction")

# The classes of diffusers carry annotations that a checker cannot follow (registered attributes, untyped helpers).
_UNTYPED_SCHEDULER: Any = DDIMScheduler
_UNTYPED_UNET: Any = UNet2DConditionModel
_UNTYPED_KL: Any = AutoencoderKL

_META: Final = torch.device("meta")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file into float32 tensors (integer tensors keep their type).

    Raises
    ------
    MissingFile, PickledWeights, MalformedFile, NanWeights
    """
    missing_weights(path)
    _refuse_pickle_bytes(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise MalformedFile(f"{path} is not a safetensors file: {error}") from error
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise NanWeights(f"{path}: tensor {name!r} holds NaN or infinity; export an earlier, healthy checkpoint")
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def missing_weights(path: Path) -> None:
    """Refuse a weights file that is not there, and say so if pickles lie in its place.

    Raises
    ------
    MissingFile, PickledWeights
    """
    if path.is_file():
        return
    pickled = [other.name for other in _siblings(path) if other.suffix in PICKLE_SUFFIXES]
    if pickled:
        raise PickledWeights(
            f"{path.parent} holds {pickled} and no {path.name}: pickled weights can run code and are not read; "
            "save them again as safetensors"
        )
    raise MissingFile(f"{path} is missing; copy it from where the checkpoint was trained")


def _siblings(path: Path) -> list[Path]:
    return sorted(path.parent.iterdir()) if path.parent.is_dir() else []


def _refuse_pickle_bytes(path: Path) -> None:
    # A zip archive (torch.save) or a bare pickle stream that was merely renamed. A safetensors file starts with the
    # header's length in 8 little-endian bytes, and its ninth byte opens the JSON header.
    with open_regular(path) as file:
        head = file.read(9)
    if head[8:9] != b"{" and (head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05")):
        raise PickledWeights(f"{path} is a pickle under another name; save the weights as safetensors")


@dataclass(frozen=True)
class Geometry:
    """Sizes that fix the graphs' shapes.

    ``circular``: only the circle inscribed in the crop counts. ``all_classes``: one evaluation answers all classes.
    """

    size: int
    um_per_pixel: float
    circular: bool
    latent_channels: int
    latent_height: int
    latent_width: int
    classes: tuple[str, ...]
    all_classes: bool = False

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        return (self.latent_channels, self.latent_height, self.latent_width)

    @property
    def told_classes(self) -> int | None:
        """Classes that the denoiser is told, one a row; None where it answers all of them at once."""
        return None if self.all_classes else len(self.classes)

    def sizes(self) -> dict[str, int]:
        """Return the sizes by the words that :mod:`cytoserve_export.specs` uses."""
        return {
            "size": self.size,
            "latent_channels": self.latent_channels,
            "latent_height": self.latent_height,
            "latent_width": self.latent_width,
            "answers": len(self.classes) if self.all_classes else 1,
        }


@dataclass(frozen=True)
class ProbeBank:
    """The probes of the denoiser.

    (P,) int64 timesteps, (P, C, H, W) float16 noise, (P, C, 1, 1) float32 weights of the squared error, and an (H, W)
    float32 mask of 0 and 1. A bank may see each cell in a quarter turn of the probe's own: (P,) int64 quarters, and the
    (C, C) and (C,) float32 map of the channels that belongs to one (`PatchPCAAutoencoder.quarter_turn`).
    """

    timestep: Tensor
    noise: Tensor
    weight: Tensor
    mask: Tensor
    turn: Tensor | None = None
    turn_matrix: Tensor | None = None
    turn_offset: Tensor | None = None

    def __len__(self) -> int:
        return len(self.timestep)


@dataclass(frozen=True)
class Schedule:
    """The noise schedule: (T,) float32 ``alphas_cumprod`` and the scheduler's prediction type."""

    alphas_cumprod: Tensor
    prediction_type: str


class Checkpoint:
    """A checkpoint folder whose JSON files have been read and agree with each other.

    Raises
    ------
    CheckpointError
        One of its subclasses: what is missing, unknown or contradictory.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MissingFile(f"{folder} is not a folder; give the checkpoint's root (the one with model_index.json)")
        self.folder = folder
        self.index = read_json(folder / "model_index.json")
        self.unet_config = read_json(folder / "unet" / "config.json")
        self.vae_config = read_json(folder / "vae" / "config.json")
        self.scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
        self.scoring = read_json(folder / "scoring" / "scoring.json")
        try:
            self.geometry = self._geometry()
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedFile(
                f"{folder}: unet/config.json, vae/config.json or preprocessing.json lacks or garbles {error}"
            ) from error
        self.conditioning = self._conditioning()
        self._check_scoring()
        self.schedule = self._schedule()

    def _geometry(self) -> Geometry:
        classes = read_json(self.folder / "classes.json").get("classes")
        if not isinstance(classes, list) or len(classes) < 2 or len(set(classes)) != len(classes):
            raise WrongClassCount(f"classes.json must list at least two different names, not {classes!r}")
        pre = read_json(self.folder / "preprocessing.json")
        grid = self.unet_config.get("sample_size")
        height, width = (grid, grid) if isinstance(grid, int) else (int(grid[0]), int(grid[1])) if grid else (0, 0)
        if height < 1 or width < 1:
            raise MalformedFile("unet/config.json must give sample_size, the side of the latent grid")
        channels = int(self.unet_config["in_channels"])
        answered = int(self.unet_config["out_channels"])
        if channels != self.vae_config.get("latent_channels") or answered not in (channels, channels * len(classes)):
            raise InconsistentCheckpoint(
                f"unet takes {channels} and answers {answered} channels, vae has "
                f"{self.vae_config.get('latent_channels')}: all three must agree (or unet answers "
                f"{len(classes)} classes at once, with that many times the channels)"
            )
        return Geometry(
            int(pre["size"]),
            float(pre["um_per_pixel"]),
            bool(pre["circular"]),
            channels,
            height,
            width,
            tuple(classes),
            answered != channels,
        )

    def _conditioning(self) -> Conditioning:
        conditioning = Conditioning.read(self.unet_config, len(self.geometry.classes))
        path = self.folder / "conditioning" / "context.safetensors"
        if not path.is_file():
            return conditioning
        tensors = read_weights(path)
        if set(tensors) != {"context"}:
            raise MalformedFile(f"{path} must hold one tensor called context, not {sorted(tensors)}")
        return conditioning.with_tokens(tensors["context"])

    def _check_scoring(self) -> None:
        named = self.scoring.get("classes")
        if named != list(self.geometry.classes):
            raise WrongClassCount(f"scoring.json names the classes {named}, classes.json {self.geometry.classes}")
        shape = self.scoring.get("latent_shape")
        if shape != list(self.geometry.latent_shape):
            raise InconsistentCheckpoint(f"scoring.json: latent_shape {shape}, network {self.geometry.latent_shape}")
        if bool(self.scoring.get("all_classes", False)) != self.geometry.all_classes:
            raise InconsistentCheckpoint(
                f"scoring.json: all_classes must be {str(self.geometry.all_classes).lower()} for this network: it says "
                "whether one evaluation answers all classes"
            )

    def _schedule(self) -> Schedule:
        kind = self.scheduler_config.get("prediction_type")
        if kind not in PREDICTION_TYPES:
            raise UnsupportedArchitecture(f"prediction_type {kind!r} is not exported; known are {PREDICTION_TYPES}")
        return Schedule(self.scheduler().alphas_cumprod.float(), kind)

    def spec(self, name: str) -> GraphSpec:
        """Return the declaration of a graph as this checkpoint fills it."""
        return denoiser_spec(self.geometry.all_classes) if name == DENOISER.name else SPECS[name]

    def scheduler(self) -> Any:
        """Build the ``diffusers`` scheduler of the checkpoint (any of them has the same ``alphas_cumprod``)."""
        return _UNTYPED_SCHEDULER.from_config(self.scheduler_config)

    @property
    def is_heavy(self) -> bool:
        """Whether one evaluation on a CPU takes seconds, judged by the bytes of the denoiser's weights."""
        path = self.folder / "unet" / WEIGHTS
        return path.is_file() and path.stat().st_size > HEAVY_BYTES

    @property
    def has_detector(self) -> bool:
        """Whether the checkpoint carries a detector (a CytoDiffusion checkpoint does not)."""
        return (self.folder / "segmenter").is_dir()

    def probes(self) -> ProbeBank:
        """Read and check the probe bank."""
        path = self.folder / "scoring" / "probes.safetensors"
        tensors = read_weights(path)
        missing = {"timestep", "noise", "weight", "mask"} - set(tensors)
        if missing:
            raise MalformedFile(f"{path} lacks {sorted(missing)}")
        count, (channels, height, width) = len(tensors["timestep"]), self.geometry.latent_shape
        wanted = {
            "timestep": (count,),
            "noise": (count, channels, height, width),
            "weight": (count, channels, 1, 1),
            "mask": (height, width),
        }
        turning = {"turn": (count,), "turn_matrix": (channels, channels), "turn_offset": (channels,)}
        given = [name for name in turning if name in tensors]
        if given and (len(given) < len(turning) or height != width):
            raise InconsistentCheckpoint(f"{path}: turned probes need {sorted(turning)} and a square latent")
        for name, shape in {**wanted, **(turning if given else {})}.items():
            if tuple(tensors[name].shape) != shape:
                raise InconsistentCheckpoint(f"{path}: {name} is {tuple(tensors[name].shape)}, expected {shape}")
        if count != self.scoring.get("probes"):
            raise InconsistentCheckpoint(f"{path} holds {count} probes, scoring.json says {self.scoring.get('probes')}")
        steps = tensors["timestep"]
        if count == 0 or int(steps.min()) < 0 or int(steps.max()) >= len(self.schedule.alphas_cumprod):
            raise InconsistentCheckpoint(f"{path}: timesteps must lie in the schedule, and there must be one at least")
        if float(tensors["mask"].sum()) <= 0:
            raise InconsistentCheckpoint(f"{path}: the mask is empty")
        if given and not bool(((tensors["turn"] >= 0) & (tensors["turn"] <= 3)).all()):
            raise InconsistentCheckpoint(f"{path}: turn must be 0, 1, 2 or 3 quarters")
        return ProbeBank(
            steps.long(),
            tensors["noise"].half(),
            tensors["weight"],
            tensors["mask"],
            tensors["turn"].long() if given else None,
            tensors["turn_matrix"].float() if given else None,
            tensors["turn_offset"].float() if given else None,
        )

    def unet(self) -> Any:
        """Build the denoiser with its weights, float32, evaluation mode."""
        with _META:  # weights come from the file; making random ones first would take longer than reading it
            net = self.empty_unet()
        return _filled(net, self.folder / "unet" / WEIGHTS)

    def empty_unet(self) -> Any:
        """Build the denoiser of the configuration, without its weights."""
        return _UNTYPED_UNET.from_config(self.unet_config)

    def autoencoder(self) -> Any:
        """Build the autoencoder its configuration names, float32, evaluation mode."""
        kind = self.vae_config.get("_class_name")
        net: Any
        if kind == "PatchPCAAutoencoder":
            names = ("patch", "latent_channels", "size", "circular")
            try:
                net = PatchPCAAutoencoder(**{name: self.vae_config[name] for name in names})
            except (KeyError, ValueError) as error:
                raise MalformedFile(f"{self.folder / 'vae' / 'config.json'} lacks or garbles {error}") from error
        elif kind == "AutoencoderKL":
            with _META:
                net = _UNTYPED_KL.from_config(self.vae_config)
        else:
            raise UnsupportedArchitecture(
                f"vae/config.json describes a {kind!r}; known are PatchPCAAutoencoder and AutoencoderKL"
            )
        return _filled(net, self.folder / "vae" / WEIGHTS)

    def detector(self) -> DetectorNet:
        """Build the detector, float32, evaluation mode."""
        folder = self.folder / "segmenter"
        kind = read_json(folder / "config.json").get("_class_name")
        if kind not in NAMES_ON_DISK:
            raise UnsupportedArchitecture(f"segmenter/config.json describes a {kind!r}; known is {NAMES_ON_DISK[0]}")
        read_weights(folder / DETECTOR_WEIGHTS)
        try:
            return DetectorNet.load(folder)
        except (RuntimeError, TypeError, KeyError) as error:
            raise UnsupportedArchitecture(f"{folder}: weights do not fit the configuration: {error}") from error

    @cached_property
    def part_hashes(self) -> dict[str, str]:
        """SHA-256 of every part (folder) of the checkpoint that graphs are made of.

        Of ``scoring`` only the probes count: temperature and thresholds are fitted later and change no graph.
        """
        parts = ("unet", "vae", "scheduler", "segmenter", "conditioning")
        hashes = {part: hash_folder(self.folder / part) for part in parts if (self.folder / part).is_dir()}
        probes = self.folder / "scoring" / "probes.safetensors"
        return {**hashes, "scoring": hash_file(probes)} if probes.is_file() else hashes

    @cached_property
    def weights_sha256(self) -> str:
        """One SHA-256 for the whole model: over the part hashes in order of their names, and the classes."""
        text = "".join(f"{part} {digest}\n" for part, digest in sorted(self.part_hashes.items()))
        return hashlib.sha256((text + "\n".join(self.geometry.classes)).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(folder: Path) -> str:
    """Return one SHA-256 over names and hashes of a folder's JSON and safetensors files (pictures do not count)."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors"))
    lines = "".join(f"{path.relative_to(folder).as_posix()} {hash_file(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _filled(net: Any, path: Path) -> Any:
    """Load ``path`` into ``net`` strictly and return it frozen, in evaluation mode."""
    tensors = read_weights(path)
    try:
        net.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()
        raise UnsupportedArchitecture(
            f"{path} does not fit its config.json: {' '.join(line.strip() for line in first[:3])}"
        ) from error
    return net.float().eval().requires_grad_(False)
