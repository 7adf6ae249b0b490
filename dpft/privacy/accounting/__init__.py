"""Upper bounds on epsilon for noise, rate and steps."""
