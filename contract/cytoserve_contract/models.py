"""Every model and ensemble that Triton serves: its tensors, its steps, and how it is run.

Add an output here, in the model that makes it: configurations, documentation, checks and both ensembles follow
(``make contract``). A tensor that several models share is one object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from cytoserve_contract.anomaly import ANOMALY_COLUMNS
from cytoserve_contract.image_statistics import DOMAIN_COLUMNS, IMAGE_STATISTIC_NAMES
from cytoserve_contract.parameters import PRIORITY_LEVELS
from cytoserve_contract.tensors import TensorSpec
from cytoserve_contract.values import DECISIONS, KINDS, NO_LABEL

REPOSITORY: Final = "model_repository"
SYNTHESIS_REPOSITORY: Final = "model_repository_synthesis"
"""Second repository, beside the first: graphs loaded only where synthesis or explanation is switched on. Triton loads
whatever lies in a repository, so they must not lie in the first."""

MAX_BATCH: Final = 256
"""Most rows of one run of a batched model, and so of one call of it by the scorer."""

Backend = Literal["python", "onnxruntime", "ensemble"]


@dataclass(frozen=True)
class Deployment:
    """How Triton runs a model, as committed."""

    instances: int = 1
    processor: str = "KIND_CPU"
    """Kind of the instance group."""
    priority_levels: int = 0
    """0: one queue, first come first served."""
    queue_delay_us: int = 0
    """How long a batch may wait for more rows, microseconds; 0: it does not."""
    parameters: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The model's own settings: value, and a comment."""
    note: str = ""
    """Comment on the queue."""


@dataclass(frozen=True)
class ModelSpec:
    """One model, or an ensemble of them."""

    name: str
    """Folder in the repository, and name on the wire."""
    meaning: str
    """What it does, for its configuration and docs/contract.md."""
    backend: Backend
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[ModelSpec, ...] = ()
    """Of an ensemble, in order; tensors of one name are connected."""
    calls: ModelSpec | None = None
    """The model that it calls by itself."""
    deployment: Deployment = Deployment()
    repository: str = REPOSITORY
    """Folder that it lies in."""

    @property
    def is_batched(self) -> bool:
        """Whether Triton joins rows of several requests."""
        return self.inputs[0].is_batched


def ensemble(name: str, meaning: str, steps: tuple[ModelSpec, ...]) -> ModelSpec:
    """Return the ensemble of ``steps``: its inputs are what no step makes, its outputs what is not internal."""
    made = [spec for step in steps for spec in step.outputs]
    names = {spec.name for spec in made}
    return ModelSpec(
        name=name,
        meaning=meaning,
        backend="ensemble",
        inputs=tuple(spec for step in steps for spec in step.inputs if spec.name not in names),
        outputs=tuple(spec for spec in made if not spec.internal),
        steps=steps,
    )


_QUEUED: Final = Deployment(
    priority_levels=PRIORITY_LEVELS,
    note="Priority 1 (stat) is taken before 2 (routine, the default) whatever came first; the ensembles hand a "
    "request's on.",
)
_FIRST_STEP: Final = replace(
    _QUEUED,
    parameters={
        "max_wait_s": (
            "5",
            "A routine request is refused (`unavailable`) where more work waits than is done in so many seconds, or "
            "more than\nits deadline allows; a stat request where twice as much waits in its own lane.",
        )
    },
)
_GRAPH: Final = replace(_QUEUED, processor="KIND_AUTO")
_BATCHED: Final = Deployment(processor="KIND_AUTO", queue_delay_us=500)

_LATENT_DIMS: Final = ("latent_channels", "latent_height", "latent_width")

