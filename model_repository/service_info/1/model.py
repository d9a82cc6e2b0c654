"""What this service is (adapter of ``cytoserve_scoring``)."""

import json

from cytoserve_scoring.serving.adapter import TritonModel
from cytoserve_scoring.serving.service import describe


class TritonPythonModel(TritonModel):
    """See the model ``service_info`` in docs/contract.md."""

    def setup(self):
        """Read the files the export wrote; they do not change while the server runs."""
        service = json.loads((self.folder / "service.json").read_text(encoding="utf-8"))
        scoring_file = self.folder.parents[1] / "scorer" / "1" / "scoring.json"
        self.info = json.dumps(describe(service, scoring_file))

    def answer(self, tensors, request):
        """Answer the same JSON to every query."""
        return {"INFO": self.info}
