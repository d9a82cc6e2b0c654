"""Single-cell image files -> crops (adapter of ``cytoserve_scoring``)."""

from cytoserve_scoring.serving.adapter import FirstStep, micrometres
from cytoserve_scoring.serving.admission import REQUEST_UNITS
from cytoserve_scoring.vision.cells import decode_cells


class TritonPythonModel(FirstStep):
    """See the model ``cell_decoder`` in docs/contract.md."""

    def answer(self, tensors, request):
        """Decode each file; one that is bad becomes a black crop with its error beside it."""
        files = list(tensors["IMAGE"].reshape(-1))
        with self.admitted(request, REQUEST_UNITS + len(files)) as (deadline, ticket):
            scales = micrometres(tensors["UM_PER_PIXEL"], len(files))
            cells = decode_cells(files, scales, lambda: request.check(deadline))
        self.meter.images(cells.error)
        self.meter.memory()
        return {
            "CROP": cells.crop,
            "CELL_FLAGS": cells.flags,
            "IMAGE_STATISTICS": cells.statistics,
            "SCALE": cells.scale,
            "CELL_ERROR": cells.error,
            "DEADLINE": ticket,
        }
