"""Training of the reference models: data, autoencoder, denoiser, segmenter, synthetic field."""
