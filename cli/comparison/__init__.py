"""Commands for many runs."""
