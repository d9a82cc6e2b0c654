"""What this service is (adapter of ``cytoserve_scoring``)."""

import json

from cytoserve_scoring.adapter import TritonModel, texts
from cytoserve_scoring.service import describe


class TritonPythonModel(TritonModel):
    """See the model ``service_info`` in docs/contract.md."""

    def setup(self):
        """Read the file the export wrote; it does not change while the server runs."""
        self.info = json.dumps(describe(json.loads((self.folder / "service.json").read_text(encoding="utf-8"))))

    def answer(self, tensors, request):
        """Answer the same JSON to every query."""
        return {"INFO": texts([self.info])}
