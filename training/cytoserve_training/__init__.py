"""Training of the reference models: data, autoencoder, denoiser, detector, synthetic field."""

from cytoserve_contract import telemetry

# here, because it must come before the first import of diffusers
telemetry.switch_off()
