"""The promise and what keeps it. Knows no models."""
