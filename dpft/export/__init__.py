"""A finished run, carried away as an ordinary model: one file per format."""
