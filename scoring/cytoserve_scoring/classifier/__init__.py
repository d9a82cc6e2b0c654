"""From latents to decisions: racing the classes over noise samples, and judging what came of it."""
