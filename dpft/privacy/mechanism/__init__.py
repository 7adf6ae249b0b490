"""Plan, sampling, clipping, noise: the private step."""
