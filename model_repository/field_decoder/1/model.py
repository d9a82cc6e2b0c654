"""Encoded image file -> pixels and the segmenter's input (adapter of ``cytoserve_scoring``)."""

import os

from cytoserve_scoring.serving.adapter import TritonModel
from cytoserve_scoring.serving.site import CALIBRATION_ENV
from cytoserve_scoring.serving.sites import chosen, names
from cytoserve_scoring.vision.imaging import decode_picture
from cytoserve_scoring.vision.scale import prepare_field


class TritonPythonModel(TritonModel):
    """See the model ``field_decoder`` in docs/contract.md."""

    def setup(self):
        """Read the names of the sites, so that an unknown one is refused before anything is decoded."""
        self.sites = names(os.environ.get(CALIBRATION_ENV))

    def answer(self, tensors, request):
        """Decode one file and resample it for the segmenter."""
        deadline = request.deadline()
        chosen(request.parameter("site"), self.sites)
        with self.meter.image():
            picture = decode_picture(tensors["IMAGE"].reshape(-1)[0])
            field = picture.pixels
            prepared = prepare_field(field, float(tensors["UM_PER_PIXEL"].reshape(-1)[0]), picture.um_per_pixel)
        self.meter.memory()
        return {
            "FIELD": field,
            "FIELD_SIZE": (field.shape[1], field.shape[0]),
            "SEGMENTER_INPUT": prepared.segmenter_input,
            "SCALE_GUESS": prepared.scale_guess,
            "DEADLINE": deadline,
        }