IMAGE: Final = TensorSpec("IMAGE", "bytes", (1,), "the encoded file as it is")
UM_PER_PIXEL: Final = TensorSpec("UM_PER_PIXEL", "float32", (1,), "the caller's scale; 0: not given", "um per px")
DEADLINE: Final = TensorSpec(
    "DEADLINE",
    "float64",
    (1,),
    "moment of this machine's monotonic clock at which the request is due, made of `deadline_ms`; negative: no "
    "deadline. It differs from that of every other request under way, so the last step can say which one has ended",
    "s",
    may_lack=True,
    internal=True,
)
FIELD: Final = TensorSpec(
    "FIELD", "uint8", ("field_height", "field_width", 3), "pixels after EXIF orientation, sRGB", internal=True
)
SEGMENTER_INPUT: Final = TensorSpec(
    "SEGMENTER_INPUT",
    "float32",
    (1, 3, "height", "width"),
    "RGB, 0 to 1, at the segmenter's scale, padded with edge pixels",
    internal=True,
)
SCALE_GUESS: Final = TensorSpec(
    "SCALE_GUESS",
    "float32",
    (2,),
    "scale of the field that was used for resampling; where it comes from (0 guessed, 1 caller, 2 file, 3 caller, and "
    "the file says otherwise)",
    "um per px; 1",
    internal=True,
)
SEGMENTER_MAPS: Final = TensorSpec(
    "SEGMENTER_MAPS", "float32", (1, "maps", "map_height", "map_width"), "per-pixel maps at stride 2", internal=True
)
CROP: Final = TensorSpec("CROP", "uint8", ("M", "size", "size", 3), "cells at 0.25 um per px, RGB", internal=True)
LATENT: Final = TensorSpec("LATENT", "float32", ("M", *_LATENT_DIMS), "latent of a crop", internal=True)
CELL_FLAGS: Final = TensorSpec("CELL_FLAGS", "int32", ("M",), "bit set, see the table of flags")
IMAGE_STATISTICS: Final = TensorSpec(
    "IMAGE_STATISTICS",
    "float32",
    ("M", len(IMAGE_STATISTIC_NAMES)),
    "what was measured of the picture before its colours were normalised, in the order of the table below; 0 where the "
    "file was bad",
    attribute="statistics",
)
CLASS: Final = TensorSpec("CLASS", "int32", ("B", 1), "class under which the noise is predicted")

FIELD_DECODER: Final = ModelSpec(
    "field_decoder",
    "One encoded image file -> its pixels and the segmenter's input.",
    "python",
    inputs=(IMAGE, UM_PER_PIXEL),
    outputs=(
        FIELD,
        TensorSpec("FIELD_SIZE", "int32", (2,), "width and height as displayed", "px", low=1),
        SEGMENTER_INPUT,
        SCALE_GUESS,
        DEADLINE,
    ),
    deployment=_FIRST_STEP,
)

SEGMENTER: Final = ModelSpec(
    "segmenter",
    "Field at the segmenter's scale -> per-pixel maps.",
    "onnxruntime",
    inputs=(SEGMENTER_INPUT,),
    outputs=(SEGMENTER_MAPS,),
    deployment=_GRAPH,
)

CELL_EXTRACTOR: Final = ModelSpec(
    "cell_extractor",
    "Maps -> cells (box, kind, quality) and the crops of white cells at the denoiser's scale.",
    "python",
    inputs=(FIELD, SEGMENTER_MAPS, SCALE_GUESS),
    outputs=(
        TensorSpec("BOX", "float32", ("N", 4), "x0, y0, x1, y1 in the displayed picture", "px"),
        TensorSpec("KIND", "uint8", ("N",), "see the table of numbers", low=0, high=len(KINDS) - 1),
        TensorSpec("DETECTION_SCORE", "float32", ("N",), "the segmenter's confidence, 0 to 1"),
        TensorSpec(
            "SCALE",
            "float32",
            (2,),
            "scale that was used; median diameter of the red cells under it",
            "um per px; um",
            low=0,
            may_lack=True,
        ),
        TensorSpec("SCALE_SOURCE", "bytes", (1,), "where the scale comes from, see the table of numbers"),
        TensorSpec("CELL_INDEX", "int32", ("M",), "rows of `BOX` that are scored (white cells)", low=0),
        CROP,
        CELL_FLAGS,
        IMAGE_STATISTICS,
    ),
    deployment=_QUEUED,
)

