"""``cytoserve export repository``: a whole model repository in one go, for one processor and one precision.

Graphs, their configurations for every processor, the Python models, warm-up requests, scoring and service files, and a
manifest that names every file. All of it is made in a folder beside the target, checked there, and renamed into place.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cytoserve_contract import manifest as manifest_check
from cytoserve_contract.limits import CROP_SIZE, CROP_UM_PER_PIXEL
from cytoserve_contract.models import SCORER, STAT_SCORER
from cytoserve_files import write_text

from cytoserve_export import manifest
from cytoserve_export.checkpoint import Checkpoint
from cytoserve_export.configs import graph_config, refit
from cytoserve_export.decisions import CheckCells
from cytoserve_export.devices import PROFILES, DeviceProfile, find_profile
from cytoserve_export.errors import DecisionChanged, ManifestMismatch, MissingFile, PrecisionRefused, TargetError
from cytoserve_export.files import read_json
from cytoserve_export.graphs import export_graph
from cytoserve_export.isolation import Job, check_apart
from cytoserve_export.networks import TracedDenoiser, build
from cytoserve_export.precision import DTYPES, ENOUGH_CELLS, PRECISIONS, cast_denoiser, quantise, spec_for
from cytoserve_export.precision_check import PrecisionReport, calibration, measure_precision
from cytoserve_export.progress import Report, silent
from cytoserve_export.repository import write_side_files
from cytoserve_export.specs import SPECS
from cytoserve_export.staging import disk_errors, folder_aside, require_space, target_folder, write_json
from cytoserve_export.tensorrt_builder import TensorRT, build_engine
from cytoserve_export.tensorrt_engine import check_operators

SERVED: Final = ("segmenter", "encoder", "denoiser")
"""Graphs of the main repository; synthesis has its own (``cytoserve export onnx --only decoder,noise_predictor``)."""

ALWAYS: Final = ("scorer", "service_info")
"""Python models that fit every checkpoint."""

WHOLE_FIELD: Final = ("field_decoder", "cell_extractor", "smear_analysis")
CELLS: Final = ("cell_decoder", "cell_analysis", "stat_cell_decoder", "stat_scorer", "stat_cell_analysis")
"""Python models and ensembles that cut crops of the release's size, so they fit checkpoints of that crop only."""


@dataclass(frozen=True)
class Order:
    """What to make.

    ``runtime`` is ``onnx`` or ``tensorrt``, ``execution_provider`` (of ONNX Runtime on a GPU) ``cuda`` or ``tensorrt``.
    ``precision`` is the denoiser's: ``fp32``, ``fp16``, ``bf16`` or ``int8``; encoder and detector stay in fp32, they
    run once a cell or field. ``profile`` decides which configuration becomes ``config.pbtxt``. ``template`` is the
    repository to take Python models and ensembles from; ``cells`` are for the decision check and int8's calibration.
    ``accept_changes`` keeps a precision that changes more than 0.5 % of the decisions, or was not compared.
    """

    checkpoint: Path
    target: Path
    template: Path
    runtime: str = "onnx"
    precision: str = "fp32"
    profile: str = "cpu"
    cells: CheckCells | None = None
    replace: bool = False
    threads: int = 1
    execution_provider: str = "cuda"
    accept_changes: bool = False


def make_repository(order: Order, report: Report = silent, tensorrt: TensorRT | None = None) -> dict[str, Any]:
    """Make the repository and return its manifest; the runtime ``tensorrt`` needs ``tensorrt``.

    Raises
    ------
    ExportError
        One of its subclasses; the target is then as it was before.
    """
    checkpoint, profile = Checkpoint(order.checkpoint), find_profile(order.profile)
    _refuse_order(order, profile, tensorrt)
    names = tuple(name for name in SERVED if name != "segmenter" or checkpoint.has_detector)
    target = target_folder(order.target)
    if os.path.ismount(target):
        raise TargetError(f"{target} is a mount point, which cannot be replaced as a whole; give a folder in it")
    require_space(target, names, checkpoint)
    with disk_errors(target), folder_aside(target) as aside:
        staged = aside / "repository"
        left_out = _copy_models(order.template, staged, checkpoint)
        graphs = _graphs(checkpoint, names, staged, report)
        outcome = check_apart(_job(order, checkpoint, graphs), report)
        measured = _reduce(order, checkpoint, graphs, report)
        _refuse_changes(order, measured)
        _write_configs(order, checkpoint, staged, names)
        write_side_files(staged, checkpoint)
        found = manifest.compose(staged, target / "nothing to keep", names, checkpoint, outcome)
        if order.precision != "fp32":
            found["models"]["denoiser"]["parity"]["of"] = "the fp32 graph this one was made from"
        engine = None
        if order.runtime == "tensorrt":
            assert tensorrt is not None
            engine = build_engine(graphs["denoiser"], profile, tensorrt, report)
        found |= {
            "built_for": {"runtime": order.runtime, "precision": order.precision, "profile": order.profile},
            "precision": None if measured is None else asdict(measured),
            "engine": engine,
            "left_out": left_out,
            "files": manifest_check.describe((name, staged / name) for name in manifest_check.tree(staged)),
        }
        write_json(staged / manifest.NAME, found)
        manifest.verify(staged)
        _move_in(staged, target, aside)
    return found


