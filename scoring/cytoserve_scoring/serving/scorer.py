"""Latents -> scores, by calls to the ``denoiser``: what the models ``scorer`` and ``stat_scorer`` do."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from cytoserve_contract.models import SCORER
from numpy.typing import NDArray

from cytoserve_scoring.classifier.engine import denoiser_inputs
from cytoserve_scoring.classifier.running_test import RunningTest
from cytoserve_scoring.classifier.scores import CellScores
from cytoserve_scoring.serving.adapter import Request, TritonModel, moment, refused_by_callee
from cytoserve_scoring.serving.outputs import Tensors
from cytoserve_scoring.serving.site import CALIBRATION_ENV
from cytoserve_scoring.serving.sites import Sites


class Scorer(TritonModel):
    """See the model ``scorer`` in docs/contract.md."""

    def setup(self) -> None:
        """Load classes, the calibrations of all sites, and limits."""
        self.rows_per_call = int(self.config["parameters"]["rows_per_call"]["string_value"])
        scoring = self.folder.parents[1] / SCORER.name / self.folder.name / "scoring.json"  # of either lane
        self.sites = Sites.load(scoring, os.environ.get(CALIBRATION_ENV))
        self.running = {site.name: RunningTest() for site in self.sites}
        for site in self.sites:
            self.meter.prepare_cells(site.engine.config.classes, site.name, site.expected_referral)

    def answer(self, tensors: Tensors, request: Request) -> CellScores:
        """Score the cells of one request, by the calibration of its site, within its time."""
        sent = moment(tensors.get("DEADLINE"))
        deadline = request.deadline() if sent is None else sent
        site = self.sites.chosen(request.parameter("site"))

        def check() -> None:
            self.give_way()
            request.check(deadline)

        def evaluate(
            latents: NDArray[np.float32], probes: NDArray[np.int32], classes: NDArray[np.int32] | None
        ) -> NDArray[np.float32]:
            self.meter.round()
            inputs = denoiser_inputs(latents, probes, classes)
            errors = []
            for start in range(0, len(latents), self.rows_per_call):
                check()
                rows = slice(start, start + self.rows_per_call)
                errors.append(denoise({name: tensor[rows] for name, tensor in inputs.items()}))
            answered = np.concatenate(errors)
            return answered if classes is None else answered[:, 0]

        check()
        scores = site.engine.score(
            tensors["LATENT"],
            tensors["CELL_FLAGS"],
            evaluate=evaluate,
            budget=request.parameter("budget"),
            alpha=request.parameter("alpha"),
            classes=request.parameter("classes"),
            check=check,
            statistics=tensors.get("IMAGE_STATISTICS"),
        )
        self.meter.scored(scores, site.engine.config.classes, site.name)
        self.meter.watched(self.running[site.name], scores, site.name, self.instance)
        return scores


def denoise(inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Ask the ``denoiser`` for the errors of R rows, R at most its ``max_batch_size``.

    Parameters
    ----------
    inputs : dict of str to ndarray
        By name, as `cytoserve_scoring.classifier.engine.denoiser_inputs` makes them.

    Returns
    -------
    (R, A) ndarray of float32, one column for each class that an evaluation answers
    """
    import triton_python_backend_utils as pb_utils

    call = pb_utils.InferenceRequest(
        model_name="denoiser",
        requested_output_names=["ERROR"],
        inputs=[pb_utils.Tensor(name, values) for name, values in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = call.exec()
    if response.has_error():
        raise refused_by_callee("denoiser", response.error(), pb_utils.TritonError)
    errors: NDArray[np.float32] = pb_utils.get_output_tensor_by_name(response, "ERROR").as_numpy()
    return errors
