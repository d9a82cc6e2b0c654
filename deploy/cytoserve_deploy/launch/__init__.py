"""The local server: Triton from the wheel, started, watched and stopped."""