def _refuse_order(order: Order, profile: DeviceProfile, tensorrt: TensorRT | None) -> None:
    if order.precision not in PRECISIONS:
        raise PrecisionRefused(f"no precision is called {order.precision!r}; known are {', '.join(PRECISIONS)}")
    if order.precision == "bf16" and not profile.is_gpu:
        raise PrecisionRefused("ONNX Runtime has no bf16 convolution on CPUs: choose fp32 or int8, or a GPU profile")
    if order.precision == "int8" and (order.runtime == "tensorrt" or profile.is_gpu):
        raise PrecisionRefused("int8 is made for CPUs by ONNX Runtime's quantiser: choose --profile cpu, or bf16")
    if order.runtime == "tensorrt" and (tensorrt is None or not profile.is_gpu):
        raise TargetError(
            "an engine is built on the GPU that will run it: give the profile of a GPU, on a machine that has one; "
            "or choose --runtime onnx --execution-provider tensorrt, which builds it where it is served"
        )
    if order.target.exists() and any(order.target.iterdir()):
        if not order.replace:
            raise TargetError(f"{order.target} is not empty; give --replace, or another folder")
        if not (order.target / manifest.NAME).is_file():
            raise TargetError(f"{order.target} is no exported repository (it has no manifest): not replaced")
    if not (order.template / "scorer" / "1" / "model.py").is_file():
        raise MissingFile(
            f"{order.template} holds no scorer/1/model.py; give --template MODEL_REPOSITORY of a checkout"
        )


def _copy_models(template: Path, staged: Path, checkpoint: Checkpoint) -> dict[str, str]:
    """Copy the Python models and ensembles that fit; return those that do not, with the reason."""
    geometry = checkpoint.geometry
    left_out: dict[str, str] = {}
    fits = geometry.size == CROP_SIZE and abs(geometry.um_per_pixel - CROP_UM_PER_PIXEL) < 1e-9
    why = f"it cuts crops of {CROP_SIZE} px at {CROP_UM_PER_PIXEL} um, this model takes {geometry.size} px"
    for name in (*WHOLE_FIELD, *CELLS):
        if not fits:
            left_out[name] = f"{why} at {geometry.um_per_pixel} um: send CROP to encoder and LATENT to scorer"
        elif name in WHOLE_FIELD and not checkpoint.has_detector:
            left_out[name] = "the checkpoint has no detector (folder segmenter)"
    for name in (*ALWAYS, *(name for name in (*WHOLE_FIELD, *CELLS) if name not in left_out)):
        skip = shutil.ignore_patterns("__pycache__", "scoring.json", "service.json", "configs")
        shutil.copytree(template / name, staged / name, ignore=skip)
    if list(geometry.latent_shape) != _template_latent(template):
        for config in (staged / name / "config.pbtxt" for name in (SCORER.name, STAT_SCORER.name)):
            if config.exists():
                write_text(config, refit(config, geometry.sizes()))
    return left_out


def _template_latent(template: Path) -> list[int] | None:
    path = template / "scorer" / "1" / "scoring.json"
    if not path.is_file():
        return None
    shape = read_json(path).get("latent_shape")
    return list(shape) if isinstance(shape, list) else None


def _graphs(checkpoint: Checkpoint, names: tuple[str, ...], staged: Path, report: Report) -> dict[str, Path]:
    graphs = {name: staged / SPECS[name].path for name in names}
    for done, (name, path) in enumerate(graphs.items()):
        report(f"tracing {name}", done, len(graphs))
        export_graph(build(name, checkpoint), checkpoint.spec(name), checkpoint.geometry.sizes(), path)
    report("tracing", len(graphs), len(graphs))
    return graphs


def _job(order: Order, checkpoint: Checkpoint, graphs: dict[str, Path]) -> Job:
    return Job(order.checkpoint, graphs, order.cells, graphs["encoder"], graphs["denoiser"], order.threads)


