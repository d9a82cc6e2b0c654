"""From latents to decisions: the classes race over noise samples, and the result is judged."""
