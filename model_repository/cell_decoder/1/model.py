"""Single-cell image files -> crops (adapter of ``cytoserve_scoring``)."""

import os

from cytoserve_scoring.serving.adapter import TritonModel, micrometres
from cytoserve_scoring.serving.site import CALIBRATION_ENV
from cytoserve_scoring.serving.sites import chosen, names
from cytoserve_scoring.vision.cells import decode_cells


class TritonPythonModel(TritonModel):
    """See the model ``cell_decoder`` in docs/contract.md."""

    def setup(self):
        """Read the names of the sites, so that an unknown one is refused before anything is decoded."""
        self.sites = names(os.environ.get(CALIBRATION_ENV))

    def answer(self, tensors, request):
        """Decode each file; one that is bad becomes a black crop with its error beside it."""
        deadline = request.deadline()
        chosen(request.parameter("site"), self.sites)
        files = list(tensors["IMAGE"].reshape(-1))
        cells = decode_cells(files, micrometres(tensors["UM_PER_PIXEL"], len(files)), lambda: request.check(deadline))
        self.meter.images(cells.error)
        self.meter.memory()
        return {
            "CROP": cells.crop,
            "CELL_FLAGS": cells.flags,
            "IMAGE_STATISTICS": cells.statistics,
            "SCALE": cells.scale,
            "CELL_ERROR": cells.error,
            "DEADLINE": deadline,
        }
