"""Training: from a spec to a finished run folder."""
