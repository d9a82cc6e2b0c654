"""Calibrate a site and measure a server on labelled cells: ``cytoserve calibrate`` and ``cytoserve validate``."""
