"""Measurements whose results stand in ``docs/`` and in the model card; each is a command."""

from cytoserve_contract import telemetry

telemetry.switch_off()
