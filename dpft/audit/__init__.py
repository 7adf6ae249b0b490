"""The audit of a run: its records, the training mechanism, and the trained model."""
