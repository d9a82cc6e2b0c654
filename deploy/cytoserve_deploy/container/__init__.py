"""What the container runs: hash check, Triton's arguments, health probe."""
