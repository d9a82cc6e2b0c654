"""What ties the mathematics to Triton: the models' base class, metrics, calibrations of sites, service information."""
