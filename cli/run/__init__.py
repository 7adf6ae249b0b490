"""Commands for one run."""
