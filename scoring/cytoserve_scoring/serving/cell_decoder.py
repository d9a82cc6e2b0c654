"""Single-cell image files -> crops: what the models ``cell_decoder`` and ``stat_cell_decoder`` do."""

from __future__ import annotations

from typing import Any

from cytoserve_scoring.serving.adapter import FirstStep, Request, micrometres
from cytoserve_scoring.serving.admission import REQUEST_UNITS
from cytoserve_scoring.serving.outputs import Tensors
from cytoserve_scoring.vision.cells import decode_cells


class CellDecoder(FirstStep):
    """See the model ``cell_decoder`` in docs/contract.md."""

    def answer(self, tensors: Tensors, request: Request) -> dict[str, Any]:
        """Decode each file; one that is bad becomes a black crop with its error beside it."""
        files = list(tensors["IMAGE"].reshape(-1))
        with self.admitted(request, REQUEST_UNITS + len(files)) as (deadline, ticket):
            scales = micrometres(tensors["UM_PER_PIXEL"], len(files))

            def check() -> None:
                self.give_way()
                request.check(deadline)

            cells = decode_cells(files, scales, check)
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
