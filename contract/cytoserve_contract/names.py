"""Names that two rooms must agree on: schema versions of documents, environment variables."""

from __future__ import annotations

from typing import Final, Literal

AnalysisSchema = Literal["cytoserve.analysis/1"]
CellsSchema = Literal["cytoserve.cells/1"]
VerdictsSchema = Literal["cytoserve.verdicts/1"]
AuditSchema = Literal["cytoserve.audit/1"]

ANALYSIS: Final[AnalysisSchema] = "cytoserve.analysis/1"
CELLS: Final[CellsSchema] = "cytoserve.cells/1"
ANALYSES: Final = "cytoserve.analyses/1"
CALIBRATION: Final = "cytoserve.calibration/2"
VALIDATION: Final = "cytoserve.validation/1"
VERDICTS: Final[VerdictsSchema] = "cytoserve.verdicts/1"
AUDIT: Final[AuditSchema] = "cytoserve.audit/1"
MANIFEST: Final = "cytoserve.manifest/1"
GOLDEN_SET: Final = "cytoserve.golden/1"
ROLLOUT: Final = "cytoserve.rollout/2"

SCHEMAS: Final[dict[str, str]] = {
    ANALYSIS: "a sample's fields (`cytoserve analyze --json`, `SmearAnalysis`)",
    ANALYSES: "several samples, under `analyses`",
    CELLS: "single-cell images (`cytoserve classify --json`, `CellsAnalysis`)",
    CALIBRATION: "a site's calibration (`cytoserve calibrate`)",
    VALIDATION: "a validation (`cytoserve validate`)",
    VERDICTS: "a reader's verdicts, as a review page exports them (`cytoserve verdicts`)",
    AUDIT: "a line of an audit file (`--audit`), one for each call (`cytoserve audit verify`)",
    MANIFEST: "the list of a model repository's files",
    GOLDEN_SET: "the cells that a roll-out is checked on",
    ROLLOUT: "the state of a roll-out (`cytoserve deploy status --json`)",
}
"""Every document with a schema, and what it is."""

ENV_DRAIN_FILE: Final = "CYTOSERVE_DRAIN_FILE"
"""While the file that it names exists, the server is about to stop: no new request is begun."""

ENV_ADMISSION_FILE: Final = "CYTOSERVE_ADMISSION_FILE"
"""File in which a server's models keep what is under way; unset: every request is let in."""

ENV_MAX_WAIT_S: Final = "CYTOSERVE_MAX_WAIT_S"
"""Longest wait, seconds, that a routine request is let in to; unset: `max_wait_s` of the first steps' configuration."""

ENV_CALIBRATION: Final = "CYTOSERVE_CALIBRATION"
"""Folder with the calibrations of sites, one file each; unset or an empty folder: the model's own alone."""

ENV_MODEL_REPOSITORY: Final = "CYTOSERVE_MODEL_REPOSITORY"
"""The model repository to serve."""

ENV_SKIP_VERIFICATION: Final = "CYTOSERVE_SKIP_VERIFICATION"
"""Opt-out of the check of hashes before a server starts; who starts it logs that."""

ENVIRONMENT: Final[dict[str, str]] = {
    ENV_DRAIN_FILE: "file that exists while the server is about to stop: no new request is begun",
    ENV_ADMISSION_FILE: "file in which a server's models keep what is under way, so that it refuses early what it "
    "cannot do in time; a start of ours sets it, and without it every request is let in",
    ENV_MAX_WAIT_S: "longest wait, seconds, that a routine request is let in to, in place of the configuration's "
    "`max_wait_s`",
    ENV_CALIBRATION: "folder with the calibrations of sites, one `*.json` each, besides the model's own",
    ENV_MODEL_REPOSITORY: "the model repository to serve",
    ENV_SKIP_VERIFICATION: "`true`: the models' hashes are not checked before a start, which is logged",
}
"""Variables that the launching and the served processes, or two commands, read."""
