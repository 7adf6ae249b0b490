"""What follows from observations: lower bounds on epsilon, statistics of noise, and how both are told."""