def _reduce(order: Order, checkpoint: Checkpoint, graphs: dict[str, Path], report: Report) -> PrecisionReport | None:
    """Replace the denoiser by one of the ordered precision; return how it compares on real cells, if there are any."""
    if order.precision == "fp32":
        return None
    path = graphs["denoiser"]
    exact = path.with_name("exact") / path.name
    exact.parent.mkdir()
    for file in list(path.parent.glob("model.onnx*")):
        os.replace(file, exact.parent / file.name)
    report(f"making {order.precision}", 0, 1)
    reduced_denoiser(order, checkpoint, exact, graphs["encoder"], path)
    report(f"making {order.precision}", 1, 1)
    measured = None
    if order.cells is not None and order.precision != "bf16":
        measured = measure_precision(
            order.precision, order.cells, checkpoint, graphs["encoder"], (exact, path), order.threads, report
        )
    shutil.rmtree(exact.parent)
    return measured


def _refuse_changes(order: Order, measured: PrecisionReport | None) -> None:
    if order.precision == "fp32" or order.accept_changes or (measured is not None and measured.offered):
        return
    why = "was not compared on real cells (bf16 cannot run here, or no --cells were given)"
    if measured is not None:
        why = f"changes {measured.decisions_changed} of {measured.cells} decisions"
        why += " (too few to judge 0.5 % on)" if measured.cells < ENOUGH_CELLS else ", more than 0.5 %"
    raise DecisionChanged(f"{order.precision} {why}: choose fp32, or take it knowingly with --accept-changes")


def reduced_denoiser(order: Order, checkpoint: Checkpoint, exact: Path, encoder: Path, path: Path) -> None:
    """Write the denoiser in ``order.precision`` to ``path``.

    Raises
    ------
    PrecisionRefused
        int8 without cells.
    """
    if order.precision in DTYPES:
        bank = checkpoint.probes()
        module = TracedDenoiser(checkpoint.unet(), checkpoint.conditioning, checkpoint.schedule, bank).eval()
        spec, sizes = spec_for(order.precision, checkpoint), checkpoint.geometry.sizes()
        export_graph(cast_denoiser(module, order.precision), spec, sizes, path)
    else:
        quantise(exact, path, calibration(order.cells, checkpoint, encoder, order.threads))


def _write_configs(order: Order, checkpoint: Checkpoint, staged: Path, names: tuple[str, ...]) -> None:
    sizes = checkpoint.geometry.sizes()
    for name in names:
        spec, folder = checkpoint.spec(name), staged / name
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        for profile in PROFILES.values():
            engine = order.runtime == "tensorrt" and name == "denoiser" and profile.name == order.profile
            text = graph_config(
                spec,
                sizes,
                profile,
                runtime="tensorrt" if engine else "onnx",
                heavy=checkpoint.is_heavy,
                execution_provider=order.execution_provider,
                precision=order.precision if name == "denoiser" else "fp32",
            )
            write_text(folder / "configs" / f"{profile.name}.pbtxt", text)
        shutil.copy2(folder / "configs" / f"{order.profile}.pbtxt", folder / "config.pbtxt")
    if order.runtime == "tensorrt":
        check_operators(staged / SPECS["denoiser"].path)


def _move_in(staged: Path, target: Path, aside: Path) -> None:
    """Rename ``staged`` to ``target``; what stood there is put back if that fails."""
    before = aside / "before"
    if target.exists():
        os.replace(target, before)
    try:
        os.replace(staged, target)
    except BaseException:
        if before.exists():
            os.replace(before, target)
        raise


def verify_repository(
    folder: Path, checkpoint: Path | None = None, threads: int = 1, report: Report = silent
) -> dict[str, Any]:
    """Recompute what the manifest of ``folder`` says and return it.

    Always: every hash, no file more than it names, and the signature, opset and external data of every graph. With
    ``checkpoint`` also: that the weights are these, and the parity of every single-precision graph.

    Raises
    ------
    MissingFile, ManifestMismatch, ParityError
    """
    found = manifest.verify(folder)
    for name, entry in found["models"].items():
        again = manifest.describe_file(folder / entry["file"])
        differs = sorted(key for key in again if key in entry and again[key] != entry[key])
        if differs:
            raise ManifestMismatch(f"{folder / entry['file']}: {differs} are not what the manifest says of {name}")
    if checkpoint is None:
        return found
    source = Checkpoint(checkpoint)
    if source.weights_sha256 != found["provenance"]["weights_sha256"]:
        raise ManifestMismatch(
            f"{folder} was made from weights {found['provenance']['weights_sha256'][:16]}, "
            f"{checkpoint} holds {source.weights_sha256[:16]}: give the checkpoint it was made from"
        )
    reduced = found.get("built_for", {}).get("precision", "fp32") != "fp32"
    graphs = {
        name: folder / entry["file"] for name, entry in found["models"].items() if not (reduced and name == "denoiser")
    }
    parity = check_apart(Job(checkpoint, graphs, None, None, None, threads), report).parity
    models = {name: {**entry, "parity": parity.get(name, entry["parity"])} for name, entry in found["models"].items()}
    return {**found, "models": models}
