"""What crosses a border between rooms, declared once.

================  ==================================================================================================
`tensors`         how a tensor is declared, and what an answer is checked against
`models`          every model and ensemble: its tensors, its steps, how Triton runs it
`parameters`      request parameters
`values`          what numbers stand for: kinds, decisions, flags, "not computed"
`reasons`         why a person should look at a cell
`codes`           error codes with remedy and status
`limits`          limits and physical scales
`names`           schema versions of documents, environment variables that two rooms read
`triton_config`   `models` as ``config.pbtxt``
`documents`       all of it as tables for docs/contract.md
`manifest`        the list of a model repository's files, and the check against it
`telemetry`       the variables that switch the libraries' telemetry off
================  ==================================================================================================

``make contract`` writes every generated file again; tests/contract fails when one is out of date. Standard library
only; of ours nothing but `cytoserve_files` (by `manifest` alone).
"""
