"""Measurements whose results stand in ``docs/`` and in the model card; each is a command."""
