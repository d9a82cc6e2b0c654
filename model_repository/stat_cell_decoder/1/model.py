"""Single-cell image files -> crops (adapter of ``cytoserve_scoring``)."""

from cytoserve_scoring.serving.cell_decoder import CellDecoder as TritonPythonModel

__all__ = ["TritonPythonModel"]
