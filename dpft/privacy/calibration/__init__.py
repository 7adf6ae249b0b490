"""Calibration: the noise multiplier that a budget needs."""
