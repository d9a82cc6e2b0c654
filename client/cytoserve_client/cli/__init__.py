"""The ``cytoserve`` command line."""
