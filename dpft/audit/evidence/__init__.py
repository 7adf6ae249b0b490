"""Lower bounds on epsilon, statistics of the noise, and the report of both."""
