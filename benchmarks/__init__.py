"""Measurements whose results stand in ``docs/`` and in the model card; each is a command."""

from cytoserve_deploy import telemetry

telemetry.switch_off()
