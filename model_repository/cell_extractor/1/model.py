"""Maps -> cells and crops (adapter of ``cytoserve_scoring``)."""

from cytoserve_contract.values import KINDS
from cytoserve_scoring.serving.adapter import TritonModel
from cytoserve_scoring.vision.extraction import extract_cells


class TritonPythonModel(TritonModel):
    """See the model ``cell_extractor`` in docs/contract.md."""

    def answer(self, tensors, request):
        """Find the cells of one field."""
        cells = extract_cells(tensors["FIELD"], tensors["SEGMENTER_MAPS"], tensors["SCALE_GUESS"])
        self.meter.found(cells.kind, KINDS, cells.scale_source)
        return cells
