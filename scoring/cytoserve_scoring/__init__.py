"""The mathematics of CytoServe: safe decoding, scale, extraction, scoring and decisions. No Triton, no network."""
