"""Run CytoServe: the local Triton server."""

from cytoserve_contract import telemetry

telemetry.switch_off()
