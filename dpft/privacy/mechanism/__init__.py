"""The mechanism: plan, Poisson sampling, clipping, noise, and the private step."""
