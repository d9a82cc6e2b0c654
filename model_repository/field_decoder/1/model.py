"""Encoded image file -> pixels and the segmenter's input (adapter of ``cytoserve_scoring``)."""

from cytoserve_scoring.serving.adapter import FirstStep
from cytoserve_scoring.serving.admission import FIELD_UNITS
from cytoserve_scoring.vision.imaging import decode_picture
from cytoserve_scoring.vision.scale import prepare_field


class TritonPythonModel(FirstStep):
    """See the model ``field_decoder`` in docs/contract.md."""

    def answer(self, tensors, request):
        """Decode one file and resample it for the segmenter."""
        with self.admitted(request, FIELD_UNITS) as (_, ticket), self.meter.image():
            picture = decode_picture(tensors["IMAGE"].reshape(-1)[0])
            field = picture.pixels
            prepared = prepare_field(field, float(tensors["UM_PER_PIXEL"].reshape(-1)[0]), picture.um_per_pixel)
        self.meter.memory()
        return {
            "FIELD": field,
            "FIELD_SIZE": (field.shape[1], field.shape[0]),
            "SEGMENTER_INPUT": prepared.segmenter_input,
            "SCALE_GUESS": prepared.scale_guess,
            "DEADLINE": ticket,
        }
