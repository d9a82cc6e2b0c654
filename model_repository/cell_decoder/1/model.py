"""Single-cell image files -> crops (adapter of ``cytoserve_scoring``)."""

from cytoserve_scoring.serving.adapter import FirstStep, micrometres
from cytoserve_scoring.vision.cells import decode_cells


class TritonPythonModel(FirstStep):
    """See the model ``cell_decoder`` in docs/contract.md."""

    def answer(self, tensors, request):
        """Decode each file; one that is bad becomes a black crop with its error beside it."""
        deadline = self.admitted(request)
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