CELL_DECODER: Final = ModelSpec(
    "cell_decoder",
    "Encoded single-cell images, as an analyser delivers them -> crops at the denoiser's scale.",
    "python",
    inputs=(IMAGE.along("M"), UM_PER_PIXEL.along("scales")),
    outputs=(
        CROP,
        TensorSpec("SCALE", "float32", ("M",), "scale that was used", "um per px", low=0, may_lack=True),
        CELL_FLAGS,
        IMAGE_STATISTICS,
        TensorSpec(
            "CELL_ERROR",
            "bytes",
            ("M",),
            "empty, or `[cytoserve:<code>] text`: that cell has a black crop, flag 16 and label -1, and its numbers "
            "are not computed; the others are answered",
        ),
        DEADLINE,
    ),
    # Cutting and measuring a cell costs one core as much as the denoiser costs it: one instance would hold that up.
    deployment=replace(_FIRST_STEP, instances=2),
)

ENCODER: Final = ModelSpec(
    "encoder",
    "Crop -> latent of the autoencoder.",
    "onnxruntime",
    inputs=(CROP,),
    outputs=(LATENT,),
    deployment=_GRAPH,
)

DENOISER: Final = ModelSpec(
    "denoiser",
    "(latent, probe) -> weighted masked squared error of the noise predicted under each class. Holds the probe bank.\n"
    "Batches of several requests are joined: the scorers of different requests share one run.",
    "onnxruntime",
    inputs=(
        LATENT.along("B"),
        TensorSpec("PROBE", "int32", ("B", 1), "noise sample: index into the bank inside the graph"),
    ),
    outputs=(TensorSpec("ERROR", "float32", ("B", "answers"), "weighted masked squared error under each class"),),
    deployment=replace(
        _BATCHED,
        note="No priority levels: a model's call of a model carries none, and no more calls wait here than there are "
        "scorers.",
    ),
)

DENOISER_BY_CLASS: Final = replace(
    DENOISER,
    meaning="(latent, probe, class) -> weighted masked squared error of the predicted noise. Holds the probe bank.\n"
    "Batches of several requests are joined: the scorers of different requests share one run.",
    inputs=(*DENOISER.inputs, CLASS),
)
"""The denoiser of a checkpoint that is told a class and answers that one (CytoDiffusion)."""

SCORER: Final = ModelSpec(
    "scorer",
    "Latents -> class, posterior, uncertainty, anomaly, decision. Calls the denoiser (BLS).\n"
    "Each instance is a process and scores one request at a time; count is how many requests overlap.",
    "python",
    inputs=(LATENT, CELL_FLAGS, replace(IMAGE_STATISTICS, optional=True), replace(DEADLINE, optional=True)),
    outputs=(
        TensorSpec("LABEL", "int32", ("M",), "class; -1: not scored", low=NO_LABEL),
        TensorSpec(
            "POSTERIOR", "float32", ("M", "C"), "probability of each class, sums to 1", low=0, high=1, may_lack=True
        ),
        TensorSpec(
            "POSTERIOR_INTERVAL",
            "float32",
            ("M", 2),
            "95 % interval of the label's probability over the draw of the noise samples; not computed with one sample",
            low=0,
            high=1,
            may_lack=True,
            attribute="interval",
        ),
        TensorSpec(
            "SCORES", "float32", ("M", "C"), "mean weighted error of each class, lower is better", low=0, may_lack=True
        ),
        TensorSpec("UNCERTAINTY", "float32", ("M",), "1 minus the label's probability", low=0, high=1, may_lack=True),
        TensorSpec(
            "ANOMALY",
            "float32",
            ("M", len(ANOMALY_COLUMNS)),
            "how strange the cell is: " + "; ".join(ANOMALY_COLUMNS.values()),
            low=0,
            may_lack=True,
        ),
        TensorSpec(
            "DOMAIN",
            "float32",
            ("M", len(DOMAIN_COLUMNS)),
            "how familiar the picture is: " + "; ".join(DOMAIN_COLUMNS.values()),
            low=0,
            may_lack=True,
        ),
        TensorSpec(
            "DOMAIN_CAUSE",
            "bytes",
            ("M",),
            "the image statistic that adds most to the distance, with `+` where it is high and `-` where it is low; "
            "empty where nothing was compared",
        ),
        TensorSpec("DECISION", "uint8", ("M",), "see the table of numbers", low=0, high=len(DECISIONS) - 1),
        TensorSpec("REASONS", "bytes", ("M",), "reasons for review, joined by commas; may be empty"),
        TensorSpec(
            "EVALUATIONS",
            "int32",
            ("M",),
            "rows of that cell that the denoiser received, test-time augmentation included; the sum over a request is "
            "the rise of Triton's own inference count of `denoiser`",
            low=0,
        ),
        TensorSpec(
            "CONFORMAL",
            "float32",
            ("M", "C"),
            "p-value of each class; the prediction set at error eps is `{c: p > eps}`",
            low=0,
            high=1,
            may_lack=True,
        ),
    ),
    calls=DENOISER,
    deployment=replace(
        _QUEUED,
        instances=2,
        parameters={
            "rows_per_call": (
                "64",
                "Rows of one call of the denoiser, at most its max_batch_size. Deadline and cancellation are looked at "
                "between calls:\non a CPU 64 rows take about half a second and run as fast per row as more; on a GPU "
                "give 256.",
            )
        },
    ),
)

