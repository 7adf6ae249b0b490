"""The shipped mechanism under attack: sensitivity, noise, sampling, canaries."""
