"""What ties the mathematics to Triton: the models' base class, metrics, a site's calibration, service information."""