SERVICE_INFO: Final = ModelSpec(
    "service_info",
    "What this service is: classes, hashes, limits, versions.",
    "python",
    inputs=(TensorSpec("QUERY", "bytes", (1,), "any text, such as `info`; it is not read"),),
    outputs=(TensorSpec("INFO", "bytes", (1,), "JSON, see below"),),
)

DECODER: Final = ModelSpec(
    "decoder",
    "Latent -> picture.",
    "onnxruntime",
    inputs=(LATENT,),
    outputs=(TensorSpec("CROP_FLOAT", "float32", ("M", "size", "size", 3), "picture, RGB, 0 to 1"),),
    deployment=Deployment(processor="KIND_AUTO"),
    repository=SYNTHESIS_REPOSITORY,
)

NOISE_PREDICTOR: Final = ModelSpec(
    "noise_predictor",
    "The denoiser's weights, noise out: for synthesis and explanation.",
    "onnxruntime",
    inputs=(
        TensorSpec("LATENT_NOISY", "float32", ("B", *_LATENT_DIMS), "latent with noise"),
        TensorSpec("TIMESTEP", "int64", ("B", 1), "timestep of that noise"),
        CLASS,
    ),
    outputs=(TensorSpec("NOISE", "float32", ("B", *_LATENT_DIMS), "predicted noise"),),
    deployment=_BATCHED,
    repository=SYNTHESIS_REPOSITORY,
)

SMEAR_ANALYSIS: Final = ensemble(
    "smear_analysis",
    "One field of view -> its cells, scored. Zero cells is a valid answer.",
    (FIELD_DECODER, SEGMENTER, CELL_EXTRACTOR, ENCODER, SCORER),
)

CELL_ANALYSIS: Final = ensemble(
    "cell_analysis",
    "Single-cell images -> each cell scored. A bad image costs its own cell only (CELL_ERROR).",
    (CELL_DECODER, ENCODER, SCORER),
)

_RESERVED: Final = (
    "An instance of its own, which no routine request holds: what runs is not interrupted, so a priority alone would "
    "wait."
)

STAT_CELL_DECODER: Final = replace(
    CELL_DECODER,
    name="stat_cell_decoder",
    meaning="`cell_decoder` of the stat lane.",
    deployment=replace(_FIRST_STEP, note=_RESERVED),
)

STAT_SCORER: Final = replace(
    SCORER,
    name="stat_scorer",
    meaning="`scorer` of the stat lane; it reads the files of `scorer`.",
    deployment=replace(SCORER.deployment, instances=1, note=_RESERVED),
)

STAT_CELL_ANALYSIS: Final = ensemble(
    "stat_cell_analysis",
    "`cell_analysis` of the stat lane: no routine request is before it in decoder and scorer.",
    (STAT_CELL_DECODER, ENCODER, STAT_SCORER),
)

MODELS: Final[dict[str, ModelSpec]] = {
    model.name: model
    for model in (
        *(SMEAR_ANALYSIS, CELL_ANALYSIS, STAT_CELL_ANALYSIS, SERVICE_INFO),
        *(FIELD_DECODER, SEGMENTER, CELL_EXTRACTOR, CELL_DECODER, ENCODER, DENOISER, SCORER),
        *(STAT_CELL_DECODER, STAT_SCORER),
        *(DECODER, NOISE_PREDICTOR),
    )
}
"""Every model by name: what a caller calls first."""
