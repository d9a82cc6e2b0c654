"""Latents -> scores, by calls to the ``denoiser`` (adapter of ``cytoserve_scoring``)."""

from cytoserve_scoring.serving.scorer import Scorer as TritonPythonModel

__all__ = ["TritonPythonModel"]
