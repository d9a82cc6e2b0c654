"""Checkpoints into served graphs: read, traced, checked against torch, installed with a manifest.

The command is ``cytoserve export``; from Python it is :func:`cytoserve_export.repository.export_onnx`.
"""

from cytoserve_contract import telemetry

# here, because it must come before the first import of onnxruntime or diffusers
telemetry.switch_off()
