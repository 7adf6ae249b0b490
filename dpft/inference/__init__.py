"""Build an adapted model, measure it, compute its outputs, evaluate it, and load it from a run."""
