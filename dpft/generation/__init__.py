"""What a finished run writes: synthetic data, and how good it is."""
