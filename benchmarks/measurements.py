"""Every measurement that a document quotes: its command, what it needs, how long it takes.

``python -m benchmarks.rerun`` runs those that a plain machine can; docs/evidence.md shows all of them.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.results import RESULTS, Benchmark, same_code_as

DATA: Final = "../shared/data"
"""Where the documents' commands have the shared images."""

ARCHIVE: Final = "f9264554ceae78f49db453d7a3598bf2417db118"
"""Last commit with the code of measurements whose training is not repeated (docs/lessons.md)."""

PLAIN: Final = "two CPU cores"
NO_TRAINING_TIME: Final = "the time of the training was not recorded"


@dataclass(frozen=True)
class Measurement:
    """One result file and how it is made.

    Attributes
    ----------
    name : str
        The result is ``docs/results/NAME.json``.
    module : str
        In ``benchmarks``; in the archived checkout where ``archived``.
    arguments : str
        ``DATA`` stands for the folder of the shared images.
    minutes : int or None
        Estimate for two idle cores; a stamped result knows its own time.
    needs : str
        `PLAIN`, or what else it takes.
    archived : bool
        The code is not in this checkout but in `ARCHIVE`.
    first : str
        Command that makes what it needs.
    """

    name: str
    module: str
    arguments: str
    minutes: int | None
    needs: str = PLAIN
    archived: bool = False
    first: str = ""

    @property
    def path(self) -> Path:
        """The result file."""
        return RESULTS / f"{self.name}.json"

    @property
    def plain(self) -> bool:
        """Whether ``make evidence`` can run it."""
        return self.needs == PLAIN and not self.archived

    def words(self, data: str = DATA) -> list[str]:
        """Return the module's arguments."""
        return [*self.arguments.replace("DATA", data).split(), "--out", f"docs/results/{self.name}.json"]

    def command(self) -> str:
        """Return the command as the documents show it."""
        return " ".join([f"python -m benchmarks.{self.module}", *self.words()])

    def stamp(self) -> dict[str, Any] | None:
        """Return the stamp of the result; None where there is no result."""
        if not self.path.exists():
            return None
        stamp: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))["stamp"]
        return stamp

    def is_current(self, data: str) -> bool:
        """Return whether the result was made by this code from these weights, data and seeds."""
        stamp = self.stamp()
        if stamp is None or "missing" in stamp or not stamp["clean"] or not same_code_as(stamp["commit"]):
            return False
        benchmark: Benchmark = importlib.import_module(f"benchmarks.{self.module}").BENCHMARK
        inputs = benchmark.inputs(benchmark.parse(self.words(data))).json()
        return all(inputs[key] == stamp[key] for key in inputs)


LEFT_OUT: Final = {
    "erythroblast": ("erythroblast",),
    "immature_granulocyte": ("immature_granulocyte",),
    "three": ("erythroblast", "immature_granulocyte", "basophil"),
}
"""Classes that trainings were made without, by what the results are called."""


TRAINED: Final = "a training without the class, 25 min on two idle cores"


def short_run(what: str) -> str:
    """Return the training without the classes of an entry of `LEFT_OUT` whose denoiser is then measured."""
    return (
        f"cytoserve train denoiser --sites pbc --leave-out {','.join(LEFT_OUT[what])} --mild --margin-weight 0.05 "
        f"--time-mean=-0.6 --learning-rate 8e-4 --steps 4000 --out runs/hidden_{what}"
    )


LEFT_SITES: Final = ("pbc", "bcisc", "chula_wbc")
SITE_TRAINED: Final = "three trainings without a site each, 21 min on two idle cores, and a classifier beside each"


def runs_without_a_site() -> str:
    """Return the trainings that `leave_site_out` measures, one a line."""
    return "\n$ ".join(
        f"cytoserve train denoiser --leave-site {site} --margin-weight 0.05 --time-mean=-0.6 --learning-rate 8e-4 "
        f"--steps 4000 --out runs/left_{site}"
        for site in LEFT_SITES
    )


MEASUREMENTS: Final = (
    Measurement("pbc_test", "accuracy", "DATA/pbc/test --um-per-pixel 0.18", 5),
    Measurement("bccd_cells", "accuracy", "DATA/bccd_cells", 3),
    Measurement("bccd_cells_scaled", "accuracy", "DATA/bccd_cells --um-per-pixel 0.0777", 3),
    Measurement("bcisc_test", "accuracy", "DATA/bcisc/cells/test --um-per-pixel 0.134", 1),
    Measurement("chula_held_out", "accuracy", "DATA/chula_wbc/cells --um-per-pixel 0.1 --unlearned chula_wbc", 1),
    Measurement("previous", "previous", "DATA/pbc/val", 5),
    Measurement("own_site", "own_site", "DATA", 6),
    Measurement("published", "published", "DATA/pbc/test --validation DATA/pbc/val --cells 300", 15),
    Measurement("test_time_augmentation", "test_time_augmentation", "models/reference --data DATA/pbc", 12),
    Measurement("probe_interval", "probe_interval", "models/reference --data DATA/pbc", 30),
    Measurement("intake", "intake", "DATA/pbc/val", 4),
    Measurement("familiarity", "familiarity", "DATA", 4),
    Measurement("away", "away", "DATA", 25),
    Measurement("check_cost", "check_cost", "DATA/pbc/test", 4),
    Measurement("mixture", "mixture", "DATA", 5),
    Measurement("fields", "fields", "DATA/smears/bccd/images DATA/smears/txl/train/images:300", 5),
    Measurement("server_speed", "server_speed", "DATA/pbc/val", 4),
    Measurement("limits", "limits", "DATA/pbc/val --fields DATA/smears/bccd/images", 9),
    Measurement("scale", "scale", "", 1),
    Measurement("load", "load", "DATA/pbc/val", 6),
    Measurement("soak", "soak", "DATA/pbc/val --seconds 300", 7),
    Measurement("replay", "replay", "DATA/pbc/val", 33),
    Measurement("fuzz_decoder", "fuzz_decoder", "--cases 1000000", 12),
    Measurement("fuzz_server", "fuzz_server", "--requests 20000", 8),
    Measurement(
        "export_precision",
        "export_precision",
        "models/reference model_repository DATA/pbc/val --per-class 32 --budget 4",
        6,
    ),
    Measurement("export_full", "export_full", "SCRATCH --parity", 3, "9 GB of disk at SCRATCH and 9 GB of memory"),
    Measurement("export_gpu", "export_gpu", "CHECKPOINT --profile h100", None, "an NVIDIA GPU (deploy/gpu/verify.sh)"),
    Measurement(
        "external_site",
        "foreign",
        "models/reference --peer runs/peer",
        None,
        f"a baseline trained on the same cells; {NO_TRAINING_TIME}",
        archived=True,
    ),
    *(
        Measurement(f"unseen_{what}", "unseen", f"runs/hidden_{what}", 2, TRAINED, first=short_run(what))
        for what in LEFT_OUT
    ),
    Measurement(
        "leave_site_out",
        "leave_site_out",
        " ".join(f"runs/left_{site}" for site in LEFT_SITES),
        40,
        SITE_TRAINED,
        first=runs_without_a_site(),
    ),
    Measurement("slide", "slide", "DATA", 4),
    Measurement("long_film", "long_film", "DATA", 5),
)

BY_NAME: Final = {one.name: one for one in MEASUREMENTS}
