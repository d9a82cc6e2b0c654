"""Run CytoServe: the local Triton server."""

from . import telemetry

telemetry.switch_off()
