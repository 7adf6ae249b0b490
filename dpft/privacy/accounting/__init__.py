"""Upper bounds on epsilon from noise multiplier, sampling rate and steps."""
