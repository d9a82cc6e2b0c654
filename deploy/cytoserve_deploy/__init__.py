"""Run CytoServe: the local Triton server."""
